/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Entries for connections while a limit concerns requests: they begin, change with the limits, and
 * end.
 */
#ifndef BACKPRESSURE_REQUESTS_H
#define BACKPRESSURE_REQUESTS_H

#include "output/flows.h"

extern const struct flow_feature requests_feature;

#endif
