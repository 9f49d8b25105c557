/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * `stall`: a connection whose output has stood still at its ceiling for so long is reset.
 *
 * It stands from a write that found no room, as long as the peer acknowledges nothing (TCP_INFO's
 * tcpi_bytes_acked; for AF_UNIX, as long as the queue does not change).
 */
#ifndef BACKPRESSURE_STALLS_H
#define BACKPRESSURE_STALLS_H

#include "flows.h"

/* A write found no room; a write went through whole. */
void stalls_stands(int fd, struct flow *flow);
void stalls_moves(struct flow *flow);

/* Resets the connection if it has stood for too long; true when it did. */
bool stalls_check(int fd, struct flow *flow);

/* After limits changed: time counts from now. */
void stalls_adjust(int fd, struct flow *flow);

#endif
