/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The symbols that the shim puts before libc's. They decide nothing: each calls the room that does.
 * tests/unit/symbols.txt lists them all with the reason for each.
 */
#ifndef BACKPRESSURE_INTERPOSE_H
#define BACKPRESSURE_INTERPOSE_H

#include "base/memory.h"

#include <stdint.h>
#include <time.h>

#define INTERPOSE __attribute__((visibility("default")))

/* Timeouts as the rooms take them: nanoseconds, or -1 for ever. */
static inline int64_t timeout_from_ms(int milliseconds)
{
    return milliseconds < 0 ? -1 : (int64_t)milliseconds * 1000000;
}

#define TIMEOUT_SECONDS_MAX (INT64_MAX / 1000000000 - 1)

static inline int64_t timeout_from_timespec(const struct timespec *time)
{
    if (!time)
        return -1;
    int64_t seconds = time->tv_sec > TIMEOUT_SECONDS_MAX ? TIMEOUT_SECONDS_MAX : time->tv_sec;
    return seconds * 1000000000 + time->tv_nsec;
}

/* What the kernel would refuse with EINVAL or EFAULT is left to it. */
static inline int timespec_valid(const struct timespec *time)
{
    return !time || (memory_there(MEMORY_TIME, time, sizeof *time) && time->tv_sec >= 0 &&
                     time->tv_nsec >= 0 && time->tv_nsec < 1000000000);
}

#endif
