/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/polling.h"

#include "base/real.h"

#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <sys/syscall.h>

bool polling_is_refusal(int error)
{
    return error == EPERM || error == EACCES || error == ENOSYS || error == EINVAL;
}

static int to_milliseconds(const struct timespec *timeout)
{
    if (!timeout)
        return -1;
    int64_t ms = (int64_t)timeout->tv_sec * 1000 + (timeout->tv_nsec + 999999) / 1000000;
    return ms < INT_MAX ? (int)ms : INT_MAX;
}

static __attribute__((noinline)) int
wait_by_poll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask)
{
    uint64_t before;
    if (mask)
        kernel_call(SYS_rt_sigprocmask, SIG_SETMASK, mask, &before, sizeof before);
    int ready = REAL(poll)(fds, count, to_milliseconds(timeout));
    int saved = errno;
    if (mask)
        kernel_call(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof before);
    errno = saved;
    return ready;
}

int polling_wait(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
                 const sigset_t *mask)
{
    int ready = REAL(ppoll)(fds, count, timeout, mask);
    return ready >= 0 || !polling_is_refusal(errno) ? ready
                                                    : wait_by_poll(fds, count, timeout, mask);
}

int polling_now(struct pollfd *fds, unsigned count)
{
    struct timespec now = {0, 0};
    int ready = (int)kernel_call(SYS_ppoll, fds, count, &now, NULL, 0);
#ifdef SYS_poll
    if (ready < 0 && polling_is_refusal(errno))
        ready = (int)kernel_call(SYS_poll, fds, count, 0);
#endif
    return ready;
}

bool polling_ready(int fd, short events)
{
    struct pollfd asked = {.fd = fd, .events = events};
    return polling_now(&asked, 1) > 0;
}
