/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The one loop in which epoll, poll and select wait while something is out of the program's sight,
 * or has to be come back for: in slices (slices.h), until something that the program may see is
 * ready or its time is over. What is due on each turn is done here, and nowhere else.
 */
#ifndef BACKPRESSURE_WAIT_LOOP_H
#define BACKPRESSURE_WAIT_LOOP_H

#include "output/flows.h"
#include "wait/slices.h"

#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

struct wait;

/* What one of the calls does on each turn. */
struct wait_operations {
    /* Leaves out of the call what the program is not to see now; sets what is said below to be its
     * to set. */
    void (*prepare)(struct wait *wait);
    /* Asks the kernel for at most sleep_ns, with the signal mask `opened` (NULL: as it is), and
     * with wait_loop_bells. Returns what the call does; a cancellation point. */
    int (*ask)(struct wait *wait);
    /* Undoes what prepare did to be woken; also when the thread is cancelled in `ask`. */
    void (*leave)(struct wait *wait);
    /* What is left, of `reported` descriptors, to be told; -1 with errno. */
    int (*settle)(struct wait *wait, int reported);
};

/* One call: the first member of what each kind of call keeps. */
struct wait {
    const struct wait_operations *operations;
    struct slices slices;
    const sigset_t *signals; /* the program's own mask for this call, or NULL */
    int set;                 /* the epoll set, or -1 */
    bool accepts;            /* listeners may be among what it waits for */
    /* set by prepare: */
    bool hides;     /* a listener is out of sight that this wait has to look after */
    bool pending;   /* somebody is in the waiting room for a listener that it waits for */
    bool has_turns; /* requests that wait for their turn may be among what it waits for */
    int waker;      /* by wait_loop_awaits; -1: none */
    /* for ask: */
    int64_t sleep_ns; /* -1: for ever */
    const sigset_t *opened;
    int wake_fd;   /* the process's, when this thread is who waits for it; else -1 */
    bool sleeping; /* the gate was told so */
    /* set by ask: */
    bool cut_short; /* it came back before its time, though nothing is ready */
};

/*
 * A wait of this thread begins while limits concern bytes or requests, as `mode` of flows_mode()
 * says: every connection has a new turn, and what is due is done. Whether the wait has to go
 * through wait_loop_run, because it may not last as long as the program says.
 */
bool wait_loop_concerned(uint32_t mode);

/* Waits. What the call returns; errno as it leaves it. Ends the slices. */
int wait_loop_run(struct wait *wait);

/* The child has one thread, which waits for nothing. */
void wait_loop_after_fork_in_child(void);

/* For `prepare` of poll and select: whether the connection `flow` is left out of the call since it
 * waits for its turn; this thread is then woken for it, until wait_loop_awaits_no_more. */
bool wait_loop_awaits(struct wait *wait, struct flow *flow);
void wait_loop_awaits_no_more(const struct wait *wait, struct flow *flow);

/* What `ask` waits for besides: how many entries of `bells` were filled in; and what became of
 * them. */
#define WAIT_BELLS_MOST 2
unsigned wait_loop_bells(const struct wait *wait, struct pollfd bells[WAIT_BELLS_MOST]);
void wait_loop_heard(struct wait *wait, const struct pollfd *bells, unsigned count);

#endif
