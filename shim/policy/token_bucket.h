/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A token bucket kept as one word: the time at which the next token is due, after ITU-T I.371's
 * virtual scheduling. Pure: the word and the clock are the caller's, so that many processes can
 * share a bucket. All times in nanoseconds. Lock-free and async-signal-safe.
 */
#ifndef BACKPRESSURE_TOKEN_BUCKET_H
#define BACKPRESSURE_TOKEN_BUCKET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct token_bucket {
    uint64_t period_ns; /* between two tokens */
    uint64_t burst;     /* how many may be taken at once; 0 is the same as 1 */
};

/* The bucket of a limit, LIMIT_PAIR(tokens per second, burst). */
static inline struct token_bucket token_bucket_of(uint64_t limit)
{
    uint64_t rate = limit >> 32;
    return (struct token_bucket){.period_ns = rate ? UINT64_C(1000000000) / rate : 0,
                                 .burst = (uint32_t)limit};
}

/* How long until there is a token, when the word reads `next`; 0 when there is one. */
static inline uint64_t token_bucket_wait(struct token_bucket bucket, uint64_t next, uint64_t now)
{
    uint64_t allowance = bucket.burst ? (bucket.burst - 1) * bucket.period_ns : 0;
    return next > now + allowance ? next - now - allowance : 0;
}

/* Takes a token; false when there is none. */
static inline bool token_bucket_take(struct token_bucket bucket, _Atomic uint64_t *word,
                                     uint64_t now)
{
    uint64_t next = atomic_load(word), after;
    do {
        if (token_bucket_wait(bucket, next, now) > 0)
            return false;
        after = (next > now ? next : now) + bucket.period_ns;
    } while (!atomic_compare_exchange_weak(word, &next, after));
    return true;
}

/* Gives a token back that was taken and not used. */
static inline void token_bucket_give(struct token_bucket bucket, _Atomic uint64_t *word)
{
    atomic_fetch_sub(word, bucket.period_ns);
}

/* Puts `cost_ns` on the bill, whether there is room for it or not. */
static inline void token_bucket_charge(_Atomic uint64_t *word, uint64_t cost_ns, uint64_t now)
{
    uint64_t before = atomic_load(word), after;
    do {
        after = (before > now ? before : now) + cost_ns;
    } while (!atomic_compare_exchange_weak(word, &before, after));
}

#endif
