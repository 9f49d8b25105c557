/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Places under the ceilings on requests: how many requests are in the program at once.
 *
 * A place belongs to a connection's slot, whose entry in the segment names the process that works
 * on the request; so a place is given back when that process is gone, and counts that a process
 * killed half way left too high are compared with the slots when somebody would be refused, at a
 * bounded rate.
 *
 * Everything here is async-signal-safe, takes no lock and makes no system call, but for recounting.
 */
#ifndef BACKPRESSURE_IN_FLIGHT_H
#define BACKPRESSURE_IN_FLIGHT_H

#include <stdbool.h>
#include <stdint.h>

/* Whether a limit concerns requests: requests, total-requests or request-rate. */
bool in_flight_limited(void);

/* Takes a place for the slot's connection, which has none; `above`: even above the ceilings, and
 * without a token of request-rate. False when there is none. */
bool in_flight_take(uint32_t slot, bool above);

/* Gives back a token of request-rate that was taken with a place, for what did not begin. */
void in_flight_token_back(void);

/* Gives back the place of the slot's connection, if it has one; whether it had. */
bool in_flight_give(uint32_t slot);

/* A process holds the connection no longer, or nobody does: it has no request there any more. */
void in_flight_left(uint32_t slot, uint32_t process);
void in_flight_freed(uint32_t slot);

/* Whether a place is free, and request-rate has a token for it. */
bool in_flight_room(void);

/* Whether the ceilings are reached by requests that really are in flight. False, too, when
 * request-rate alone stands in the way. */
bool in_flight_full_for_certain(void);

/* Nanoseconds until request-rate allows the next one; 0 when it does now. */
uint64_t in_flight_rate_wait(void);

/* An answer began; its request had been in the program for so long. Ceilings that find themselves
 * follow; whether one was raised. */
bool in_flight_answered(uint64_t response_ns);

#endif
