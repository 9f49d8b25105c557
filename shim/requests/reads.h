/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What stands behind the read family on a connection whose requests are limited.
 */
#ifndef BACKPRESSURE_READS_H
#define BACKPRESSURE_READS_H

#include "output/flows.h"

#include <sys/socket.h>
#include <sys/types.h>

/* As recvmsg(2), with its errors; a cancellation point where that is one. What is not to be read
 * yet is not there for a descriptor that does not block, and waited for by one that does. `message`
 * may be read into fewer bytes than it has room for. */
ssize_t reads_message(int fd, struct flow *flow, struct msghdr *message, int flags);

/* Bytes of the client went to the program unseen. */
void reads_unseen(struct flow *flow);

#endif
