/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * `idle`: which connection with nothing in flight gives up its slot, and when one has to.
 *
 * While a ceiling on connections is reached whoever has the listeners says in the segment how many
 * clients want a slot: those that wait, and those that were refused of late. A process that finds
 * connections of its own idle for long enough takes one of these wants for each that it closes. It
 * lets the one that is idle longest in another process go first, and waits a moment for that
 * process, which may be stopped or at work.
 *
 * Async-signal-safe; times are CLOCK_MONOTONIC's, in nanoseconds.
 */
#ifndef BACKPRESSURE_IDLE_H
#define BACKPRESSURE_IDLE_H

#include <stdbool.h>
#include <stdint.h>

/* How long a connection may be idle while others want its slot; LIMIT_OFF where no ceiling on
 * connections is set either. */
uint64_t idle_limit(void);

/* Says how many want a slot, if the ceiling is reached and it is time to say so. */
void idle_tell(uint64_t now);

/* Whether somebody wants a slot now. Two loads. */
bool idle_wanted(uint64_t now);

/* Shows the others since when this process's longest idle connection is that; 0: it has none. */
void idle_publish(uint64_t since_ns);

/* Whether one that is idle since then may be closed now: somebody wants its slot, and no other
 * process has one that comes first; they look every `looks_ns`. That want is then taken. */
bool idle_take(uint64_t since_ns, uint64_t now, uint64_t looks_ns);

#endif
