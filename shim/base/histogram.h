/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How often a time was how long: what percentiles, and Prometheus' histograms, are made of.
 *
 * Lock-free and in shared memory. The bounds are fixed, so that two readings can be subtracted.
 */
#ifndef BACKPRESSURE_HISTOGRAM_H
#define BACKPRESSURE_HISTOGRAM_H

#include <stdatomic.h>
#include <stdint.h>

#define HISTOGRAM_BOUNDS 28
#define HISTOGRAM_BUCKETS (HISTOGRAM_BOUNDS + 1) /* the last is for what exceeds every bound */

/* The upper bound of each bucket but the last, in microseconds; ascending. */
extern const uint32_t histogram_bound_us[HISTOGRAM_BOUNDS];

struct histogram {
    _Atomic uint64_t bucket[HISTOGRAM_BUCKETS];
    _Atomic uint64_t sum_us;
};

/* Counts one time. Async-signal-safe. */
void histogram_add(struct histogram *histogram, uint64_t ns);

/* Adds what `from` has to `to`, and leaves `from` empty. What is counted meanwhile is in one of
 * them. */
void histogram_move(struct histogram *from, struct histogram *to);

/* A histogram as it was at one moment. */
struct histogram_reading {
    uint64_t bucket[HISTOGRAM_BUCKETS];
    uint64_t count, sum_us;
};

void histogram_read(const struct histogram *histogram, struct histogram_reading *reading);

/* Adds `more` to `sum`. */
void histogram_join(struct histogram_reading *sum, const struct histogram_reading *more);

/* What came to `later` after `earlier` was read. A count that went back was scribbled on, and gives
 * 0. */
void histogram_since(const struct histogram_reading *earlier, const struct histogram_reading *later,
                     struct histogram_reading *difference);

/*
 * The time that `share` (0 to 1) of the times do not exceed, in microseconds, interpolated within
 * its bucket as Prometheus' histogram_quantile does; 0 when nothing was counted.
 */
double histogram_quantile_us(const struct histogram_reading *reading, double share);

#endif
