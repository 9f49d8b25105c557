/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Places under the ceilings, reserved before the kernel's accept, so that the counts are never too
 * low: the half of connections.h that knows counts, and no slots.
 */
#ifndef BACKPRESSURE_RESERVATION_H
#define BACKPRESSURE_RESERVATION_H

#include "internal.h"

/* What connections_serve was given. */
struct connection_features;
extern INTERNAL const struct connection_features *connection_features;

/* Around each change of slots and their counts: audits see `pending` of the process raised
 * meanwhile. Nests; async-signal-safe. */
void reservation_change_begins(void);
void reservation_change_ends(void);

#endif
