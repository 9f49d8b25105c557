/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "policy/patience.h"

#define SECOND UINT64_C(1000000000)
/* What is remembered fades: a time of day at which clients were impatient says nothing of the next.
 */
#define REMEMBERED_NS (10 * SECOND)
#define WEIGHT 8 /* of what was known before a sample, less one */
#define FRESH_NUMERATOR 3
#define FRESH_DENOMINATOR 4
#define ELDEST_EVERY 8

static bool remembered(const struct segment_patience *state, uint64_t now)
{
    uint64_t seen = atomic_load_explicit(&state->seen_ns, memory_order_relaxed);
    return seen && now - seen < REMEMBERED_NS;
}

void patience_gave_up(struct segment_patience *state, uint64_t waited_ns, uint64_t now)
{
    uint64_t mean = atomic_load_explicit(&state->mean_ns, memory_order_relaxed);
    if (!remembered(state, now) || mean == 0)
        mean = waited_ns;
    mean = (mean * (WEIGHT - 1) + waited_ns) / WEIGHT;
    atomic_store_explicit(&state->mean_ns, mean, memory_order_relaxed);
    atomic_store_explicit(&state->seen_ns, now, memory_order_relaxed);
}

uint64_t patience_fresh(const struct segment_patience *state, uint64_t now)
{
    uint64_t mean = atomic_load_explicit(&state->mean_ns, memory_order_relaxed);
    if (mean == 0 || !remembered(state, now))
        return UINT64_MAX;
    return mean / FRESH_DENOMINATOR * FRESH_NUMERATOR;
}

bool patience_of_eldest(struct segment_patience *state)
{
    return atomic_fetch_add_explicit(&state->places, 1, memory_order_relaxed) % ELDEST_EVERY == 0;
}
