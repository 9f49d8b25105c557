/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who is let in: what stands behind accept and accept4.
 */
#ifndef BACKPRESSURE_ADMISSION_H
#define BACKPRESSURE_ADMISSION_H

#include "listeners.h"
#include "service.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

/*
 * accept4(2), with its errors, for a program whose ceilings may be reached: a blocking listener
 * then waits for a slot as it would wait for a client (EINTR, SO_RCVTIMEO and cancellation
 * included), a non-blocking one has nobody to accept (EAGAIN), or clients are refused, as
 * `when-full` says.
 */
int admission_accept(int fd, struct sockaddr *address, socklen_t *length, int flags);

/* The same for accept(2), which is left to be accept where a sandbox may know no accept4. */
int admission_accept_plain(int fd, struct sockaddr *address, socklen_t *length);

/* Whether the program is to see this listener as ready, when the kernel says that it is. */
bool admission_visible(struct listener *listener);

/* The same, without a note that it is. */
bool admission_lets_in(const struct listener *listener);

/* Whether all are, and no client is turned away before the program is told: a look at the counts.
 */
bool admission_all_visible(void);

/*
 * What a wait makes of a listener that the kernel reports readable. Clients that the program's
 * accept would turn away are turned away here, so that it finds somebody when it was told that
 * there is somebody. To see whether one is to be turned away it may have to be accepted: then it
 * waits in the waiting room for the program's accept, which is reported all the same.
 */
enum report {
    REPORT_NOW,
    REPORT_LATER,  /* somebody waits, for a slot or because enough were turned away at a time */
    REPORT_NOBODY, /* they are gone */
};
enum report admission_screen(struct listener *listener, int fd);

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
 * the kernel. Some fifty instructions; false now and then although it is calm, and while a limit
 * concerns bytes (flows_idle), which may leave no room for newcomers either.
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
