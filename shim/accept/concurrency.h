/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A ceiling that finds itself: `conns=auto` for each process, `total-conns=auto` for the service,
 * by the rule that policy/auto_limit.h has. The shim sees when a request came and when the program
 * first answered it.
 */
#ifndef BACKPRESSURE_CONCURRENCY_H
#define BACKPRESSURE_CONCURRENCY_H

#include "segment/layout.h"

#include <stdbool.h>
#include <stdint.h>

/* Whether a ceiling of this process finds itself. */
bool concurrency_wanted(void);

/* An answer began. `sojourn_ns` is how long its request was in the program, 0 when not measured. */
void concurrency_answered(uint64_t sojourn_ns);

/* An answer, for concurrency_follow: how long its request took, in nanoseconds, 0 when not
 * measured; the time (monotonic); and which event tells of a ceiling that moved far. */
struct concurrency_answer {
    uint64_t ns, now;
    enum event_kind event;
};

/* Has a ceiling that finds itself follow an answer, with so many `inside`; whether it was raised.
 * False where `limit` is not auto. errno need not be kept. */
bool concurrency_follow(struct segment_concurrency *found, uint64_t limit,
                        const struct gauge *inside, struct concurrency_answer taken);

#endif
