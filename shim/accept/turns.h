/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Turns at a listener that blocks: one thread at a time, of all processes that have it, is between
 * poll and accept, so that nobody waits in the kernel's accept with a slot reserved.
 *
 * A turn is a lease (lease_lock.h). It is taken over from a process that is gone, and from one that
 * gave no sign of life for LEASE_NS: stopped, frozen, or starved. Such a one may go on at any time,
 * right in front of its accept, for a client that another has accepted meanwhile. So before a turn
 * is taken over from a process that lives, the listener gets O_NONBLOCK: then that accept finds
 * nobody, and its slot is given back. The flag is taken off again at the end of a turn, when each
 * process that was overtaken has noticed or is gone. The kernel has it in the open file (open(2)),
 * which all who have the listener share.
 */
#ifndef BACKPRESSURE_TURNS_H
#define BACKPRESSURE_TURNS_H

#include "fd/listeners.h"

#include <stdbool.h>

struct turn {
    struct segment_turn *at;
    lease lease;
};

/*
 * Waits for a turn at `listener`, whose descriptor is `fd`; `turn` gets what the other calls want.
 * False as soon as `worth_it` says that the wait is in vain. Callers hold back cancellation.
 */
bool turns_take(struct listener *listener, int fd, bool (*worth_it)(const struct listener *),
                struct turn *turn);

/* A turn goes on: whoever waits knows that its holder is well. False when it was taken over. */
bool turns_keep(struct turn *turn);

/* Ends a turn, also one that was taken over. `fd` as before. */
void turns_give(struct turn *turn, int fd);

#endif
