/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Waking a thread that waits in the kernel for input, in this process or another one of the
 * service: a futex cannot end a poll, and a descriptor cannot be shared with processes that were
 * not forked from this one. So each process that has somebody waiting has datagram sockets of
 * AF_UNIX under abstract names (unix(7)) that follow from its entry in the segment; what is sent to
 * them says nothing, and is only a reason to look. Where none can be had (descriptors have run out,
 * another network namespace, a seccomp filter) nobody is woken, and whoever waits looks by itself
 * after a while.
 *
 * Async-signal-safe; errno is kept.
 */
#ifndef BACKPRESSURE_WAKES_H
#define BACKPRESSURE_WAKES_H

#include <stdint.h>

/* Several threads may wait, each at the bell of its connection's slot; event loops at one of their
 * own. */
#define WAKES_BELLS 17
#define WAKES_LOOP (WAKES_BELLS - 1)

static inline unsigned wakes_bell(uint32_t slot)
{
    return slot % WAKES_LOOP;
}

/* The descriptor that becomes readable when somebody rings; the shim's own. -1: there is none. */
int wakes_descriptor(unsigned bell);

/* Makes it silent again. */
void wakes_heard(unsigned bell);

/* Rings a bell of a process, this one or another. */
void wakes_ring(uint32_t process, unsigned bell);

/* The number `fd` was closed under the shim, or taken over by dup2. */
void wakes_forget(int fd);

/* The bells are the parent's. */
void wakes_after_fork_in_child(void);

#endif
