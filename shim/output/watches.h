/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where the program watches each connection with epoll, and how a connection's input is kept out
 * of its sight.
 *
 * Input is withheld while any reason stands: output that is pending (pausing.h), or a request that
 * waits for its turn (FLOW_WAITS_TURN, set by whoever admits requests: struct input_gate). Nothing
 * is changed as long as the client sends nothing. Only when the kernel reports input of such a
 * connection is that taken out of what it reported, and, where it would be reported again and
 * again, out of the set. An epoll_ctl MOD reports it anew, to edge-triggered programs too
 * (epoll(7)).
 *
 *     in sight --(reported while a reason stands)--+--(edge-triggered)--> owed: the edge is used up
 *        ^                                         +--(otherwise)-------> out of sight: MOD to the
 *        |                                                                rest of what was asked
 *        +--(no reason stands any more: MOD to all that was asked)-----------+
 *
 * An error or a hang-up is never withheld. All functions are async-signal-safe and may be called
 * from any thread; those that return nothing keep errno.
 */
#ifndef BACKPRESSURE_WATCHES_H
#define BACKPRESSURE_WATCHES_H

#include "output/flows.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#define WATCHES_READABLE (EPOLLIN | EPOLLRDNORM)
#define WATCHES_WRITABLE (EPOLLOUT | EPOLLWRNORM)
#define WATCHES_BROKEN (EPOLLERR | EPOLLHUP)

/* --- requests that wait for their turn --- */

/*
 * Who decides whether a request may begin, while flows_mode() has FLOWS_REQUESTS. All members are
 * there, async-signal-safe, called without a lock held, and need not keep errno.
 */
struct input_gate {
    /*
     * The kernel reports input of the admitted connection at `fd`, and nothing else withholds it:
     * may the program be told now? If not, the gate has called watches_withhold, or has answered
     * the client itself.
     */
    bool (*admits)(int fd, struct flow *flow);
    /* The program watches the connection for input from now on, by epoll_ctl. */
    void (*asks)(struct flow *flow);
    /* The kernel reports an error or a hang-up of it: the program is told, and reads what there is
     * now. */
    void (*broken)(int fd, struct flow *flow);
    /* A wait of this thread begins or goes round. */
    void (*turn_begins)(void);
    /* Behind that the thread sleeps in the kernel, and is back. */
    void (*sleeps)(bool begins);
    /* The longest that the next sleep of this thread may last, in nanoseconds; -1: as it likes. */
    int64_t (*next_look_ns)(void);
    /* A descriptor of the shim's that becomes readable when some thread of this process is to look
     * again; -1 when no flow of this process waits for its turn. One thread at a time waits for it.
     */
    int (*wake_fd)(void);
    /* It was readable: makes it silent. A turn begins next. */
    void (*heard)(void);
};

/* `gate` lives for ever. Before a service is joined. */
void watches_gate(const struct input_gate *gate);

extern INTERNAL const struct input_gate *watches_gate_there;

/* The gate, if requests are limited now; or NULL. */
static inline const struct input_gate *watches_gate_in_force(void)
{
    return __builtin_expect(flows_mode() & FLOWS_REQUESTS, 0) ? watches_gate_there : NULL;
}

/* The same as the mode was last worked out. One load: where to miss a change just made is no harm.
 */
static inline const struct input_gate *watches_gate_as_seen(void)
{
    uint32_t mode = atomic_load_explicit(&flows_mode_now, memory_order_relaxed);
    return __builtin_expect(mode & FLOWS_REQUESTS, 0) ? watches_gate_there : NULL;
}

/*
 * Its input is withheld from now on, with an event at hand or without (a read that found nothing).
 * Before the request can be given its turn, so that a release by another thread comes behind it.
 */
void watches_withhold(struct flow *flow);

/* It has its turn, or was answered: what the program was not told of is reported anew, if nothing
 * else withholds it. */
void watches_release(struct flow *flow);

/*
 * For poll and select: whether `flow` waits for its turn, so that its input is left out of the
 * call. If so, watches_release rings `waker` (wakers.h; -1: nobody is to be woken), until
 * watches_awaits_no_more.
 */
bool watches_awaits(struct flow *flow, int waker);
void watches_awaits_no_more(struct flow *flow, int waker);

/* The epoll set that watches it, as last seen; -1 when none does. */
static inline int watches_set_of(const struct flow *flow)
{
    return atomic_load_explicit(&flow->set, memory_order_relaxed);
}

/* --- reasons --- */

/* Whether any reason stands. */
static inline bool watches_reason(uint32_t signs)
{
    return signs & FLOW_WAITS_TURN || (signs & FLOW_SIGNS && !(signs & FLOW_FALSE_SIGN));
}

static inline bool watches_withheld(const struct flow *flow)
{
    return watches_reason(flow_signs(flow));
}

/* Sets and clears signs among which reasons may be. The second one gives back what was withheld
 * when no reason is left. */
void watches_change(struct flow *flow, uint32_t set, uint32_t clear);
void watches_resume(struct flow *flow, uint32_t set, uint32_t clear);

/* Edge-triggered programs were told of input that a read did not get whole: told again. */
void watches_report_again(struct flow *flow);

/* --- epoll_ctl --- */

/* What follows for pausing's signs from what the program asks for. */
struct watches_signs {
    uint32_t set, clear;
};

/* epoll_ctl(2) for an admitted connection, with its errors. */
int watches_control(struct flow *flow, int set, int operation, int fd, struct epoll_event *event,
                    struct watches_signs signs);

/*
 * Before `fd` is closed. Its number may be another connection's the moment it is, and events are
 * told apart by what the program put there, which is mostly the number: what is remembered of the
 * old one must not be taken for the new one's.
 */
void watches_closes(int fd, struct flow *flow);

/* --- what the kernel reported --- */

/* Whether anything may have to be taken out of a result. Two loads. */
bool watches_active(void);

/* Whose event it is; NULL when that is not known, or is no connection's. */
struct flow *watches_find(int set, uint64_t data);

/* With EPOLLONESHOT: whether the program may be told; it may not when it was, and has not armed the
 * descriptor again since. Before we ever armed it ourselves, the kernel sees to that. */
bool watches_hand_out(struct flow *flow);

/* Takes input out of the event while a reason stands; else the event stays as it is. Both return
 * false when nothing remains of it. The second one is for what the gate did not admit. */
bool watches_take_out(struct flow *flow, struct epoll_event *event);
bool watches_refuse(struct flow *flow, struct epoll_event *event);

/* Forgets who is gone, and gives back what waits for its turn when that ends. */
extern const struct flow_feature watches_feature;

#endif
