/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A ceiling that finds itself: `conns=auto` for each process, `total-conns=auto` for the service,
 * by the rule that policy/auto_limit.h has. The shim sees when a request came and when the program
 * first answered it.
 */
#ifndef BACKPRESSURE_CONCURRENCY_H
#define BACKPRESSURE_CONCURRENCY_H

#include <stdbool.h>
#include <stdint.h>

/* Whether a ceiling of this process finds itself. */
bool concurrency_wanted(void);

/* An answer began. `sojourn_ns` is how long its request was in the program, 0 when not measured. */
void concurrency_answered(uint64_t sojourn_ns);

#endif
