/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Turning an accepted connection away: with an answer its client understands, or with a reset.
 *
 * A refused connection belongs to the shim from then on. close(2) on a socket with unread input
 * sends a reset, which would destroy the answer on its way (RFC 9112, 9.6: close in stages). So it
 * lingers: the answer goes out, the write side is shut, and the client has a bounded time to read
 * and close. Nothing here blocks; lingering connections are attended to from the program's own
 * calls.
 *
 * They take an eighth of the descriptors that the program has left, at most: then the one that has
 * been silent for longest is answered or reset at once.
 */
#ifndef BACKPRESSURE_SHEDDING_H
#define BACKPRESSURE_SHEDDING_H

#include "base/internal.h"
#include "limits/limits.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* For a client whose request is known not to be exempt. */
#define SHEDDING_KNOWN UINT32_MAX

/*
 * Refuses the connection `fd`, accepted from the listener with this index, which becomes the shim's
 * own: by busy reply or by reset. Should the request that it still has to make turn out to be
 * exempt, it is let in by the waiting room; otherwise WHEN_FULL_HOLD parks it there. `late`: for
 * having waited longer than queue-delay. `attended`: a thread of the program comes back here soon;
 * otherwise a client that has not said yet what it wants is not waited for.
 */
void shedding_refuse(int fd, uint32_t listener, enum when_full how, bool late, bool attended);

/* Takes over `fd`, a descriptor of the shim's own for a connection whose client was answered and
 * whose write side is shut: what still comes is dropped until the client has closed, or for a
 * bounded time. */
void shedding_linger(int fd);

/* The program's descriptors have run out: ends all that linger; whether there were any. */
bool shedding_give_back(void);

/* Whether connections linger, so that somebody must come back within a few milliseconds. */
extern INTERNAL _Atomic uint32_t shedding_lingering_count;

static inline bool shedding_lingering(void)
{
    return atomic_load_explicit(&shedding_lingering_count, memory_order_relaxed) != 0;
}

/* While connections linger: moves them on, answers those whose request came, closes those that are
 * done. */
void shedding_attend(void);

/* The number `fd` was closed under the shim, or taken over by dup2. */
void shedding_forget(int fd);

/* In a forked child: its copies of the parent's lingering connections are closed. */
/* Closes all that linger, whether their clients have read the answer or not. */
void shedding_let_everybody_go(void);

void shedding_after_fork_in_child(void);

#endif
