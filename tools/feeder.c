/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "feeder.h"

#include "services.h"

#include "../shim/base/due.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WALK_EVERY_NS UINT64_C(100000000)
#define WALK_SHARE 200 /* a walk is due again after so many times its own cost */
#define BUCKETS_MAX 512
#define DROPS_ROOM 4096
#define TRACE_FOR_NS UINT64_C(300000000)
#define STANDS_FOR_NS UINT64_C(60000000000)

/* One entry of `depth` in the making. */
struct entry {
    struct depth_key key;
    struct depth depth;
    __u64 cookie; /* of the last listener that was seen, if it has one */
    bool listens;
    unsigned walk;
    __u64 queue_before, arrived_before, moved_ns;
    struct bucket {
        __u32 from_us, below_us;
        __u64 connections;
    } bucket[BUCKETS_MAX];
    size_t buckets;
};

/* sk_drops of a listener when it was first seen: what came before is not ours to count. */
struct drops_base {
    __u64 socket, base;
    unsigned walk;
};

struct feeder {
    struct loader *loader;
    struct entry **entry;
    size_t entries, room;
    struct drops_base *drops;
    size_t drops_used;
    unsigned walk;
    size_t sockets;
    bool tracing;      /* accept, which costs */
    __u64 standing_ns; /* when connections last stood in a queue */
};

struct feeder *feeder_new(struct loader *loader)
{
    struct feeder *feeder = calloc(1, sizeof *feeder);
    if (!feeder)
        return NULL;
    feeder->loader = loader;
    feeder->drops = calloc(DROPS_ROOM, sizeof *feeder->drops);
    if (!feeder->drops) {
        free(feeder);
        return NULL;
    }
    return feeder;
}

void feeder_free(struct feeder *feeder)
{
    for (size_t i = 0; i < feeder->entries; i++)
        free(feeder->entry[i]);
    free(feeder->entry);
    free(feeder->drops);
    free(feeder);
}

/* --- the entries, sorted by key --- */

static int by_key(const void *left, const void *right)
{
    return memcmp(left, right, sizeof(struct depth_key));
}

static size_t place_of(const struct feeder *feeder, const struct depth_key *key)
{
    size_t low = 0, high = feeder->entries;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (by_key(&feeder->entry[middle]->key, key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct entry *find(const struct feeder *feeder, const struct depth_key *key)
{
    size_t place = place_of(feeder, key);
    return place < feeder->entries && by_key(&feeder->entry[place]->key, key) == 0
               ? feeder->entry[place]
               : NULL;
}

static struct entry *find_or_add(struct feeder *feeder, const struct depth_key *key)
{
    struct entry *entry = find(feeder, key);
    if (entry)
        return entry;
    if (feeder->entries == feeder->room) {
        size_t room = feeder->room ? feeder->room * 2 : 64;
        struct entry **grown = realloc(feeder->entry, room * sizeof(struct entry *));
        if (!grown)
            return NULL;
        feeder->entry = grown;
        feeder->room = room;
    }
    entry = calloc(1, sizeof *entry);
    if (!entry)
        return NULL;
    size_t place = place_of(feeder, key);
    memmove(&feeder->entry[place + 1], &feeder->entry[place],
            (feeder->entries - place) * sizeof(struct entry *));
    entry->key = *key;
    feeder->entry[place] = entry;
    feeder->entries++;
    return entry;
}

/* --- one walk --- */

static void raise_to(__u64 *peak, __u64 value)
{
    if (*peak < value)
        *peak = value;
}

/* Drops since the listener was first seen by this feeder; all of them when it came later. */
static __u64 drops_since(struct feeder *feeder, const struct socket_record *record)
{
    size_t i = 0;
    while (i < feeder->drops_used && feeder->drops[i].socket != record->socket)
        i++;
    if (i == DROPS_ROOM)
        return 0;
    struct drops_base *known = &feeder->drops[i];
    if (i == feeder->drops_used) {
        feeder->drops_used++;
        known->socket = record->socket;
        known->base = feeder->walk > 1 ? 0 : record->drops;
    }
    if (known->base > record->drops) /* another one at the same place */
        known->base = 0;
    known->walk = feeder->walk;
    return record->drops - known->base;
}

static void start_anew(struct entry *entry, const struct socket_record *record, unsigned walk)
{
    struct depth *depth = &entry->depth;
    entry->walk = walk;
    entry->buckets = 0;
    entry->listens = false;
    memcpy(depth->command, record->command, sizeof depth->command);
    depth->accept_queue = depth->accept_queue_limit = depth->connections = 0;
    depth->dropped_queue_full = depth->refused_by_gate = 0;
    depth->send_queue_bytes = depth->unsent_bytes = depth->receive_queue_bytes = 0;
    depth->arrived = depth->accept_waits = depth->accept_wait_p50_us = depth->accept_wait_p99_us =
        0;
}

/* BPF prints IPv6 addresses in full; people write them short (RFC 5952). */
static void set_address(struct depth *depth, const struct socket_record *record)
{
    struct in6_addr address;
    char text[INET6_ADDRSTRLEN];
    memset(depth->address, 0, sizeof depth->address);
    memcpy(text, record->address, sizeof text - 1);
    text[sizeof text - 1] = '\0';
    if (record->ip_version != 6 || inet_pton(AF_INET6, text, &address) != 1 ||
        !inet_ntop(AF_INET6, &address, depth->address, sizeof depth->address))
        memcpy(depth->address, record->address, sizeof depth->address);
}

static void add_listener(struct feeder *feeder, struct entry *entry,
                         const struct socket_record *record)
{
    struct depth *depth = &entry->depth;
    struct listening_key key = {record->network, record->port, record->ip_version};
    struct listening counted = {0};
    __u64 drops = drops_since(feeder, record);

    set_address(depth, record);
    entry->cookie = record->cookie;
    entry->listens = true;
    depth->accept_queue += record->accept_queue;
    depth->accept_queue_limit += record->accept_queue_limit;
    if (record->ip_version && loader_listening(feeder->loader, &key, record->socket, &counted)) {
        raise_to(&depth->accept_queue_peak, counted.accept_queue_peak);
        depth->refused_by_gate = counted.refused_by_gate;
        depth->arrived = counted.arrived;
    }
    depth->dropped_queue_full +=
        drops > counted.refused_by_gate ? drops - counted.refused_by_gate : 0;
}

static void add(const struct socket_record *record, void *context)
{
    struct feeder *feeder = context;
    struct depth_key key = {record->process, record->port, record->ip_version,
                            record->state == PROBE_LISTENER ? record->unix_inode : 0};
    feeder->sockets++;
    /* A connected AF_UNIX socket does not tell whose it is. */
    if (record->ip_version == 0 && record->state != PROBE_LISTENER)
        return;
    struct entry *entry = find_or_add(feeder, &key);
    if (!entry)
        return;
    if (entry->walk != feeder->walk)
        start_anew(entry, record, feeder->walk);
    if (record->state == PROBE_LISTENER) {
        add_listener(feeder, entry, record);
        return;
    }
    struct depth *depth = &entry->depth;
    if (!depth->address[0])
        set_address(depth, record);
    depth->connections++;
    depth->send_queue_bytes += record->send_queue_bytes;
    depth->unsent_bytes += record->unsent_bytes;
    depth->receive_queue_bytes += record->receive_queue_bytes;
}

/* --- accept waits --- */

static bool add_wait(const struct accept_wait_key *key, const struct accept_wait *wait,
                     void *context)
{
    struct feeder *feeder = context;
    struct depth_key whose = {key->process, key->port, key->ip_version, 0};
    struct entry *entry = find(feeder, &whose);
    if (!entry || entry->walk != feeder->walk)
        return true; /* its process has gone, or listens no more */
    entry->depth.accept_waits += wait->connections;
    raise_to(&entry->depth.accept_wait_max_us, wait->longest_us);
    if (entry->buckets < BUCKETS_MAX)
        entry->bucket[entry->buckets++] =
            (struct bucket){key->from_us, key->below_us, wait->connections};
    return false;
}

static int by_time(const void *left, const void *right)
{
    const struct bucket *a = left, *b = right;
    return (a->from_us > b->from_us) - (a->from_us < b->from_us);
}

/*
 * Connections that came while accept was not traced did not stand in the queue from one walk to the
 * next: they were accepted at once. Of several processes that accept at a port, each is taken to
 * have had an even part of them.
 */
static __u64 accepted_at_once(const struct feeder *feeder, const struct entry *entry)
{
    __u64 traced = 0, processes = 0;
    for (size_t i = 0; i < feeder->entries; i++) {
        const struct entry *other = feeder->entry[i];
        if (other->key.port == entry->key.port && other->key.ip_version == entry->key.ip_version &&
            other->depth.accept_waits + other->depth.connections > 0) {
            traced += other->depth.accept_waits;
            processes++;
        }
    }
    traced += entry->depth.accept_queue;
    return processes && entry->depth.arrived > traced ? (entry->depth.arrived - traced) / processes
                                                      : 0;
}

/* The wait that a share of the connections did not exceed: the middle of the bucket it falls into.
 */
static __u64 percentile(const struct entry *entry, __u64 at_once, double part)
{
    __u64 seen = at_once;
    __u64 wanted = (__u64)((double)(entry->depth.accept_waits + at_once) * part);
    if (seen > wanted)
        return 0;
    for (size_t i = 0; i < entry->buckets; i++) {
        const struct bucket *bucket = &entry->bucket[i];
        seen += bucket->connections;
        if (seen > wanted || i + 1 == entry->buckets) {
            __u64 middle = ((__u64)bucket->from_us + bucket->below_us) / 2;
            return middle < entry->depth.accept_wait_max_us ? middle
                                                            : entry->depth.accept_wait_max_us;
        }
    }
    return 0;
}

/* --- after the walk --- */

static bool still_there(const struct depth_key *key, void *context)
{
    const struct feeder *feeder = context;
    const struct entry *entry = find(feeder, key);
    return entry && entry->walk == feeder->walk;
}

static bool still_listening(const struct listening_key *key, void *context)
{
    const struct feeder *feeder = context;
    for (size_t i = 0; i < feeder->entries; i++)
        if (feeder->entry[i]->walk == feeder->walk && feeder->entry[i]->listens &&
            feeder->entry[i]->key.port == key->port &&
            feeder->entry[i]->key.ip_version == key->ip_version)
            return true;
    return false;
}

static void finish(const struct feeder *feeder, struct entry *entry)
{
    __u64 at_once = accepted_at_once(feeder, entry);
    struct depth *depth = &entry->depth;
    raise_to(&depth->accept_queue_peak, depth->accept_queue);
    raise_to(&depth->connections_peak, depth->connections);
    raise_to(&depth->send_queue_peak, depth->send_queue_bytes);
    raise_to(&depth->unsent_peak, depth->unsent_bytes);
    raise_to(&depth->receive_queue_peak, depth->receive_queue_bytes);
    qsort(entry->bucket, entry->buckets, sizeof *entry->bucket, by_time);
    depth->accept_wait_p50_us = percentile(entry, at_once, 0.5);
    depth->accept_wait_p99_us = percentile(entry, at_once, 0.99);
}

static void forget_the_gone(struct feeder *feeder)
{
    size_t kept = 0;
    for (size_t i = 0; i < feeder->entries; i++) {
        if (feeder->entry[i]->walk == feeder->walk)
            feeder->entry[kept++] = feeder->entry[i];
        else
            free(feeder->entry[i]);
    }
    feeder->entries = kept;
    kept = 0;
    for (size_t i = 0; i < feeder->drops_used; i++)
        if (feeder->drops[i].walk == feeder->walk)
            feeder->drops[kept++] = feeder->drops[i];
    feeder->drops_used = kept;
}

static void tell_listener(const struct feeder *feeder, struct segment_listener *listener)
{
    __u64 cookie = atomic_load(&listener->cookie);
    for (size_t i = 0; cookie && i < feeder->entries; i++) {
        const struct depth *depth = &feeder->entry[i]->depth;
        if (feeder->entry[i]->cookie != cookie)
            continue;
        atomic_store(&listener->probed_peak, (uint32_t)depth->accept_queue_peak);
        atomic_store(&listener->probed_dropped, depth->dropped_queue_full);
        atomic_store(&listener->probed_refused, depth->refused_by_gate);
        if (depth->accept_waits) { /* of several processes that hold it, one that accepts */
            atomic_store(&listener->probed_wait_p50_us, (uint32_t)depth->accept_wait_p50_us);
            atomic_store(&listener->probed_wait_p99_us, (uint32_t)depth->accept_wait_p99_us);
        }
        atomic_store(&listener->probed_ns, monotonic_ns());
    }
}

static void tell_service(struct service_file *service, enum segment_result result, void *context)
{
    if (result != SEGMENT_OK)
        return;
    uint32_t used = atomic_load(&service->segment->listeners_used);
    for (uint32_t i = 0; i < used && i < SEGMENT_LISTENERS; i++)
        tell_listener(context, &service->segment->listener[i]);
}

__u64 feeder_walk(struct feeder *feeder, size_t *sockets)
{
    uint64_t spent = spent_ns();
    feeder->walk++;
    feeder->sockets = 0;
    bool whole = loader_walk(feeder->loader, add, feeder);
    uint64_t cost = spent_ns() - spent;
    if (sockets)
        *sockets = feeder->sockets;
    if (!whole)
        return cost;
    loader_each_wait(feeder->loader, add_wait, feeder);
    forget_the_gone(feeder);
    for (size_t i = 0; i < feeder->entries; i++) {
        finish(feeder, feeder->entry[i]);
        loader_publish(feeder->loader, &feeder->entry[i]->key, &feeder->entry[i]->depth);
    }
    loader_prune(feeder->loader, still_there, feeder);
    loader_forget_listening(feeder->loader, still_listening, feeder);
    services_each(tell_service, feeder);
    return cost;
}

/* Accept is traced while connections stand in a queue, unless nothing has moved there for long. */
static void trace_while_needed(struct feeder *feeder)
{
    __u64 now = monotonic_ns();
    for (size_t i = 0; i < feeder->entries; i++) {
        struct entry *entry = feeder->entry[i];
        const struct depth *depth = &entry->depth;
        if (depth->accept_queue != entry->queue_before || depth->arrived != entry->arrived_before)
            entry->moved_ns = now;
        entry->queue_before = depth->accept_queue;
        entry->arrived_before = depth->arrived;
        if (depth->accept_queue > 0 && now - entry->moved_ns < STANDS_FOR_NS)
            feeder->standing_ns = now;
    }
    bool wanted = feeder->standing_ns && now - feeder->standing_ns < TRACE_FOR_NS;
    if (wanted != feeder->tracing)
        loader_trace_accepts(feeder->loader, wanted);
    feeder->tracing = wanted;
}

void feeder_run(struct feeder *feeder, const volatile sig_atomic_t *stop)
{
    while (!*stop) {
        uint64_t pause = feeder_walk(feeder, NULL) * WALK_SHARE;
        trace_while_needed(feeder);
        pause = pause > WALK_EVERY_NS ? pause : WALK_EVERY_NS;
        struct timespec time = {.tv_sec = (time_t)(pause / 1000000000),
                                .tv_nsec = (long)(pause % 1000000000)};
        nanosleep(&time, NULL); /* a signal that stops it ends this, too */
    }
}
