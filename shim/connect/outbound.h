/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections that the program makes: how many, at what pace, and when to try again.
 *
 * A blocking connect that fails for a reason that may pass is made again, and waits in between, as
 * backoff.h says; it can be ended meanwhile by a signal, SO_SNDTIMEO or cancellation, as the
 * kernel's own wait. A non-blocking one to a destination whose window is open fails at once, with
 * the error that was last seen there. `connect-conns` makes the blocking wait for a place and the
 * non-blocking fail as when there are no ports left (connect(2): EADDRNOTAVAIL; EAGAIN for
 * AF_UNIX).
 *
 * Linux lets a stream socket connect again after a connect that failed (tcp(7) and POSIX leave it
 * open), so the program's own descriptor is used for all tries.
 */
#ifndef BACKPRESSURE_OUTBOUND_H
#define BACKPRESSURE_OUTBOUND_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

/* connect(2), with its errors. */
int outbound_connect(int fd, const struct sockaddr *address, socklen_t length);

/* getsockopt read SO_ERROR of `fd`, an outbound connection: `error` is what it read, and may
 * become what an interrupted wait left behind. */
void outbound_error_read(int fd, int *error);

/* A read or a write on `fd` found that the peer had reset it. */
void outbound_was_reset(int fd);

/* Descriptors of this process: one more, one fewer; and before the last one is closed. */
void outbound_retain(uint32_t index);
void outbound_departing(int fd, uint32_t index);
void outbound_closed(uint32_t index);

/* Rates changed: tells the kernel for each. */
void outbound_pace_all(void);

/* The process began (anew, after exec), or is a forked child that holds what its parent held. */
void outbound_start(void);
void outbound_after_fork_in_child(void);

#endif
