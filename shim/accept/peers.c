/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "accept/peers.h"

#include "base/real.h"
#include "policy/peer_table.h"
#include "process/processes.h"
#include "segment/growth.h"

#include <sys/syscall.h>
#include <time.h>

#define YIELDS 16 /* then the holder of the lock was preempted */
#define NAP_NS 100000

static void (*verify_count)(uint32_t peer, bool all);

void peers_verify_by(void (*verify)(uint32_t peer, bool all))
{
    verify_count = verify;
}

static lease lock_peers(void)
{
    struct lease_lock *lock = &service.segment->peers_lock;
    struct lease_watch watch = {.seen = LEASE_NONE};
    struct timespec nap = {.tv_sec = 0, .tv_nsec = NAP_NS};
    for (unsigned tries = 1;; tries++) {
        uint64_t now = monotonic_ns();
        bool over;
        lease word = lease_look(lock, &watch, now, &over), mine = LEASE_NONE;
        if (word == LEASE_NONE || over || (tries == YIELDS && processes_gone(lease_holder(word))))
            mine = lease_take_over(lock, word, service.self, now);
        if (mine != LEASE_NONE)
            return mine;
        if (tries < YIELDS)
            kernel_call(SYS_sched_yield);
        else
            kernel_call(SYS_nanosleep, &nap, NULL);
    }
}

static bool holds(lease mine)
{
    return lease_held(&service.segment->peers_lock, mine);
}

/* A place for a key that had no entry. */
static enum peer_result take_new(struct peer_key key, uint64_t ceiling, uint32_t *index)
{
    struct segment_peer *table = service.segment->peer;
    enum peer_result result;
    do {
        lease mine = lock_peers();
        struct peer_claimant claimant = {service.self, processes_gone, mine, holds};
        result = peer_table_take(table, key, ceiling, index);
        if (result == PEER_ABSENT)
            result = peer_table_insert(table, key, claimant, index);
        lease_give(&service.segment->peers_lock, mine);
    } while (result == PEER_AGAIN && service_active());
    return result;
}

bool peers_reserve(struct peer_key key, bool certain, uint32_t *peer)
{
    *peer = 0;
    if (!service_active() || peer_table_is_nobody(key))
        return true;
    if (!growth_reach_peers(service.segment, peer_table_start(key), PEER_TABLE_PROBES))
        return true; /* as when there is no room in the table */
    uint64_t ceiling = segment_limit(service.segment, LIMIT_PEER_CONNS);
    uint32_t index = 0;
    enum peer_result result = peer_table_take(service.segment->peer, key, ceiling, &index);
    if (result == PEER_ABSENT)
        result = take_new(key, ceiling, &index);
    if (result == PEER_FULL && certain) {
        verify_count(index, true);
        result = peer_table_take(service.segment->peer, key, ceiling, &index);
    }
    if (result == PEER_TAKEN)
        *peer = index + 1;
    return result != PEER_FULL; /* no room in the table: not bounded rather than refused */
}

void peers_cancel(uint32_t peer)
{
    if (peer && peer <= SEGMENT_PEERS)
        gauge_give(&service.segment->peer[peer - 1].conns);
}

bool peers_have_room(struct peer_key key)
{
    uint64_t ceiling = segment_limit(service.segment, LIMIT_PEER_CONNS);
    if (ceiling == LIMIT_OFF || peer_table_is_nobody(key) ||
        !growth_reach_peers(service.segment, peer_table_start(key), PEER_TABLE_PROBES))
        return true;
    const struct segment_peer *peer = peer_table_find(service.segment->peer, key);
    if (!peer || peer_count(atomic_load(&peer->conns.word)) < ceiling)
        return true;
    verify_count((uint32_t)(peer - service.segment->peer), false);
    return peer_count(atomic_load(&peer->conns.word)) < ceiling;
}
