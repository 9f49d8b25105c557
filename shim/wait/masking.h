/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What poll and select do alike to keep listeners at their ceiling out of the program's sight, and
 * the input of connections that is withheld (watches.h).
 *
 * These calls have no state in the kernel: one that asks for such a listener is made without it, in
 * slices, until there is room, something else is ready, or its time is over.
 */
#ifndef BACKPRESSURE_MASKING_H
#define BACKPRESSURE_MASKING_H

#include "output/watches.h"
#include "wait/wait_loop.h"

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define READABLE (POLLIN | POLLRDNORM)
#define WRITABLE (POLLOUT | POLLWRNORM)

/* Whether `fd` is a listener that is to be left out of the call. */
bool masking_hides(int fd);

/* Whether it is one that the kernel reports, and the program is not to see: see accepting_screen.
 */
bool masking_withholds(int fd);

/* Whether somebody waits for it with us, so that it is ready whatever the kernel says. */
bool masking_pending(int fd);

/* Whether input of a connection may have to be left out of a call that asks for it, in this mode of
 * flows_mode(); `writes`: it asks for writability, too. */
static inline bool masking_reaches(uint32_t mode, bool writes)
{
    return mode & FLOWS_REQUESTS || (writes && mode & FLOWS_PAUSE);
}

/* Of what is asked of the connection `fd`, input included, what is left out of the call while its
 * input is withheld. If that is for a request that waits for its turn, this thread is woken for it,
 * until masking_awaits_no_more. */
short masking_leaves_out(struct wait *wait, int fd, short asked);
void masking_awaits_no_more(const struct wait *wait, int fd);

/* Of `events` of the connection `fd`, of poll, that the kernel reports: what the program is told.
 */
short masking_admits(int fd, short events);

/* NULL for a negative number: for ever. */
const struct timespec *masking_timespec(int64_t nanoseconds, struct timespec *out);

/* Of many descriptors, more than the stack may hold: mapped memory, which the caller unmaps. NULL
 * when there is none. */
void *masking_memory(size_t size);

/* Nothing is out of sight, and there is nothing to come back for. */
bool masking_calm(void);

#endif
