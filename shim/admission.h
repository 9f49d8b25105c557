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

/* Whether the program is to see this listener as ready, when the kernel says that it is. */
bool admission_visible(struct listener *listener);

/* The same, without a note that it is. */
bool admission_lets_in(const struct listener *listener);

/* Whether all are, by a look at the counts alone. */
bool admission_all_visible(void);

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

/* After the shim has let go of a damaged segment: puts the program's listeners back as they would
 * be without it, once. */
void admission_let_go(void);

/* Whether the shim still works here. The first call after it has let go sees to the listeners. */
static inline bool admission_active(void)
{
    bool active = service_intact();
    if (__builtin_expect(atomic_load_explicit(&service.detached, memory_order_relaxed), 0))
        admission_let_go();
    return active;
}

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

extern _Thread_local unsigned admission_idle_accepts __attribute__((tls_model("initial-exec")));

/* The thread went to wait for descriptors, so its EAGAINs were no busy loop. */
static inline void admission_thread_waits(void)
{
    admission_idle_accepts = 0;
}

#endif
