/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * recvmsg(2) on a connection whose requests are limited: when what it brought had arrived is learnt
 * by it, and the program, which did not ask for that, finds nothing of it.
 *
 * Both are a cancellation point where that is one, and return what it does. Async-signal-safe.
 */
#ifndef BACKPRESSURE_RECEIVING_H
#define BACKPRESSURE_RECEIVING_H

#include "requests/entries.h"

#include <sys/socket.h>
#include <sys/types.h>

/* Reads at most `most` bytes, or the first pieces of the vector; SIZE_MAX: as much as the program
 * has room for. `*arrived_ns` is of CLOCK_MONOTONIC, or 0. */
ssize_t receiving_most(int fd, const struct request *request, struct msghdr *message, int flags,
                       size_t most, uint64_t *arrived_ns);

/* Not about the stream's bytes, or not of a connection whose requests count; then `request` may be
 * NULL. */
ssize_t receiving_unseen(int fd, const struct request *request, struct msghdr *message, int flags);

#endif
