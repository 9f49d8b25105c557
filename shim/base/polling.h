/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The shim's own questions by poll(2). It asks by ppoll, which takes a time to the nanosecond and a
 * signal mask; a filter that was there before exec (seccomp(2)) may forbid that to a program which
 * uses poll alone, and then poll is asked. Async-signal-safe.
 */
#ifndef BACKPRESSURE_POLLING_H
#define BACKPRESSURE_POLLING_H

#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <time.h>

/* Whether `error`, of a call whose arguments are in order, is what a filter or an old kernel says.
 */
bool polling_is_refusal(int error);

/*
 * ppoll(2), with its errors; by libc, so that it is a cancellation point. Where it is refused, by
 * poll, with `mask` set around it: what comes in just before poll begins does not end it then.
 */
int polling_wait(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
                 const sigset_t *mask);

/* How many are ready now; -1 when nobody may ask. Past what is interposed. */
int polling_now(struct pollfd *fds, unsigned count);

/* Whether `fd` is ready for `events` (of poll) now, or in error, or at its end. */
bool polling_ready(int fd, short events);

#endif
