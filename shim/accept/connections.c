/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "accept/connections.h"

#include "accept/peers.h"
#include "base/gauge.h"
#include "base/sockdiag.h"
#include "base/trace.h"
#include "fd/witness.h"
#include "process/service.h"
#include "segment/growth.h"

#include <errno.h>
#include <string.h>

#define SECOND_NS UINT64_C(1000000000)
#define WINDOW_LEAST 1024
#define FREED_GAPS 8
#define FREED_GAP_MOST_NS SECOND_NS

/* How many descriptors of this process refer to each slot. Copied by fork, like the descriptors. */
static _Atomic uint16_t local_references[SEGMENT_CONNS];
/* Children being spawned just now. */
static _Atomic uint32_t spawning;

/* The slot of a tracked descriptor, or NULL when it was freed since. */
static struct segment_conn *open_slot(descriptor what)
{
    uint32_t slot = descriptor_index(what);
    if (slot >= SEGMENT_CONNS)
        return NULL;
    uint32_t state = atomic_load(&service.segment->conn_state[slot]);
    if (conn_phase(state) != CONN_OPEN || state >> 2 != descriptor_generation(what))
        return NULL;
    return &service.segment->conn[slot];
}

/* --- slots --- */

static uint64_t holder_bits(uint32_t process)
{
    return process + 1;
}

static bool holders_contain(uint64_t holders, uint32_t process)
{
    for (unsigned i = 0; i < CONN_HOLDERS; i++)
        if ((holders >> 16 * i & 0xffff) == holder_bits(process))
            return true;
    return false;
}

/* Adds a holder; false when all places are taken. */
static bool holders_add(struct segment_conn *conn, uint32_t process, bool *added)
{
    uint64_t holders = atomic_load(&conn->holders);
    *added = false;
    for (;;) {
        unsigned place = 0;
        if (holders_contain(holders, process))
            return true;
        while (place < CONN_HOLDERS && (holders >> 16 * place & 0xffff) != 0)
            place++;
        if (place == CONN_HOLDERS)
            return false;
        if (atomic_compare_exchange_weak(&conn->holders, &holders,
                                         holders | holder_bits(process) << 16 * place)) {
            *added = true;
            return true;
        }
    }
}

/* Takes a holder off; true when it was there. `rest` gets those that remain. */
static bool holders_remove(struct segment_conn *conn, uint32_t process, uint64_t *rest)
{
    uint64_t holders = atomic_load(&conn->holders);
    for (;;) {
        unsigned place = 0;
        while (place < CONN_HOLDERS && (holders >> 16 * place & 0xffff) != holder_bits(process))
            place++;
        if (place == CONN_HOLDERS)
            return false;
        *rest = holders & ~(UINT64_C(0xffff) << 16 * place);
        if (atomic_compare_exchange_weak(&conn->holders, &holders, *rest))
            return true;
    }
}

/* Two at once may lose one of the two notes. */
static void note_freed(struct segment *segment)
{
    uint64_t now = monotonic_ns();
    uint64_t last = atomic_load_explicit(&segment->freed_ns, memory_order_relaxed);
    uint64_t gap = now > last ? now - last : 0;
    uint64_t mean = atomic_load_explicit(&segment->freed_gap_ns, memory_order_relaxed);
    gap = gap < FREED_GAP_MOST_NS ? gap : FREED_GAP_MOST_NS;
    atomic_store_explicit(&segment->freed_gap_ns, mean - mean / FREED_GAPS + gap / FREED_GAPS,
                          memory_order_relaxed);
    atomic_store_explicit(&segment->freed_ns, now, memory_order_relaxed);
}

/* Between reservation_change_begins and its end. True when it was freed, and that was told. */
static bool free_slot(uint32_t slot, uint32_t state)
{
    struct segment *segment = service.segment;
    struct segment_conn *conn = &segment->conn[slot];
    uint32_t peer = atomic_load(&conn->peer);

    if (!atomic_compare_exchange_strong(&segment->conn_state[slot], &state,
                                        (state & ~3U) | CONN_CLOSING))
        return false;
    gauge_touch(&segment->conns);
    if (peer && peer <= SEGMENT_PEERS)
        gauge_touch(&segment->peer[peer - 1].conns);
    atomic_store(&conn->holders, 0);
    connection_features->freed(slot);
    atomic_store(&segment->conn_state[slot], ((state >> 2) + 1) << 2 | CONN_FREE);
    peers_cancel(peer);
    gauge_give(&segment->conns);
    note_freed(segment);
    segment_wake(segment, false);
    trace(TRACE_ACCEPT, "free", TRACE_NO_FD, "slot", slot, NULL, 0);
    return true;
}

static uint32_t conns_ready(const struct segment *segment)
{
    uint32_t ready = atomic_load_explicit(&segment->ready[GROWING_CONNS], memory_order_relaxed);
    return ready < SEGMENT_CONNS ? ready : SEGMENT_CONNS;
}

/* A slot for a new connection: spread over a window twice as large as what is open, so that a free
 * one is found at once and the memory touched stays in proportion. */
static uint32_t find_slot(uint32_t *generation)
{
    struct segment *segment = service.segment;
    uint32_t open = gauge_count(&segment->conns), window = WINDOW_LEAST;
    while (window < SEGMENT_CONNS && window < open * 2)
        window *= 2;
    if (!growth_reach(segment, GROWING_CONNS, window - 1))
        window = conns_ready(segment);
    uint32_t start = atomic_fetch_add(&segment->conns_cursor, 1), ready = conns_ready(segment);
    for (uint32_t i = 0; window > 0 && i < window + ready; i++) {
        uint32_t slot = i < window ? (start + i) % window : i - window;
        uint32_t state = atomic_load(&segment->conn_state[slot]);
        if (conn_phase(state) != CONN_FREE ||
            !atomic_compare_exchange_strong(&segment->conn_state[slot], &state,
                                            state | CONN_OPENING))
            continue;
        uint32_t used = atomic_load(&segment->conns_used);
        while (used <= slot && !atomic_compare_exchange_weak(&segment->conns_used, &used, slot + 1))
            ;
        *generation = state >> 2;
        return slot;
    }
    return SEGMENT_CONNS;
}

static void note_family(struct segment *segment, int family)
{
    uint32_t bit = family == AF_UNIX    ? FAMILY_UNIX
                   : family == AF_INET6 ? FAMILY_INET6
                                        : FAMILY_INET;
    if (!(atomic_load_explicit(&segment->families, memory_order_relaxed) & bit))
        atomic_fetch_or(&segment->families, bit);
}

void connections_commit(int fd, struct connection_origin origin, bool auditable, uint32_t peer)
{
    struct segment *segment = service.segment;
    struct segment_process *self = service_self();
    uint32_t generation = 0, slot = service_active() ? find_slot(&generation) : SEGMENT_CONNS;

    if (slot == SEGMENT_CONNS) {
        descriptor_put(fd, 0);
        if (!service_active())
            return;
        peers_cancel(peer);
        service_count(COUNTER_UNTRACKED, 1);
        gauge_give(&self->conns);
        gauge_give(&segment->conns);
        reservation_change_ends();
        return;
    }
    struct segment_conn *conn = &segment->conn[slot];
    note_family(segment, origin.family);
    atomic_store(&conn->inode, sockdiag_inode(fd));
    atomic_store(&conn->accepted_ns, monotonic_ns());
    atomic_store(&conn->peer, peer);
    atomic_store(&conn->grant, 0);
    atomic_store(&conn->told_sndbuf, 0);
    atomic_store(&conn->flags, (auditable && !service.foreign_network ? 0U : CONN_FOREIGN) |
                                   (origin.family == AF_UNIX ? CONN_UNIX : 0U) |
                                   (service.self == 0 ? CONN_SHARED : 0U));
    atomic_store(&conn->holders, holder_bits(service.self));
    atomic_store(&local_references[slot], 1);
    atomic_store(&segment->conn_state[slot], generation << 2 | CONN_OPEN);
    reservation_change_ends();
    descriptor_put(fd, descriptor_make(DESCRIPTOR_CONN, slot, generation));
    connection_features->begins(fd, slot, generation, origin);
    service_count(COUNTER_ACCEPTED, 1);
    gauge_raise_peak(&self->counter[COUNTER_CONNS_PEAK], gauge_count(&self->conns));
    gauge_raise_peak(&segment->conns_peak, gauge_count(&segment->conns));
}

void connections_count(int fd, int family)
{
    reservation_change_begins();
    gauge_take(&service.segment->conns, UINT64_MAX);
    gauge_take(&service_self()->conns, UINT64_MAX);
    connections_commit(fd, (struct connection_origin){.family = family, .status = -1}, true, 0);
}

bool connections_adopt(int fd, uint64_t inode)
{
    struct segment *segment = service.segment;
    uint32_t used = atomic_load(&segment->conns_used);

    for (uint32_t slot = 0; slot < used && slot < SEGMENT_CONNS; slot++) {
        uint32_t state = atomic_load(&segment->conn_state[slot]);
        struct segment_conn *conn = &segment->conn[slot];
        bool added;
        if (conn_phase(state) != CONN_OPEN || atomic_load(&conn->inode) != inode)
            continue;
        reservation_change_begins();
        if (!holders_add(conn, service.self, &added))
            atomic_fetch_or(&conn->flags, CONN_SHARED);
        if (added) {
            gauge_take(&service_self()->conns, UINT64_MAX);
            connection_features->shared(slot, service.self);
            atomic_store(&local_references[slot], 0);
        }
        bool first = atomic_load(&local_references[slot]) == 0;
        atomic_fetch_add(&local_references[slot], 1);
        reservation_change_ends();
        descriptor_put(fd, descriptor_make(DESCRIPTOR_CONN, slot, state >> 2));
        if (first)
            connection_features->begins(
                fd, slot, state >> 2,
                (struct connection_origin){
                    .family = atomic_load(&conn->flags) & CONN_UNIX ? AF_UNIX : AF_INET,
                    .status = -1,
                    .inherited = true});
        return true;
    }
    return false;
}

void connections_retain(descriptor what)
{
    if (open_slot(what))
        atomic_fetch_add(&local_references[descriptor_index(what)], 1);
}

void connections_departing(int fd, descriptor what, struct departure *departure)
{
    struct segment_conn *conn = open_slot(what);
    uint32_t slot = descriptor_index(what);

    connection_features->closes(fd, what);
    departure->verify = conn && atomic_load(&local_references[slot]) == 1 &&
                        (atomic_load(&conn->flags) & CONN_SHARED || atomic_load(&spawning) > 0);
    if (departure->verify)
        departure->set = witness_watch(fd, slot, descriptor_generation(what));
}

void connections_stay(const struct departure *departure)
{
    if (departure->verify)
        witness_drop(departure->set);
}

/* Whoever proves that nobody holds it any more frees it: this process, if it watches it. */
static void leave_to_audits(struct segment_conn *conn, uint32_t slot, uint32_t generation)
{
    uint32_t witness = witness_watches(slot, generation) ? service.self + 1 : 0;
    uint32_t flags = atomic_load(&conn->flags);
    while (!atomic_compare_exchange_weak(&conn->flags, &flags,
                                         (flags & CONN_FLAG_BITS) | CONN_SHARED |
                                             witness << CONN_WITNESS_SHIFT))
        ;
}

bool connections_beyond_proof(void)
{
    static _Atomic bool said;
    const struct segment *segment = service.segment;
    if (!atomic_load(&segment->sockdiag_error) || !atomic_load(&segment->holdings_error))
        return false;
    if (!atomic_exchange(&said, true))
        service_say("neither sock_diag nor /proc can be asked here",
                    ": connections that other programs inherit are not counted");
    return true;
}

/* Nobody whom the table knows holds it. True when it was freed, and somebody was told. */
static bool free_if_nobodys(struct segment_conn *conn, descriptor what, enum witness_answer answer,
                            bool shared)
{
    uint32_t slot = descriptor_index(what), generation = descriptor_generation(what);
    shared = shared || atomic_load(&conn->flags) & CONN_SHARED;
    if (shared && answer != WITNESS_GONE &&
        !(answer == WITNESS_UNKNOWN && connections_beyond_proof())) {
        leave_to_audits(conn, slot, generation);
        return false;
    }
    return free_slot(slot, generation << 2 | CONN_OPEN);
}

/* The last descriptor of this process is closed. True when a slot was freed. */
static bool let_go(struct segment_conn *conn, descriptor what, const struct departure *departure)
{
    uint64_t rest;
    enum witness_answer answer = departure->verify ? witness_ask(departure->set) : WITNESS_UNKNOWN;

    connection_features->ends(descriptor_index(what), descriptor_generation(what));
    gauge_touch(&service_self()->conns);
    if (holders_remove(conn, service.self, &rest)) {
        gauge_give(&service_self()->conns);
        connection_features->left(descriptor_index(what), service.self);
    } else {
        rest = atomic_load(&conn->holders); /* this process was one too many to be named there */
    }
    if (answer == WITNESS_GONE && rest != 0)
        return connections_free_lost(descriptor_index(what),
                                     descriptor_generation(what) << 2 | CONN_OPEN);
    return rest == 0 && free_if_nobodys(conn, what, answer, departure->verify);
}

void connections_departed(descriptor what, const struct departure *departure)
{
    struct segment_conn *conn = open_slot(what);
    int saved = errno;

    if (!conn || atomic_fetch_sub(&local_references[descriptor_index(what)], 1) > 1) {
        connections_stay(departure);
        errno = saved;
        return;
    }
    reservation_change_begins();
    if (!let_go(conn, what, departure))
        segment_wake(service.segment, false);
    reservation_change_ends();
    connection_features->room_made();
    errno = saved;
}

static void share(descriptor what, uint32_t flags)
{
    struct segment_conn *conn = open_slot(what);
    if (conn && (atomic_load(&conn->flags) & flags) != flags)
        atomic_fetch_or(&conn->flags, flags);
}

void connections_passed(descriptor what)
{
    share(what, CONN_SHARED | CONN_PASSED);
}

static void share_all(void)
{
    int end = descriptors_end();
    for (int fd = 0; fd < end; fd++)
        if (descriptor_kind(descriptor_at(fd)) == DESCRIPTOR_CONN)
            share(descriptor_at(fd), CONN_SHARED);
}

void connections_spawning(void)
{
    atomic_fetch_add(&spawning, 1);
    share_all();
}

void connections_spawned(void)
{
    share_all(); /* what another thread accepted before the child was there */
    atomic_fetch_sub(&spawning, 1);
}

void connections_inherit(uint32_t child)
{
    int end = descriptors_end();
    for (int fd = 0; fd < end; fd++) {
        descriptor what = descriptor_at(fd);
        bool added = false;
        if (descriptor_kind(what) != DESCRIPTOR_CONN)
            continue;
        struct segment_conn *conn = open_slot(what);
        if (!conn)
            continue;
        if (child == 0 || !holders_add(conn, child, &added))
            atomic_fetch_or(&conn->flags, CONN_SHARED);
        if (added) {
            gauge_take(&service.segment->process[child].conns, UINT64_MAX);
            connection_features->shared(descriptor_index(what), child);
        }
    }
}

/* Takes `holder` off a slot, whoever it is, and frees what nobody else can hold. */
static void forget_holder(uint32_t slot, uint32_t holder)
{
    struct segment *segment = service.segment;
    struct segment_conn *conn = &segment->conn[slot];
    uint32_t state = atomic_load(&segment->conn_state[slot]);
    uint64_t rest;

    if (conn_phase(state) != CONN_OPEN || !holders_contain(atomic_load(&conn->holders), holder))
        return;
    reservation_change_begins();
    gauge_touch(&segment->process[holder].conns);
    if (holders_remove(conn, holder, &rest)) {
        gauge_give(&segment->process[holder].conns);
        connection_features->left(slot, holder);
        if (rest == 0 && !(atomic_load(&conn->flags) & CONN_SHARED))
            free_slot(slot, state);
    }
    reservation_change_ends();
}

/* The process watches nothing any more: it has ended, or became another program. */
static void forget_witness(uint32_t slot, uint32_t process)
{
    struct segment_conn *conn = &service.segment->conn[slot];
    uint32_t flags = atomic_load(&conn->flags);
    while (flags >> CONN_WITNESS_SHIFT == process + 1 &&
           !atomic_compare_exchange_weak(&conn->flags, &flags, flags & CONN_FLAG_BITS))
        ;
}

void connections_forget_unadopted(void)
{
    uint32_t used = atomic_load(&service.segment->conns_used);
    for (uint32_t slot = 0; slot < used && slot < SEGMENT_CONNS; slot++) {
        forget_witness(slot, service.self);
        if (atomic_load(&local_references[slot]) == 0)
            forget_holder(slot, service.self);
    }
}

void connections_forget_process(uint32_t holder, bool proved)
{
    struct segment *segment = service.segment;
    uint32_t used = atomic_load(&segment->conns_used);
    for (uint32_t slot = 0; slot < used && slot < SEGMENT_CONNS; slot++) {
        if (!proved && holders_contain(atomic_load(&segment->conn[slot].holders), holder))
            atomic_fetch_or(&segment->conn[slot].flags, CONN_SHARED); /* an audit frees it */
        forget_witness(slot, holder);
        forget_holder(slot, holder);
    }
}

bool connections_free_lost(uint32_t slot, uint32_t state)
{
    struct segment *segment = service.segment;
    struct segment_conn *conn = &segment->conn[slot];
    uint64_t holders = atomic_load(&conn->holders);
    uint32_t grant = atomic_load(&conn->grant);

    reservation_change_begins();
    bool freed = atomic_load(&segment->conn_state[slot]) == state && free_slot(slot, state);
    for (unsigned i = 0; freed && i < CONN_HOLDERS; i++) {
        uint32_t holder = (uint32_t)(holders >> 16 * i & 0xffff);
        if (holder && holder <= SEGMENT_PROCESSES) {
            gauge_give(&segment->process[holder - 1].conns);
            gauge_give_many(&segment->process[holder - 1].credit, grant);
        }
    }
    reservation_change_ends();
    return freed;
}

bool connections_free_orphan(uint32_t slot, uint32_t state)
{
    struct segment *segment = service.segment;
    reservation_change_begins();
    gauge_touch(&segment->conns);
    bool freed = atomic_compare_exchange_strong(&segment->conn_state[slot], &state,
                                                ((state >> 2) + 1) << 2 | CONN_FREE);
    reservation_change_ends();
    return freed;
}

bool connections_held_here(uint32_t slot, uint32_t generation)
{
    return open_slot(descriptor_make(DESCRIPTOR_CONN, slot, generation)) &&
           atomic_load(&local_references[slot]) > 0;
}

bool connections_held_alone(uint32_t slot)
{
    const struct segment_conn *conn = &service.segment->conn[slot];
    return atomic_load(&local_references[slot]) == 1 &&
           atomic_load(&conn->holders) == holder_bits(service.self) &&
           !(atomic_load(&conn->flags) & (CONN_SHARED | CONN_PASSED));
}
