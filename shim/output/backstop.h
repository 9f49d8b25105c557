/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * `stall` where nobody looks: a thread that sleeps in the kernel on a blocking descriptor, in a
 * write of stdio's, or in a read after a write that the kernel took whole, while no other thread of
 * the process waits where the shim sees it.
 *
 * The kernel ends such a connection itself, by TCP_USER_TIMEOUT (tcp(7)): after half as long again
 * as `stall` and a second, so that who looks comes first. The program is told ETIMEDOUT. It is set
 * at most once a connection, and not where the program set it, nor beside SO_KEEPALIVE, which it
 * would make end idle connections after one probe that got lost (tcp(7), tcp_keepalive_timer).
 */
#ifndef BACKPRESSURE_BACKSTOP_H
#define BACKPRESSURE_BACKSTOP_H

#include "output/flows.h"

#include <sys/socket.h>

/* Follows O_NONBLOCK and the limits: what blocks under `stall` is FLOW_UNGUARDED until it has its
 * backstop. */
extern const struct flow_feature backstop_feature;

/* A read or write on it begins, or a look found it: sets the backstop, if it is to have one. Keeps
 * errno, as all here. */
void backstop_set(int fd, struct flow *flow);

/* A read or write said ETIMEDOUT: counts the connection when it was the backstop that ended it. */
void backstop_ended(int fd, struct flow *flow);

/* Before the program sets an option: makes way for its own TCP_USER_TIMEOUT, and for SO_KEEPALIVE.
 */
void backstop_option_set(int fd, int level, int name);

/* The program asks: it is told its own TCP_USER_TIMEOUT, which is none. True when that is dealt
 * with, and `result` is what getsockopt returns. */
bool backstop_option_get(int fd, int level, int name, void *value, socklen_t *length, int *result);

#endif
