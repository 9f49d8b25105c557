/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How long clients wait for an answer before they give up, and who is still worth serving.
 *
 * Where everybody waits in line, and more arrive than can be served, the first in line have waited
 * for almost as long as they are going to: by the time that they are answered they have gone, and a
 * server that is busy all the time answers nobody (compare Maurer, "Fail at Scale", 2015, on queues
 * under overload). So those go first, in the order of their arrival, who have waited for at most
 * three quarters of the time after which others gave up; one place in eight is the very first one's
 * all the same, so that whoever has more patience than others is served, too.
 *
 * Pure: the state is words in the segment, which several processes move without a lock; a lost
 * update costs one sample. The clock is the caller's, times are nanoseconds. Async-signal-safe.
 */
#ifndef BACKPRESSURE_PATIENCE_H
#define BACKPRESSURE_PATIENCE_H

#include "segment/segment.h"

#include <stdbool.h>
#include <stdint.h>

/* A client gave up after it had waited for so long. */
void patience_gave_up(struct segment_patience *state, uint64_t waited_ns, uint64_t now);

/* How long somebody may have waited and still go first; UINT64_MAX while nobody gave up of late. */
uint64_t patience_fresh(const struct segment_patience *state, uint64_t now);

/* A place is given: whether it is the very first one's, whatever that has waited. */
bool patience_of_eldest(struct segment_patience *state);

#endif
