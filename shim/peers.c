/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "peers.h"

#include "audit.h"
#include "growth.h"
#include "real.h"
#include "service.h"

#include <netinet/in.h>
#include <string.h>
#include <sys/syscall.h>

#define PEER_PROBES 256
/* Longer than any holder of a lock runs: one that was stopped or killed inside is passed over. */
#define LOCK_PATIENCE_NS (UINT64_C(20) * 1000000)

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

enum peer_result { PEER_TAKEN, PEER_FULL, PEER_ABSENT };

/* Raises the count of the key's entry; the epoch tells if the entry changed hands meanwhile. */
static enum peer_result peer_take(struct peer_key key, uint64_t ceiling, uint32_t *out)
{
    uint32_t start = peer_start(key);
    for (uint32_t i = 0; i < PEER_PROBES; i++) {
        uint32_t index = (start + i) % SEGMENT_PEERS;
        struct segment_peer *peer = &service.segment->peer[index];
        uint64_t word = atomic_load(&peer->conns.word);
        while (peer_is(peer, key)) {
            if ((uint32_t)word == 0)
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

static void lock_peers(void)
{
    _Atomic uint64_t *lock = &service.segment->peers_lock;
    uint64_t started = monotonic_ns(), none = 0;
    while (!atomic_compare_exchange_weak(lock, &none, started)) {
        if (none && monotonic_ns() - started > LOCK_PATIENCE_NS) {
            atomic_store(lock, started);
            return;
        }
        none = 0;
        kernel_call(SYS_sched_yield);
    }
}

static enum peer_result peer_insert(struct peer_key key, uint32_t *out)
{
    uint32_t start = peer_start(key);
    for (uint32_t i = 0; i < PEER_PROBES; i++) {
        uint32_t index = (start + i) % SEGMENT_PEERS;
        struct segment_peer *peer = &service.segment->peer[index];
        uint64_t word = atomic_load(&peer->conns.word);
        if ((uint32_t)word != 0)
            continue;
        atomic_store(&peer->key[0], key.word[0]);
        atomic_store(&peer->key[1], key.word[1]);
        atomic_store(&peer->conns.word, gauge_with_count(word, 1));
        *out = index + 1;
        return PEER_TAKEN;
    }
    return PEER_ABSENT;
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
    if (result == PEER_ABSENT) {
        lock_peers();
        result = peer_take(key, ceiling, peer);
        if (result == PEER_ABSENT)
            result = peer_insert(key, peer);
        atomic_store(&service.segment->peers_lock, 0);
    }
    if (result == PEER_FULL && certain) {
        audit_run();
        audit_peer(*peer - 1);
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
        if (gauge_count(&peer->conns) > 0 && peer_is(peer, key)) {
            if (gauge_count(&peer->conns) < ceiling)
                return true;
            audit_peer((start + i) % SEGMENT_PEERS);
            return gauge_count(&peer->conns) < ceiling;
        }
    }
    return true;
}
