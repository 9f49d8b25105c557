/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The one loop in which epoll, poll and select wait while something is out of the program's sight,
 * or has to be come back for: in slices (slices.h), until something that the program may see is
 * ready or its time is over. What is due on each turn is done here, and nowhere else.
 */
#ifndef BACKPRESSURE_WAIT_LOOP_H
#define BACKPRESSURE_WAIT_LOOP_H

#include "wait/slices.h"

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

/* The longest sleep where wake_fd cannot be waited for. */
#define WAIT_WAKELESS_NS INT64_C(8000000)

struct wait;

/* What one of the calls does on each turn. */
struct wait_operations {
    /* Leaves out of the call what the program is not to see now; sets what is said below to be its
     * to set. */
    void (*prepare)(struct wait *wait);
    /* Asks the kernel for at most sleep_ns, with the signal mask `opened` (NULL: as it is), and
     * with wake_fd, unless that is -1. Returns what the call does; a cancellation point. */
    int (*ask)(struct wait *wait);
    /* What is left, of `reported` descriptors, to be told; -1 with errno. */
    int (*settle)(struct wait *wait, int reported);
};

/* One call: the first member of what each kind of call keeps. */
struct wait {
    const struct wait_operations *operations;
    struct slices slices;
    const sigset_t *signals; /* the program's own mask for this call, or NULL */
    int set;                 /* the epoll set, or -1 */
    bool accepts;            /* listeners may be among what it waits for */
    /* set by prepare: */
    bool hides;     /* a listener is out of sight that this wait has to look after */
    bool pending;   /* somebody is in the waiting room for a listener that it waits for */
    bool has_turns; /* requests that wait for their turn may be among what it waits for */
    /* for ask: */
    int64_t sleep_ns; /* -1: for ever */
    const sigset_t *opened;
    int wake_fd;
    /* set by ask: */
    bool cut_short; /* it came back before its time, though nothing is ready */
};

/*
 * A wait of this thread begins while limits concern bytes or requests, as `mode` of flows_mode()
 * says: every connection has a new turn, and what is due is done. Whether the wait has to go
 * through wait_loop_run, because it may not last as long as the program says.
 */
bool wait_loop_concerned(uint32_t mode);

/* Waits. What the call returns; errno as it leaves it. Ends the slices. */
int wait_loop_run(struct wait *wait);

#endif
