/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A bounded count that many processes raise and lower without a lock.
 *
 * The lower half of the word is the count; the upper half is an epoch that every change moves on,
 * so that an audit which recounted the truth can tell that nothing happened meanwhile. The count
 * is raised before a connection exists and lowered after it is gone: whatever step a process is
 * killed at, the count can be too high, never too low.
 */
#ifndef BACKPRESSURE_GAUGE_H
#define BACKPRESSURE_GAUGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct gauge {
    _Atomic uint64_t word;
};

#define GAUGE_EPOCH (UINT64_C(1) << 32)

static inline uint32_t gauge_count(const struct gauge *gauge)
{
    return (uint32_t)atomic_load_explicit(&gauge->word, memory_order_acquire);
}

static inline uint64_t gauge_with_count(uint64_t word, uint32_t count)
{
    return ((word & ~(GAUGE_EPOCH - 1)) + GAUGE_EPOCH) | count;
}

/* Raises the count by `amount` if that leaves it at most `ceiling`. */
static inline bool gauge_take_many(struct gauge *gauge, uint32_t amount, uint64_t ceiling)
{
    uint64_t word = atomic_load(&gauge->word);
    do {
        uint64_t count = (uint64_t)(uint32_t)word + amount;
        if (count > ceiling || count > UINT32_MAX)
            return false;
    } while (!atomic_compare_exchange_weak(&gauge->word, &word,
                                           gauge_with_count(word, (uint32_t)word + amount)));
    return true;
}

static inline bool gauge_take(struct gauge *gauge, uint64_t ceiling)
{
    return gauge_take_many(gauge, 1, ceiling);
}

/* Lowers the count by `amount`; one that an audit already mended stays at zero. */
static inline void gauge_give_many(struct gauge *gauge, uint32_t amount)
{
    uint64_t word = atomic_load(&gauge->word);
    uint32_t count;
    do {
        count = (uint32_t)word > amount ? (uint32_t)word - amount : 0;
    } while (!atomic_compare_exchange_weak(&gauge->word, &word, gauge_with_count(word, count)));
}

static inline void gauge_give(struct gauge *gauge)
{
    gauge_give_many(gauge, 1);
}

/* Tells audits that a change is under way, before what they count changes. */
static inline void gauge_touch(struct gauge *gauge)
{
    atomic_fetch_add(&gauge->word, GAUGE_EPOCH);
}

/* Puts the count to `truth`, counted after `seen` was read, unless anything changed since. */
static inline bool gauge_mend(struct gauge *gauge, uint64_t seen, uint32_t truth)
{
    return atomic_compare_exchange_strong(&gauge->word, &seen, gauge_with_count(seen, truth));
}

/* Raises the highest value that there ever was, if `value` is above it. */
static inline void gauge_raise_peak(_Atomic uint64_t *peak, uint64_t value)
{
    uint64_t seen = atomic_load_explicit(peak, memory_order_relaxed);
    while (seen < value && !atomic_compare_exchange_weak(peak, &seen, value))
        ;
}

#endif
