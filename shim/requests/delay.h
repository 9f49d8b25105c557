/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether a request has waited too long in its connection to be worth serving: `queue-delay`, by
 * the rule that policy/queue_delay.h has, for all requests of the service together.
 */
#ifndef BACKPRESSURE_DELAY_H
#define BACKPRESSURE_DELAY_H

#include <stdbool.h>
#include <stdint.h>

/* The target in nanoseconds, or LIMIT_OFF. */
uint64_t delay_target(void);

/* Whether delay_sheds may say so of the next: somebody was late, or the queue stands. Two loads,
 * and the clock while it is so. */
bool delay_suspects(void);

/* Whether the queue was found to stand. */
bool delay_stands(void);

/*
 * Whether a request of the connection `fd` that arrived at `asked_ns` is to be shed at `now`: it
 * waited too long, or its client has gone while the queue stands. `others`: how many wait beside
 * it.
 */
bool delay_sheds(int fd, uint64_t asked_ns, uint64_t now, uint32_t others);

/* A request is refused for want of a place. */
void delay_turns_away(uint64_t now);

/* A request that arrived at `asked_ns` begins: it is the short waits of those that tell that no
 * queue stands. */
void delay_begins(uint64_t asked_ns, uint64_t now);

#endif
