/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The table of client addresses, and how many connections each has open.
 *
 * An address is looked for from a place on that its hash says (open addressing), in
 * PEER_TABLE_PROBES entries. An entry whose count is 0 is free for another.
 *
 * A lock keeps those who make entries in order, so that no address gets two. It may be taken over
 * from one who is still at it (base/lease_lock.h). So an entry is claimed by a compare-exchange of
 * its gauge, its key is written, and it is published by another; and the claim counts for nothing
 * when the lock is lost by then. Whoever comes after takes the lock first and looks second, so
 * either the lock is found to be lost, or the claim is found, and revoked: then it is not
 * published. A revoked entry is left to its claimant, who may still be writing the key, until the
 * claimant notices or is gone.
 *
 *   free --claim--> claimed --publish--> counts 1
 *                   claimed --revoke--> revoked --by its claimant--> free
 *
 * Pure: the table is the caller's, who says whether the lock is still held, and which claimants are
 * gone. Lock-free otherwise, and async-signal-safe.
 */
#ifndef BACKPRESSURE_PEER_TABLE_H
#define BACKPRESSURE_PEER_TABLE_H

#include "segment/layout.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#define PEER_TABLE_PROBES 256

/* One client address, as it is counted: IPv4 /32, IPv6 /64. Zero for AF_UNIX, which has none. */
struct peer_key {
    uint64_t word[2];
};

/* An IPv4 address has the same key where it comes as one of IPv6 (RFC 4291, 2.5.5.2). */
struct peer_key peer_table_key(const struct sockaddr_storage *address);

static inline bool peer_table_is_nobody(struct peer_key key)
{
    return key.word[0] == 0 && key.word[1] == 0;
}

/* The index from which on the key is looked for. */
uint32_t peer_table_start(struct peer_key key);

enum peer_result {
    PEER_TAKEN,
    PEER_FULL,
    PEER_ABSENT, /* the key has no entry; after peer_table_insert: there is no room for one */
    PEER_AGAIN,  /* another got in between */
};

/* Raises the count of the key's entry, if that leaves it at most `ceiling`. `index` gets the
 * entry's, with PEER_TAKEN and PEER_FULL. */
enum peer_result peer_table_take(struct segment_peer *table, struct peer_key key, uint64_t ceiling,
                                 uint32_t *index);

/* The key's entry with a count above 0, or NULL. */
struct segment_peer *peer_table_find(struct segment_peer *table, struct peer_key key);

/* Who makes an entry, with the lock. */
struct peer_claimant {
    uint32_t process;               /* below SEGMENT_PROCESSES */
    bool (*gone)(uint32_t process); /* whether that claimant is there no more */
    lease mine;                     /* of the lock */
    bool (*holds)(lease mine);      /* whether the lock is still this one's */
};

/* Makes an entry for a key that has none, with a count of 1: PEER_TAKEN, and its index. */
enum peer_result peer_table_insert(struct segment_peer *table, struct peer_key key,
                                   struct peer_claimant claimant, uint32_t *index);

#endif
