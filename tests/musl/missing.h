/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the tests call and musl's headers lack, for the tests that are built with musl-gcc: the
 * kernel's calls, made by number, as programs make them there.
 */
#ifndef MUSL_MISSING_H
#define MUSL_MISSING_H

#include <stdint.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static inline int close_range(unsigned first, unsigned last, int flags)
{
    return (int)syscall(SYS_close_range, first, last, flags);
}

static inline int epoll_pwait2(int set, struct epoll_event *events, int events_max,
                               const struct timespec *timeout, const sigset_t *signals)
{
    return (int)syscall(SYS_epoll_pwait2, set, events, events_max, timeout, signals,
                        sizeof(uint64_t));
}

static inline ssize_t preadv2(int fd, const struct iovec *vector, int count, off_t offset,
                              int flags)
{
    return syscall(SYS_preadv2, fd, vector, count, offset, 0, flags);
}

static inline ssize_t pwritev2(int fd, const struct iovec *vector, int count, off_t offset,
                               int flags)
{
    return syscall(SYS_pwritev2, fd, vector, count, offset, 0, flags);
}

#endif
