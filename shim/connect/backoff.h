/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * When to try again: the client's half of back pressure, by the schedule and the budget that
 * policy/retry_schedule.h has.
 *
 * All processes of a service share what they learn of a destination: who refused a moment ago has a
 * window open, drawn the same way, which grows each time that it is still refusing when its window
 * has ended, and closes with the first success.
 */
#ifndef BACKPRESSURE_BACKOFF_H
#define BACKPRESSURE_BACKOFF_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

/* Whether destinations that failed are remembered, and left alone for a while. */
bool backoff_wanted(void);

/* The destination's entry in the segment, made if need be; -1 when the table is full. */
int backoff_destination(const struct sockaddr *address, socklen_t length);

/* Nanoseconds until the destination's window closes, 0 when none is open; and its last error. */
uint64_t backoff_window(int destination, int *error);

/* A connect failed with `error`, one of those that may pass; or it succeeded. */
void backoff_failed(int destination, int error);
void backoff_succeeded(int destination);

/* Whether a connect that failed with `error` may do better later. */
bool backoff_may_pass(int error);

/* How long the retry with this number waits, in nanoseconds; drawn anew each time. */
uint64_t backoff_draw(uint32_t retry);

/* How long a first try at a destination with an open window waits. */
uint64_t backoff_draw_for(int destination);

/* A connect began; may one be tried again? If so, that is taken from the budget. */
void backoff_connects(void);
bool backoff_may_retry(void);

#endif
