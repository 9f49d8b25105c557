/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "policy/peer_table.h"

#include <netinet/in.h>
#include <string.h>

struct peer_key peer_table_key(const struct sockaddr_storage *address)
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

uint32_t peer_table_start(struct peer_key key)
{
    uint64_t hash = (key.word[0] ^ key.word[1] * UINT64_C(0x9e3779b97f4a7c15));
    hash = (hash ^ hash >> 29) * UINT64_C(0xbf58476d1ce4e5b9);
    return (uint32_t)(hash >> 40) % SEGMENT_PEERS;
}

static bool peer_is(const struct segment_peer *peer, struct peer_key key)
{
    return atomic_load(&peer->key[0]) == key.word[0] && atomic_load(&peer->key[1]) == key.word[1];
}

/* Raises the count of the key's entry; the epoch tells if the entry changed hands meanwhile. */
enum peer_result peer_table_take(struct segment_peer *table, struct peer_key key, uint64_t ceiling,
                                 uint32_t *index_out)
{
    uint32_t start = peer_table_start(key);
    for (uint32_t i = 0; i < PEER_TABLE_PROBES; i++) {
        uint32_t index = (start + i) % SEGMENT_PEERS;
        struct segment_peer *peer = &table[index];
        uint64_t word = atomic_load(&peer->conns.word);
        while (peer_is(peer, key)) {
            if (peer_count(word) == 0)
                break; /* free: taken over below, under the lock */
            *index_out = index;
            if ((uint32_t)word >= ceiling)
                return PEER_FULL;
            if (atomic_compare_exchange_weak(&peer->conns.word, &word,
                                             gauge_with_count(word, (uint32_t)word + 1)))
                return PEER_TAKEN;
        }
    }
    return PEER_ABSENT;
}

struct segment_peer *peer_table_find(struct segment_peer *table, struct peer_key key)
{
    uint32_t start = peer_table_start(key);
    for (uint32_t i = 0; i < PEER_TABLE_PROBES; i++) {
        struct segment_peer *peer = &table[(start + i) % SEGMENT_PEERS];
        if (peer_count(atomic_load(&peer->conns.word)) > 0 && peer_is(peer, key))
            return peer;
    }
    return NULL;
}

/* --- a new entry --- */

/* Changes the lower half of an entry's gauge from what `word` says; false when it moved on. */
static bool change_count(struct segment_peer *peer, uint64_t word, uint32_t count)
{
    return atomic_compare_exchange_strong(&peer->conns.word, &word, gauge_with_count(word, count));
}

/* An entry whose key was being written by one who lost the lock: it is not to be published. */
static void revoke_claim(struct segment_peer *peer, uint64_t word, bool (*gone)(uint32_t process))
{
    uint32_t flags = (uint32_t)word & (PEER_CLAIMED | PEER_REVOKED);
    uint32_t process = (uint32_t)word & ~flags;
    if (flags == PEER_CLAIMED)
        change_count(peer, word, PEER_REVOKED | process);
    else if (flags && (process >= SEGMENT_PROCESSES || gone(process)))
        change_count(peer, word, 0);
}

/* The first free entry for the key, after every claim there is was revoked: PEER_TAKEN. PEER_AGAIN
 * when the key has an entry by now. */
static enum peer_result find_free(struct segment_peer *table, struct peer_key key,
                                  bool (*gone)(uint32_t process), uint32_t *out, uint64_t *out_word)
{
    uint32_t start = peer_table_start(key);
    enum peer_result result = PEER_ABSENT;
    for (uint32_t i = 0; i < PEER_TABLE_PROBES; i++) {
        uint32_t index = (start + i) % SEGMENT_PEERS;
        struct segment_peer *peer = &table[index];
        revoke_claim(peer, atomic_load(&peer->conns.word), gone);
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

enum peer_result peer_table_insert(struct segment_peer *table, struct peer_key key,
                                   struct peer_claimant claimant, uint32_t *index_out)
{
    uint32_t index = 0;
    uint64_t word = 0, claimed;
    enum peer_result result = find_free(table, key, claimant.gone, &index, &word);
    if (result != PEER_TAKEN)
        return result;
    struct segment_peer *peer = &table[index];
    claimed = gauge_with_count(word, PEER_CLAIMED | claimant.process);
    if (!atomic_compare_exchange_strong(&peer->conns.word, &word, claimed))
        return PEER_AGAIN;
    if (claimant.holds(claimant.mine)) {
        atomic_store(&peer->key[0], key.word[0]);
        atomic_store(&peer->key[1], key.word[1]);
        if (change_count(peer, claimed, 1)) {
            *index_out = index;
            return PEER_TAKEN;
        }
    }
    /* The claimant's own still, claimed or revoked: past the epochs of both. */
    atomic_store(&peer->conns.word, gauge_with_count(claimed + GAUGE_EPOCH, 0));
    return PEER_AGAIN;
}
