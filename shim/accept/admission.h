/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether anybody is let in at a listener now, and whether the program sees it as ready.
 */
#ifndef BACKPRESSURE_ADMISSION_H
#define BACKPRESSURE_ADMISSION_H

#include "fd/listeners.h"
#include "process/service.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

/* What waits of the program do for listeners; async-signal-safe, errno is not kept. */
struct admission_waits {
    /* Puts back everything that is out of the program's sight. */
    void (*show_everything)(void);
    /* A non-blocking accept was told EAGAIN: where edges count, the next one must come. */
    void (*hold)(int fd);
    /* Reports the listener anew to a thread that waits for it. False when nobody does. */
    bool (*report_again)(int fd);
};

/* `waits` live for ever. Before a service is joined. */
void admission_serve(const struct admission_waits *waits);

/* Whether the program is to see this listener as ready, when the kernel says that it is. */
bool admission_visible(struct listener *listener);

/* The same, without a note that it is. */
bool admission_lets_in(const struct listener *listener);

/* Whether all are, and no client is turned away before the program is told: a look at the counts.
 */
bool admission_all_visible(void);

/* Under hold, at the ceiling: whether somebody is accepted all the same, to be parked or shed. */
bool admission_takes_to_look_at(const struct listener *listener);

/* Whether a client waits in the kernel's queue just now. A system call. */
bool admission_client_waits(int fd);

/* What struct admission_waits says of them. */
void admission_hold(int fd);
bool admission_report_again(int fd);

/* Whether no listener whatever is visible now. */
bool admission_shut(void);

/* Records, once until it is visible again, that clients wait for a slot at `fd`, if they do. */
void admission_holds(struct listener *listener, int fd);

/* Whether it is to see it as ready whatever the kernel says: somebody waits in the waiting room. */
bool admission_pending(const struct listener *listener);

/*
 * What is done on every turn of a wait at the ceiling: audits that are due, refusals that linger,
 * gates. Cheap when there is nothing to do.
 */
void admission_attend(void);

/* What admission_active comes to where service.hindered is not 0. After the shim has let go of a
 * damaged segment it puts the program's listeners back as they would be without it, once. */
bool admission_hindered(bool active);

/* Whether ceilings on connections hold here. The first call after the shim has let go sees to the
 * listeners. */
static inline bool admission_active(void)
{
    bool active = service_intact();
    if (__builtin_expect(atomic_load_explicit(&service.hindered, memory_order_relaxed) != 0, 0))
        return admission_hindered(active);
    return active;
}

/* Before a seccomp filter: what was done to the program's listeners is undone, and nobody is left
 * waiting for the shim. */
void admission_before_sandbox(void);

/*
 * Whether there is room, and nothing that admission_attend sees to: then a wait can go straight to
 * the kernel, unless a limit concerns bytes (flows_idle), which may leave no room for newcomers
 * either. Some fifty instructions; false now and then although it is calm.
 */
bool admission_calm(void);

/* Whether somebody must come back to do so, though no descriptor became ready. */
bool admission_needs_attention(void);

/* Of these, what no other process can see to: gates are everybody's. */
bool admission_needs_attention_here(void);

/* Whether any wait of this process was for a listener, so that accept may come of a report. */
extern INTERNAL _Atomic bool admission_waited_for;

static inline void admission_waits_for_listener(void)
{
    atomic_store_explicit(&admission_waited_for, true, memory_order_relaxed);
}

#endif
