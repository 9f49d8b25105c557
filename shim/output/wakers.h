/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Waking one thread of this process that sleeps in poll or select until a request has its turn.
 *
 * These calls look again only at what they were asked for, and a connection that was left out of
 * the call is not among that. So such a thread sleeps at a descriptor of its own, too (eventfd(2)):
 * one that several shared could be emptied by the first before the others have looked. The
 * descriptors are kept for the next ones that sleep, but for a few only.
 *
 * Async-signal-safe; errno is kept.
 */
#ifndef BACKPRESSURE_WAKERS_H
#define BACKPRESSURE_WAKERS_H

/* Takes one for this thread, silent, until it is given back; -1 when there is none to be had. */
int wakers_take(void);
void wakers_give(int waker);

/* The descriptor to be waited for. */
int wakers_descriptor(int waker);

/* Wakes the thread that has it, now or as it goes to sleep; and makes it silent again. */
void wakers_ring(int waker);
void wakers_heard(int waker);

/* The number `fd` was closed under the shim, or taken over by dup2. */
void wakers_forget(int fd);

/* They are the parent's. */
void wakers_after_fork_in_child(void);

#endif
