/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How long many things took, and how evenly clients were served. */
#ifndef TESTS_BENCH_TALLY_H
#define TESTS_BENCH_TALLY_H

#include <stddef.h>

/* All zero: none yet. It grows as it must; nobody frees it before the program ends. */
struct times {
    double *ms;
    size_t count, room;
};

void times_note(struct times *times, double ms);

/* In milliseconds: what `share` (0 to 1) of them took at most; 0 where there are none. Sorts them.
 */
double times_percentile(struct times *times, double share);

/* Jain's index over what each client was served: 1 where all had the same, 1 / clients where one
 * had all. */
double fairness(const unsigned *served, size_t clients);

#endif
