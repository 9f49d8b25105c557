/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How long a wait at the ceiling sleeps before it looks for room itself.
 *
 * poll, select and epoll cannot wait for a word in shared memory to change, so they wait in slices:
 * an eighth of the time in which a slot becomes free, on average, but 250 us at least and 8 ms at
 * most. Those who can accept the same clients share the watch: with N of them, each looks every N
 * slices, and the first that finds room takes the next client. What waiting costs is then the same
 * for one process and for many.
 */
#ifndef BACKPRESSURE_SLICES_H
#define BACKPRESSURE_SLICES_H

#include "process/signals.h"

#include <stdint.h>

/* One wait: how far it is, and what is left of its time. */
struct slices {
    int64_t timeout_ns; /* -1 is for ever */
    uint64_t deadline_ns;
    unsigned turn;
    int counted;
    struct held_signals held; /* from the first slice on */
};

/* The two steps that begin it, as a wait may do without slices: when the timeout ends (0 when there
 * is nothing to wait for, or no end), and the slices until then. */
uint64_t slices_deadline(int64_t timeout_ns);
struct slices slices_until(int64_t timeout_ns, uint64_t deadline_ns);

/* What is left of the timeout: 0 when it is over, -1 when there is none. */
int64_t slices_left_until(int64_t timeout_ns, uint64_t deadline_ns);
int64_t slices_left(const struct slices *slices);

/* The next sleep, at most `left`. */
int64_t slices_next(struct slices *slices, int64_t left);

/* The wait is over. Keeps errno. */
void slices_end(struct slices *slices);

#endif
