/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A request's place, from taking it to giving it back, when the next in line has it.
 * Async-signal-safe.
 */
#ifndef BACKPRESSURE_PLACES_H
#define BACKPRESSURE_PLACES_H

#include "requests/entries.h"

/* Takes a place for it, which has none; `above`: even above the ceilings. False when there is none.
 */
bool request_takes(struct request *request, bool above);

/* In phase `from` it has a place, which is given back as it moves to `to`. */
void request_lets_go(struct request *request, enum request_phase from, enum request_phase to);

/* The same from GRANTED, for what turned out not to begin: the token of request-rate goes back,
 * too. */
void request_cancels(struct request *request, enum request_phase to);

/* Nobody minds this connection any more: what it has goes back, and it is in nobody's line. */
void request_becomes_stream(struct request *request);

#endif
