/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A ceiling that finds itself: `conns=auto` for each process, `total-conns=auto` for the service.
 *
 * The shim sees when a request came and when the program first answered it: the sojourn. Answers
 * that take longer than they once did wait for each other, and more connections only make them
 * wait longer. From the sojourns of a window (at least 100 ms and 10 answers):
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
 */
#ifndef BACKPRESSURE_CONCURRENCY_H
#define BACKPRESSURE_CONCURRENCY_H

#include <stdbool.h>
#include <stdint.h>

/* Whether a ceiling of this process finds itself. */
bool concurrency_wanted(void);

/* An answer began. `sojourn_ns` is how long its request was in the program, 0 when not measured. */
void concurrency_answered(uint64_t sojourn_ns);

#endif
