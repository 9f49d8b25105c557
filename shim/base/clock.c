/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/clock.h"

int (*_Atomic clock_source)(clockid_t clock, struct timespec *time) = clock_gettime;

static uint64_t read_clock(clockid_t clock)
{
    struct timespec time;
    clock_source(clock, &time);
    return (uint64_t)time.tv_sec * UINT64_C(1000000000) + (uint64_t)time.tv_nsec;
}

uint64_t monotonic_ns(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

uint64_t realtime_ns(void)
{
    return read_clock(CLOCK_REALTIME);
}

uint64_t spent_ns(void)
{
    return read_clock(CLOCK_THREAD_CPUTIME_ID);
}
