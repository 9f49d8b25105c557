/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How long a client waits before it tries again, and how often it may.
 *
 * The n-th retry (from 0) waits min(cap, base * 2^n) with jitter: `full` draws it from 0 on,
 * `equal` keeps half of it, `none` all (Brooker, "Exponential Backoff And Jitter", 2015).
 *
 * Retries have a budget, so that they do not make an outage worse: in any ten seconds a process
 * makes as many as one connect may (ten at least), and a share of its connects besides (as
 * Finagle's RetryBudget; "Handling Overload", Site Reliability Engineering, 2016).
 *
 * Pure: chance and the clock are the caller's. Lock-free and async-signal-safe.
 */
#ifndef BACKPRESSURE_RETRY_SCHEDULE_H
#define BACKPRESSURE_RETRY_SCHEDULE_H

#include "limits/limits.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define RETRY_DOUBLINGS_MOST 32
#define RETRY_BUDGET_SECONDS 10

/* The n-th wait without jitter, in the unit of `base` and `cap`, which are below 2^32. */
static inline uint64_t retry_longest(uint64_t base, uint64_t cap, uint32_t retry)
{
    uint64_t wait = base << (retry < RETRY_DOUBLINGS_MOST ? retry : RETRY_DOUBLINGS_MOST);
    return wait < cap ? wait : cap;
}

/* The wait with jitter; `draw(n)` returns a number from 0 to n, all as likely. */
uint64_t retry_jittered(uint64_t longest, enum jitter jitter, uint64_t (*draw)(uint64_t most));

/* What was done of late: a place for each of the last seconds. */
struct retry_budget {
    struct {
        _Atomic uint64_t second; /* which one the counts are of */
        _Atomic uint32_t connects, retries;
    } late[RETRY_BUDGET_SECONDS];
};

/* A connect began in this second. */
void retry_budget_connects(struct retry_budget *budget, uint64_t second);

/*
 * Takes a retry from the budget; false when there is none. `thousandths` of a retry come with each
 * connect, LIMIT_OFF is no budget at all; `each` is how many retries one connect may make.
 */
bool retry_budget_take(struct retry_budget *budget, uint64_t second, uint64_t thousandths,
                       uint64_t each);

#endif
