/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What happened to a service between two looks at it.
 */
#ifndef BPCTL_RATES_H
#define BPCTL_RATES_H

#include "services.h"

/* Per second, and the times that were measured meanwhile. */
struct rates {
    double admitted, held, shed, reads_paused, connect_retries;
    double requests_begun, requests_held, requests_shed;
    struct histogram_reading accept_wait, sojourn, request_sojourn, response;
};

/* `seconds` passed between the two; 0 gives no rates. */
void rates_between(const struct service_view *before, const struct service_view *after,
                   double seconds, struct rates *rates);

/* How full a ceiling is. */
struct fullness {
    const char *what;
    char whose[SEGMENT_ADDRESS_MAX + 16]; /* the process, peer or listener; empty: the service */
    double used, ceiling;
    enum { UNIT_COUNT, UNIT_BYTES, UNIT_RATE } unit;
};

#define FULLNESS_MAX (16 + SEGMENT_LISTENERS)

/* Every ceiling that is set, and where it is nearest to being reached; returns how many. */
unsigned rates_fullness(const struct service_view *view, const struct rates *rates,
                        struct fullness out[FULLNESS_MAX]);

#endif
