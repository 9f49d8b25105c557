/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * `conn-send-rate` and `send-rate`, by the kernel's pacing (SO_MAX_PACING_RATE, socket(7)).
 *
 * The process's rate is dealt out anew ten times a second: those that send less than their share
 * keep what they need, and the others share the rest evenly (max-min fairness). A connection is
 * told its share when it next writes. TCP does not pace a connection's first ten segments (they are
 * 64 KiB each on loopback, 14 KiB together on Ethernet); AF_UNIX knows no pacing.
 */
#ifndef BACKPRESSURE_PACING_H
#define BACKPRESSURE_PACING_H

#include "output/flows.h"

/* Before a write on `fd`: tells the kernel its rate, if that is due. */
void pacing_writes(int fd, struct flow *flow);

/* After a write that came back short: it wants more than it gets. */
void pacing_fell_short(struct flow *flow);

/* First rates for new connections; in line with the limits when those change. */
extern const struct flow_feature pacing_feature;

#endif
