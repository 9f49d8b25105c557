/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "tally.h"

#include <stdlib.h>

void times_note(struct times *times, double ms)
{
    if (times->count == times->room) {
        times->room = times->room ? times->room * 2 : 4096;
        times->ms = realloc(times->ms, times->room * sizeof *times->ms);
        if (!times->ms)
            abort();
    }
    times->ms[times->count++] = ms;
}

static int by_value(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

double times_percentile(struct times *times, double share)
{
    if (!times->count)
        return 0;
    qsort(times->ms, times->count, sizeof *times->ms, by_value);
    return times->ms[(size_t)((double)(times->count - 1) * share)];
}

double fairness(const unsigned *served, size_t clients)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < clients; i++) {
        sum += served[i];
        squares += (double)served[i] * served[i];
    }
    return squares > 0 ? sum * sum / ((double)clients * squares) : 0;
}
