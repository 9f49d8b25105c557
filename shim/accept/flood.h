/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What refusing may cost: `shed-share`, in hundredths of a core for the whole service.
 *
 * A refusal costs some tens of microseconds inside an overloaded program. While refusals have cost
 * more than their share, new clients' SYNs are turned away instead, which costs next to nothing;
 * but such a client gets no answer, and its TCP tries again after a second (RFC 6298). With
 * shed-share=off everybody is answered, whatever it costs.
 */
#ifndef BACKPRESSURE_FLOOD_H
#define BACKPRESSURE_FLOOD_H

#include <stdbool.h>
#include <stdint.h>

/* Refusals took so much processor time, in nanoseconds. */
void flood_refused(uint64_t spent_ns);

/* Whether refusals have used up their share. One load when none was made lately. */
bool flood_under_way(void);

#endif
