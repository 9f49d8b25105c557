/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What poll and select do alike to keep listeners at their ceiling out of the program's sight, and
 * the input of connections whose output is pending (pausing.h).
 *
 * These calls have no state in the kernel: one that asks for such a listener is made without it, in
 * slices, until there is room, something else is ready, or its time is over.
 */
#ifndef BACKPRESSURE_MASKING_H
#define BACKPRESSURE_MASKING_H

#include "wait/slices.h"

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define READABLE (POLLIN | POLLRDNORM)
#define WRITABLE (POLLOUT | POLLWRNORM)

/* Whether `fd` is a listener, or an epoll set with one. */
bool masking_concerns(int fd);

/* Whether `fd` is a listener that is to be left out of the call. */
bool masking_hides(int fd);

/* Whether it is one that the kernel reports, and the program is not to see: see accepting_screen.
 */
bool masking_withholds(int fd);

/* Whether somebody waits for it with us, so that it is ready whatever the kernel says. */
bool masking_pending(int fd);

/* Whether `fd` is a connection whose input is to be left out of the call, as its output is pending.
 */
bool masking_pauses(int fd, bool reads, bool writes);

/* What every wait does for the connections' bytes; whether this one has to be looked at. */
bool masking_bytes_concerned(void);

/* How long to wait now, at most `left`; nanoseconds, -1 for ever. */
int64_t masking_next_slice(struct slices *slices, bool left_out, bool somebody_pending,
                           int64_t left);

/* NULL for a negative number: for ever. */
const struct timespec *masking_timespec(int64_t nanoseconds, struct timespec *out);

/* Of many descriptors, more than the stack may hold: mapped memory, which the caller unmaps. NULL
 * when there is none. */
void *masking_memory(size_t size);

/* Nothing is out of sight, and there is nothing to come back for. */
bool masking_calm(void);

#endif
