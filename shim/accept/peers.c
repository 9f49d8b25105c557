/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "accept/peers.h"

#include "base/real.h"
#include "process/processes.h"
#include "segment/growth.h"

#include <netinet/in.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#define PEER_PROBES 256
#define YIELDS 16 /* then the holder of the lock was preempted */
#define NAP_NS 100000

static void (*verify_count)(uint32_t peer, bool all);

void peers_verify_by(void (*verify)(uint32_t peer, bool all))
{
    verify_count = verify;
}

struct peer_key peers_key(const struct sockaddr_storage *address)
{
    struct peer_key key = {{0, 0}};
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    uint32_t ipv4;

    if (address->ss_family == AF_INET) {
        ipv4 = ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr);
    } else if (address->ss_family == AF_INET6) {
        const struct in6_addr *in6 = &((const struct sockaddr_in6 *)address)->sin6_addr;
        if (memcmp(in6, mapped, sizeof mapped) != 0) {
            memcpy(&key.word[0], in6, 8); /* the /64 */
            key.word[1] = 1;
            return key;
        }
        memcpy(&ipv4, (const char *)in6 + 12, 4);
        ipv4 = ntohl(ipv4);
    } else {
        return key;
    }
    key.word[1] = UINT64_C(0xffff00000000) | ipv4;
    return key;
}

static uint32_t peer_start(struct peer_key key)
{
    uint64_t hash = (key.word[0] ^ key.word[1] * UINT64_C(0x9e3779b97f4a7c15));
    hash = (hash ^ hash >> 29) * UINT64_C(0xbf58476d1ce4e5b9);
    return (uint32_t)(hash >> 40) % SEGMENT_PEERS;
}

static bool peer_is(const struct segment_peer *peer, struct peer_key key)
{
    return atomic_load(&peer->key[0]) == key.word[0] && atomic_load(&peer->key[1]) == key.word[1];
}

enum peer_result { PEER_TAKEN, PEER_FULL, PEER_ABSENT, PEER_AGAIN };

/* Raises the count of the key's entry; the epoch tells if the entry changed hands meanwhile. */
static enum peer_result peer_take(struct peer_key key, uint64_t ceiling, uint32_t *out)
{
    uint32_t start = peer_start(key);
    for (uint32_t i = 0; i < PEER_PROBES; i++) {
        uint32_t index = (start + i) % SEGMENT_PEERS;
        struct segment_peer *peer = &service.segment->peer[index];
        uint64_t word = atomic_load(&peer->conns.word);
        while (peer_is(peer, key)) {
            if (peer_count(word) == 0)
                break; /* free: taken over below, under the lock */
            *out = index + 1;
            if ((uint32_t)word >= ceiling)
                return PEER_FULL;
            if (atomic_compare_exchange_weak(&peer->conns.word, &word,
                                             gauge_with_count(word, (uint32_t)word + 1)))
                return PEER_TAKEN;
        }
    }
    return PEER_ABSENT;
}

/*
 * --- a new entry ---
 *
 * The lock keeps those who make entries in order, so that no address gets two. It may be taken over
 * from one who is still at it (lease_lock.h). So an entry is claimed by a compare-exchange of its
 * gauge, its key is written, and it is published by another; and the claim counts for nothing when
 * the lock is lost by then. Whoever comes after takes the lock first and looks second, so either
 * the lock is found to be lost, or the claim is found, and revoked: then it is not published. A
 * revoked entry is left to its claimant, who may still be writing the key, until the claimant
 * notices or is gone.
 *
 *   free --claim--> claimed --publish--> counts 1
 *                   claimed --revoke--> revoked --by its claimant--> free
 */

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

/* Changes the lower half of an entry's gauge from what `word` says; false when it moved on. */
static bool change_count(struct segment_peer *peer, uint64_t word, uint32_t count)
{
    return atomic_compare_exchange_strong(&peer->conns.word, &word, gauge_with_count(word, count));
}

/* An entry whose key was being written by one who lost the lock: it is not to be published. */
static void revoke_claim(struct segment_peer *peer, uint64_t word)
{
    uint32_t flags = (uint32_t)word & (PEER_CLAIMED | PEER_REVOKED);
    uint32_t claimant = (uint32_t)word & ~flags;
    if (flags == PEER_CLAIMED)
        change_count(peer, word, PEER_REVOKED | claimant);
    else if (flags && (claimant >= SEGMENT_PROCESSES || processes_gone(claimant)))
        change_count(peer, word, 0);
}

/* The first free entry for the key, after every claim there is was revoked: PEER_TAKEN. PEER_AGAIN
 * when the key has an entry by now. */
static enum peer_result find_free(struct peer_key key, uint32_t *out, uint64_t *out_word)
{
    uint32_t start = peer_start(key);
    enum peer_result result = PEER_ABSENT;
    for (uint32_t i = 0; i < PEER_PROBES; i++) {
        uint32_t index = (start + i) % SEGMENT_PEERS;
        struct segment_peer *peer = &service.segment->peer[index];
        revoke_claim(peer, atomic_load(&peer->conns.word));
        uint64_t word = atomic_load(&peer->conns.word);
        if (peer_count(word) > 0 && peer_is(peer, key))
            return PEER_AGAIN;
        if ((uint32_t)word != 0 || result == PEER_TAKEN)
            continue;
        *out = index;
        *out_word = word;
        result = PEER_TAKEN;
    }
    return result;
}

/* Under the lock `mine`. PEER_AGAIN when another got in between. */
static enum peer_result peer_insert(struct peer_key key, lease mine, uint32_t *out)
{
    uint32_t index = 0;
    uint64_t word = 0, claimed;
    enum peer_result result = find_free(key, &index, &word);
    if (result != PEER_TAKEN)
        return result;
    struct segment_peer *peer = &service.segment->peer[index];
    claimed = gauge_with_count(word, PEER_CLAIMED | service.self);
    if (!atomic_compare_exchange_strong(&peer->conns.word, &word, claimed))
        return PEER_AGAIN;
    if (lease_held(&service.segment->peers_lock, mine)) {
        atomic_store(&peer->key[0], key.word[0]);
        atomic_store(&peer->key[1], key.word[1]);
        if (change_count(peer, claimed, 1)) {
            *out = index + 1;
            return PEER_TAKEN;
        }
    }
    /* The claimant's own still, claimed or revoked: past the epochs of both. */
    atomic_store(&peer->conns.word, gauge_with_count(claimed + GAUGE_EPOCH, 0));
    return PEER_AGAIN;
}

/* A place for a key that had no entry. */
static enum peer_result take_new(struct peer_key key, uint64_t ceiling, uint32_t *peer)
{
    enum peer_result result;
    do {
        lease mine = lock_peers();
        result = peer_take(key, ceiling, peer);
        if (result == PEER_ABSENT)
            result = peer_insert(key, mine, peer);
        lease_give(&service.segment->peers_lock, mine);
    } while (result == PEER_AGAIN && service_active());
    return result;
}

bool peers_reserve(struct peer_key key, bool certain, uint32_t *peer)
{
    *peer = 0;
    if (!service_active() || (key.word[0] == 0 && key.word[1] == 0))
        return true;
    if (!growth_reach_peers(service.segment, peer_start(key), PEER_PROBES))
        return true; /* as when there is no room in the table */
    uint64_t ceiling = segment_limit(service.segment, LIMIT_PEER_CONNS);
    enum peer_result result = peer_take(key, ceiling, peer);
    if (result == PEER_ABSENT)
        result = take_new(key, ceiling, peer);
    if (result == PEER_FULL && certain) {
        verify_count(*peer - 1, true);
        result = peer_take(key, ceiling, peer);
    }
    if (result != PEER_TAKEN)
        *peer = 0;
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
    uint32_t start = peer_start(key);
    if (ceiling == LIMIT_OFF || (key.word[0] == 0 && key.word[1] == 0) ||
        !growth_reach_peers(service.segment, start, PEER_PROBES))
        return true;
    for (uint32_t i = 0; i < PEER_PROBES; i++) {
        const struct segment_peer *peer = &service.segment->peer[(start + i) % SEGMENT_PEERS];
        uint32_t count = peer_count(atomic_load(&peer->conns.word));
        if (count > 0 && peer_is(peer, key)) {
            if (count < ceiling)
                return true;
            verify_count((start + i) % SEGMENT_PEERS, false);
            return peer_count(atomic_load(&peer->conns.word)) < ceiling;
        }
    }
    return true;
}
