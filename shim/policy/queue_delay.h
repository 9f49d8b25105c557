/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether a queue stands, and who in it has waited too long to be worth serving.
 *
 * The rule is CoDel's (Nichols and Jacobson, "Controlling Queue Delay", 2012; RFC 8289): one long
 * wait is a burst, and bursts are what queues are for. A queue stands when the wait of everyone who
 * was accepted stayed above the target for two intervals, in which it did not become a quarter
 * shorter; or, sooner, when it goes on growing after the first one was late, or has become twice as
 * long. CoDel then drops one packet at a time, since senders slow down; clients of a server mostly
 * do not, so a standing queue is drained at once of all that waited longer than three quarters of
 * the target, until nobody has for an interval (compare Maurer, "Fail at Scale", 2015). The last
 * quarter is left to the program, so that its answer, too, comes soon.
 *
 *               late               late for two intervals, grows, or is full
 *     CALM ------------> SUSPECT --------------------------------------------> STANDS
 *       ^   in time         |                                                    |
 *       +-------------------+<---------------------------------------------------+
 *                                         nobody late for an interval
 *
 * Pure: the state is a queue's words in the segment (late_from_ns is 0 in CALM,
 * standing_until_ns lies ahead in STANDS), which several processes move without a lock; a lost
 * update costs one verdict. The clock is the caller's, times are nanoseconds. Async-signal-safe.
 */
#ifndef BACKPRESSURE_QUEUE_DELAY_H
#define BACKPRESSURE_QUEUE_DELAY_H

#include "segment/segment.h"

/* A queue as it is now, in connections. */
struct queue_depth {
    uint32_t waiting, backlog;
};

/* How to ask for it: only a late client makes the policy ask, since that is a system call. */
struct queue_look {
    struct queue_depth (*depth)(void *context);
    void *context;
    bool tells; /* false where nobody can be asked: then a queue is never found to shrink */
};

/* Somebody who was accepted. */
struct queue_client {
    uint64_t waited_ns;
    bool closed; /* sends no more: mostly one that gave up */
};

/*
 * Whether the client is to be shed: it waited too long, or while the queue stands it has closed its
 * side. Every client is shown here, since it is the short waits that tell that no queue stands.
 */
bool queue_delay_sheds(struct segment_queue *state, struct queue_client client, uint64_t target_ns,
                       struct queue_look look, uint64_t now);

/* How long somebody may have waited, at `now`, without being late. */
uint64_t queue_delay_most(const struct segment_queue *state, uint64_t target_ns, uint64_t now);

/*
 * Where those who come while the queue stands are turned away at once, nobody is late any more,
 * though the overload lasts: it goes on standing as long as more than a fifth of all are
 * `turned_away`. Shown each who begins, and each who is turned away.
 */
void queue_delay_counts(struct segment_queue *state, bool turned_away, uint64_t target_ns,
                        uint64_t now);

#endif
