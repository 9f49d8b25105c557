/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/libc.h"
#include "base/real.h"
#include "interpose/interpose.h"
#include "wait/select_filter.h"

#include <sys/time.h>

int __select(int end, fd_set *read_fds, fd_set *write_fds, fd_set *except_fds,
             struct timeval *timeout);

/* select(2): on Linux the timeout is left with what remains of it. musl leaves it as it was. */
static void hand_back(struct timeval *timeout, int64_t left_ns)
{
    if (libc_is_musl())
        return;
    timeout->tv_sec = (time_t)(left_ns / 1000000000);
    timeout->tv_usec = (suseconds_t)(left_ns % 1000000000 / 1000);
}

static __attribute__((noinline)) int select_with_care(int end, fd_set *read_fds, fd_set *write_fds,
                                                      fd_set *except_fds, struct timeval *timeout)
{
    if (!select_filter_concerns(end, read_fds, write_fds, except_fds) ||
        (timeout && (!memory_there(MEMORY_TIME, timeout, sizeof *timeout) || timeout->tv_sec < 0 ||
                     timeout->tv_usec < 0)))
        return REAL(select)(end, read_fds, write_fds, except_fds, timeout);
    if (!timeout)
        return select_filter_wait(end, read_fds, write_fds, except_fds, -1, NULL, NULL);
    struct timespec time = {.tv_sec = timeout->tv_sec + timeout->tv_usec / 1000000,
                            .tv_nsec = timeout->tv_usec % 1000000 * 1000};
    int64_t left_ns = timeout_from_timespec(&time);
    int ready = select_filter_wait(end, read_fds, write_fds, except_fds, left_ns, NULL, &left_ns);
    if (memory_there(MEMORY_RESULT, timeout, sizeof *timeout)) /* select(2) says no EFAULT for it */
        hand_back(timeout, left_ns);
    return ready;
}

INTERPOSE int select(int end, fd_set *read_fds, fd_set *write_fds, fd_set *except_fds,
                     struct timeval *timeout)
{
    if (select_filter_passes(end, read_fds) && BOUND(select))
        return real_functions.select(end, read_fds, write_fds, except_fds, timeout);
    return select_with_care(end, read_fds, write_fds, except_fds, timeout);
}

INTERPOSE int __select(int end, fd_set *read_fds, fd_set *write_fds, fd_set *except_fds,
                       struct timeval *timeout)
{
    return select(end, read_fds, write_fds, except_fds, timeout);
}

static __attribute__((noinline)) int pselect_with_care(int end, fd_set *read_fds, fd_set *write_fds,
                                                       fd_set *except_fds,
                                                       const struct timespec *timeout,
                                                       const sigset_t *signals)
{
    if (!select_filter_concerns(end, read_fds, write_fds, except_fds) || !timespec_valid(timeout))
        return REAL(pselect)(end, read_fds, write_fds, except_fds, timeout, signals);
    return select_filter_wait(end, read_fds, write_fds, except_fds, timeout_from_timespec(timeout),
                              signals, NULL);
}

INTERPOSE int pselect(int end, fd_set *read_fds, fd_set *write_fds, fd_set *except_fds,
                      const struct timespec *timeout, const sigset_t *signals)
{
    if (select_filter_passes(end, read_fds) && BOUND(pselect))
        return real_functions.pselect(end, read_fds, write_fds, except_fds, timeout, signals);
    return pselect_with_care(end, read_fds, write_fds, except_fds, timeout, signals);
}
