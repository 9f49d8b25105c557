/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * epoll_wait and its kin, without what the program is not to see: listeners at their ceiling
 * (readiness.h), and input of connections that is withheld (watches.h).
 */
#ifndef BACKPRESSURE_EPOLL_FILTER_H
#define BACKPRESSURE_EPOLL_FILTER_H

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

/* Waits as epoll_wait(2) does, with its errors. */
int epoll_filter_wait(const struct epoll_call *call, int64_t timeout_ns);

#endif
