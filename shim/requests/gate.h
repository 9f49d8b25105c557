/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the rooms below ask of this floor: whether input that the kernel reports may be told to the
 * program, what is due on each turn of a wait, and what reads and writes come to.
 */
#ifndef BACKPRESSURE_REQUESTS_GATE_H
#define BACKPRESSURE_REQUESTS_GATE_H

#include "output/flows.h"
#include "output/watches.h"

extern const struct input_gate requests_gate;
extern const struct flow_requests requests_calls;

/* Before a descriptor of the connection is closed. */
void requests_closes(int fd, struct flow *flow);

#endif
