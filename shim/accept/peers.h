/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How many connections each client address has open in the service: `peer-conns`.
 */
#ifndef BACKPRESSURE_PEERS_H
#define BACKPRESSURE_PEERS_H

#include "policy/peer_table.h"

#include <stdbool.h>
#include <stdint.h>

/* Who compares a count that says no with the kernel, when that is due: the entry's index, and
 * whether what frees places of all entries is due, too. Before a service is joined. */
void peers_verify_by(void (*verify)(uint32_t peer, bool all));

/*
 * Reserves a place under peer-conns; `peer` gets what connections_commit wants. With `certain`, a
 * count that says no is compared with the kernel first, when that is due.
 */
bool peers_reserve(struct peer_key key, bool certain, uint32_t *peer);
void peers_cancel(uint32_t peer);

/* What peers_reserve would say now, by the count alone. */
bool peers_have_room(struct peer_key key);

#endif
