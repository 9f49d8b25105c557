/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who has been granted how much: the accounts that credit.h moves. A connection's grant counts for
 * each process that holds it, and once for the service. All amounts in KiB; lock-free and
 * async-signal-safe. Whoever lowers a grant lowers the accounts after it, and whoever raises one
 * raises them before, so that an audit never finds too little.
 */
#ifndef BACKPRESSURE_GRANTS_H
#define BACKPRESSURE_GRANTS_H

#include "output/flows.h"

#define GRANTS_RESERVE 4 /* this part of the ceiling is for newcomers */

/* A limit in bytes as these accounts have it; LIMIT_OFF stays. */
uint64_t grants_ceiling(uint64_t limit);

/* What is free under the ceilings, LIMIT_OFF without one; with `reserve_share`, beyond the part of
 * each ceiling that is kept: one in so many. 0 keeps none. */
uint64_t grants_free(uint64_t reserve_share);

/* What is free for growth, shared among this process's connections. */
uint64_t grants_share(void);

/*
 * A connection's part of what is free for growth, while there is so much (64 MiB) that it matters
 * little if one of them turns out to ask for more; otherwise 0. Never more than conn-buffer.
 */
uint64_t grants_spare(void);

/* Whether a new connection can have its floor. Without ceilings on bytes, always. */
bool grants_room(void);

/* Raises the slot's grant, if the ceilings allow it; lowers it. */
bool grants_take(uint32_t slot, uint32_t amount);
void grants_give(uint32_t slot, uint32_t amount);

/* Raises it whatever the ceilings say: for what was promised. */
void grants_take_regardless(uint32_t slot, uint32_t amount);

/* Another process holds the connection, too, or `holder` does no longer. */
void grants_shared(uint32_t slot, uint32_t holder);
void grants_left(uint32_t slot, uint32_t holder);

/* The slot is free: its grant goes back. */
void grants_closed(uint32_t slot);

#endif
