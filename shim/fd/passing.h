/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Descriptors on their way between processes: unix(7), SCM_RIGHTS.
 */
#ifndef BACKPRESSURE_PASSING_H
#define BACKPRESSURE_PASSING_H

#include <stdbool.h>
#include <sys/socket.h>

/* Whether nothing can come with a message. A pointer to nothing is left to the kernel. (What musl's
 * programs leave behind their length, libc.h, makes of nothing perhaps something, never the other
 * way round.) */
static inline bool passing_nothing(const struct msghdr *message)
{
    return !message || !message->msg_controllen;
}

/* Before a message goes out: the connections in it may soon be held by anybody. */
void passing_sends(const struct msghdr *message);

/* After a message came in: connections and listeners of the service in it are tracked here, too. */
void passing_received(struct msghdr *message);

#endif
