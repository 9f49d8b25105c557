/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Waking a thread that waits in poll, select or epoll, in this process or another one of the
 * service: a futex cannot end a poll, and a descriptor cannot be shared with processes that were
 * not forked from this one. So each process that has somebody waiting has a datagram socket of
 * AF_UNIX under an abstract name (unix(7)) that follows from its entry in the segment, its bell;
 * what is sent to it says nothing, and is only a reason to look. Where none can be had (descriptors
 * have run out, another network namespace, a seccomp filter) nobody is woken, and whoever waits
 * looks by itself after a while.
 *
 * Async-signal-safe; errno is kept.
 */
#ifndef BACKPRESSURE_WAKES_H
#define BACKPRESSURE_WAKES_H

#include <stdint.h>

/* The descriptor that becomes readable when somebody rings; the shim's own. -1: there is none. */
int wakes_descriptor(void);

/* Makes it silent again. */
void wakes_heard(void);

/* Rings the bell of a process, this one or another. */
void wakes_ring(uint32_t process);

/* The number `fd` was closed under the shim, or taken over by dup2. */
void wakes_forget(int fd);

/* The bell is the parent's. */
void wakes_after_fork_in_child(void);

#endif
