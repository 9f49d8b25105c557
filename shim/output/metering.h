/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How much of a connection's input a program is handed at a time.
 *
 * A program that queues output in its own memory can be made to queue gigabytes by one read: 16 KiB
 * of requests for a large object. So each turn (from one wait for readiness to the next) hands over
 * no more input than the connection's grant will hold output for, judged by its own ratio of bytes
 * written to bytes read, and at most twice what has gone well before. A short read is always legal
 * on a stream; what was not handed over is reported ready again.
 *
 * While there is credit to spare (credit.h), as much is handed over as leads to no more than the
 * connection's part of that, judged by the dearest connection of late: that is all there is,
 * mostly, and the first read of a connection, too. Without, nothing is known of a new connection
 * but that a few bytes may ask for a great deal.
 *
 * Only for non-blocking descriptors: a blocking writer stops by itself.
 */
#ifndef BACKPRESSURE_METERING_H
#define BACKPRESSURE_METERING_H

#include "output/flows.h"

#include <stddef.h>

/* A wait for readiness begins: every connection has a new turn. */
void metering_new_turn(void);

/* How many of the `asked` bytes may be read now; 0 is EAGAIN. */
size_t metering_allowance(struct flow *flow, size_t asked);

/* `taken` bytes were read, of `allowed` when `asked` were wanted. */
void metering_took(struct flow *flow, size_t asked, size_t allowed, size_t taken);

/* A write of `bytes` found no room: what the last turn's input led to is now known to be much. */
void metering_overflowed(struct flow *flow, size_t bytes);

#endif
