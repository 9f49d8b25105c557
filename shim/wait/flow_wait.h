/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Waiting in epoll while limits concern bytes: what is due for connections is done on each turn,
 * and what their reads are to wait for is not reported.
 */
#ifndef BACKPRESSURE_FLOW_WAIT_H
#define BACKPRESSURE_FLOW_WAIT_H

#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>

/* One of the epoll_wait family: calls the kernel with a timeout in nanoseconds, or -1. */
struct epoll_call {
    int (*wait)(const struct epoll_call *call, int64_t timeout_ns);
    int set;
    struct epoll_event *events;
    int events_max;
    const sigset_t *signals;
};

/* Waits as epoll_wait(2) does, with its errors, without the readability that is withheld. */
int flow_wait(const struct epoll_call *call, int64_t timeout_ns);

#endif
