/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A ceiling that finds itself.
 *
 * It is shown how long answers take: the sojourn. Answers that take longer than they once did wait
 * for each other, and more connections only make them wait longer. From the sojourns of a window
 * (at least 100 ms and 10 answers):
 *
 *     target  = conns * least / sojourn  +  spare * conns / in_service
 *     ceiling = (ceiling + target) / 2
 *
 * `conns` is how many connections were open on average. `sojourn` is the mean over the time that
 * was spent, sum of squares by sum, so that it tells of the requests that make the work, however
 * many cheap ones (log-ins, pings) are among them; `least` is its least value of late (20 to 40 s).
 * `in_service` is answers per second times mean (Little's law), so that connections which are open
 * and idle, or whose client is far away, do not count as work. `spare`,
 * the larger of 3 and the root of the ceiling, is how many may wait inside the program, so that it
 * never runs dry between two accepts. This is FAST TCP's rule (Wei, Jin, Low, Hegde, 2006) with the
 * spare of Netflix's Gradient2 (concurrency-limits).
 *
 * The ceiling changes only while it is reached. Under lasting load nobody would ever see how fast
 * an answer can be, so now and then the ceiling falls to a quarter for two windows: more often as
 * long as that finds a smaller sojourn (compare ProbeRTT of BBR, Cardwell et al., 2016).
 *
 *                 probe is due                        its windows are over
 *     FOLLOWING ---------------> PROBING (a quarter) -----------------------> FOLLOWING (as before)
 *
 * Pure: the state is struct segment_concurrency, which several processes move without a lock (one
 * of them ends a window, by compare and exchange); the clock is the caller's. Times in nanoseconds.
 * Async-signal-safe.
 */
#ifndef BACKPRESSURE_AUTO_LIMIT_H
#define BACKPRESSURE_AUTO_LIMIT_H

#include "segment/segment.h"

#include <stdbool.h>
#include <stdint.h>

/* An answer began: how many were inside just then, and how long its request had been; 0 when that
 * was not measured. */
struct auto_limit_answer {
    uint32_t inside;
    uint64_t sojourn_ns;
};

/* What an answer brought about. */
struct auto_limit_change {
    bool raised; /* the ceiling: somebody may come in now */
    bool worth_telling;
    uint64_t ceiling;
    uint64_t sojourn_us, least_us; /* of the window that ended */
};

/* Takes an answer into account; `limit` is the operator's range, as LIMIT_AUTO makes it. */
struct auto_limit_change auto_limit_answered(struct segment_concurrency *found, uint64_t limit,
                                             struct auto_limit_answer answer, uint64_t now);

#endif
