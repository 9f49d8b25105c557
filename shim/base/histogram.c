/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/histogram.h"

#include <string.h>

const uint32_t histogram_bound_us[HISTOGRAM_BOUNDS] = {
    100,     200,     500,     1000,    2000,     3000,     5000,     7000,     10000,  15000,
    20000,   30000,   50000,   70000,   100000,   150000,   200000,   300000,   500000, 700000,
    1000000, 2000000, 3000000, 5000000, 10000000, 20000000, 30000000, 60000000,
};

void histogram_add(struct histogram *histogram, uint64_t ns)
{
    uint64_t us = ns / 1000;
    unsigned low = 0, high = HISTOGRAM_BOUNDS;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (us <= histogram_bound_us[middle])
            high = middle;
        else
            low = middle + 1;
    }
    atomic_fetch_add_explicit(&histogram->bucket[low], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&histogram->sum_us, us, memory_order_relaxed);
}

void histogram_move(struct histogram *from, struct histogram *to)
{
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        atomic_fetch_add(&to->bucket[i], atomic_exchange(&from->bucket[i], 0));
    atomic_fetch_add(&to->sum_us, atomic_exchange(&from->sum_us, 0));
}

void histogram_read(const struct histogram *histogram, struct histogram_reading *reading)
{
    memset(reading, 0, sizeof *reading);
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        reading->count += reading->bucket[i] =
            atomic_load_explicit(&histogram->bucket[i], memory_order_relaxed);
    reading->sum_us = atomic_load_explicit(&histogram->sum_us, memory_order_relaxed);
}

void histogram_join(struct histogram_reading *sum, const struct histogram_reading *more)
{
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        sum->bucket[i] += more->bucket[i];
    sum->count += more->count;
    sum->sum_us += more->sum_us;
}

static uint64_t gain(uint64_t earlier, uint64_t later)
{
    return later > earlier ? later - earlier : 0;
}

void histogram_since(const struct histogram_reading *earlier, const struct histogram_reading *later,
                     struct histogram_reading *difference)
{
    struct histogram_reading since = {.sum_us = gain(earlier->sum_us, later->sum_us)};
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        since.count += since.bucket[i] = gain(earlier->bucket[i], later->bucket[i]);
    *difference = since;
}

double histogram_quantile_us(const struct histogram_reading *reading, double share)
{
    double rank = share * (double)reading->count, below = 0;
    for (unsigned i = 0; i < HISTOGRAM_BOUNDS; i++) {
        double here = (double)reading->bucket[i];
        double floor = i ? histogram_bound_us[i - 1] : 0;
        if (here > 0 && below + here >= rank)
            return floor + (histogram_bound_us[i] - floor) * (rank - below) / here;
        below += here;
    }
    return reading->count ? histogram_bound_us[HISTOGRAM_BOUNDS - 1] : 0;
}
