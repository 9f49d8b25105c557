/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/real.h"
#include "interpose/interpose.h"
#include "wait/poll_filter.h"

/* libc declares the array as one that poll only writes to; gcc then warns where it is read first.
 */
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

int __poll(struct pollfd *fds, nfds_t count, int timeout);
int __poll_chk(struct pollfd *fds, nfds_t count, int timeout, size_t size);
int __ppoll_chk(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
                const sigset_t *signals, size_t size);

static __attribute__((noinline)) int poll_with_care(struct pollfd *fds, nfds_t count, int timeout)
{
    if (!poll_filter_concerns(fds, count))
        return REAL(poll)(fds, count, timeout);
    return poll_filter_wait(fds, count, timeout_from_ms(timeout), NULL);
}

INTERPOSE int poll(struct pollfd *fds, nfds_t count, int timeout)
{
    if (poll_filter_passes(fds, count) && BOUND(poll))
        return real_functions.poll(fds, count, timeout);
    return poll_with_care(fds, count, timeout);
}

INTERPOSE int __poll(struct pollfd *fds, nfds_t count, int timeout)
{
    return poll(fds, count, timeout);
}

static __attribute__((noinline)) int ppoll_with_care(struct pollfd *fds, nfds_t count,
                                                     const struct timespec *timeout,
                                                     const sigset_t *signals)
{
    if (!poll_filter_concerns(fds, count) || !timespec_valid(timeout))
        return REAL(ppoll)(fds, count, timeout, signals);
    return poll_filter_wait(fds, count, timeout_from_timespec(timeout), signals);
}

INTERPOSE int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
                    const sigset_t *signals)
{
    if (poll_filter_passes(fds, count) && BOUND(ppoll))
        return real_functions.ppoll(fds, count, timeout, signals);
    return ppoll_with_care(fds, count, timeout, signals);
}

/* The forms that _FORTIFY_SOURCE calls; libc's own reports an array that is too short. */
INTERPOSE int __poll_chk(struct pollfd *fds, nfds_t count, int timeout, size_t size)
{
    if (size / sizeof *fds < count || !poll_filter_concerns(fds, count))
        return REAL(__poll_chk)(fds, count, timeout, size);
    return poll_filter_wait(fds, count, timeout_from_ms(timeout), NULL);
}

INTERPOSE int __ppoll_chk(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
                          const sigset_t *signals, size_t size)
{
    if (size / sizeof *fds < count || !poll_filter_concerns(fds, count) || !timespec_valid(timeout))
        return REAL(__ppoll_chk)(fds, count, timeout, signals, size);
    return poll_filter_wait(fds, count, timeout_from_timespec(timeout), signals);
}
