/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "accept/audit.h"

#include "accept/connections.h"
#include "accept/lost.h"
#include "base/due.h"
#include "base/sandbox.h"
#include "base/sockdiag.h"
#include "base/trace.h"
#include "process/descriptors.h"
#include "process/kept.h"
#include "process/processes.h"
#include "process/service.h"

#include <errno.h>

#define MILLISECOND UINT64_C(1000000)
#define SHARE 200 /* an audit is due again after so many times its own length */
#define REAP_SHARE 200
#define THOROUGH_EVERY 16 /* looks for dead processes, of which one finds zombies, too */
#define REAP_EVERY_NS (4 * MILLISECOND)
#define ORPHANS_AT_ONCE 16
#define SELF_EVERY_NS (1 * MILLISECOND)
#define DUMP_EVERY_NS (20 * MILLISECOND)
#define DUMP_LONGEST_NS (1000 * MILLISECOND)

static _Atomic uint64_t self_next_ns;
static _Atomic bool dumping;

static void tell_found(uint64_t found, const char *text)
{
    if (found == 0)
        return;
    trace(TRACE_SEGMENT, "found-closed", TRACE_NO_FD, "slots", found, NULL, 0);
    service_count(COUNTER_FOUND, found);
    service_event(EVENT_FOUND, found, text);
}

static void dump_if_due(uint64_t now)
{
    if (!due_claim(&service.segment->audit_next_ns, now, DUMP_LONGEST_NS))
        return;
    uint64_t spent = spent_ns();
    if (!atomic_exchange(&dumping, true)) {
        tell_found(lost_find(), "closed unseen; nobody has them any more");
        atomic_store(&dumping, false);
    }
    atomic_store(&service.segment->audit_next_ns, due_again(spent, SHARE, DUMP_EVERY_NS));
}

/* Looks whether each tracked descriptor still is the connection that it was when accepted. */
static void check_own_descriptors(void)
{
    int end = descriptors_end();
    uint64_t found = 0;

    for (int fd = 0; fd < end; fd++) {
        descriptor what = descriptor_at(fd);
        if (descriptor_kind(what) != DESCRIPTOR_CONN || descriptor_index(what) >= SEGMENT_CONNS)
            continue;
        uint64_t inode = atomic_load(&service.segment->conn[descriptor_index(what)].inode);
        if (sockdiag_is(fd, inode) == SOCKDIAG_OTHER)
            found += descriptor_lost(fd, what);
    }
    tell_found(found, "closed unseen in this process");
    tell_found(lost_watched(), "held by others; nobody has them any more");
}

/* Which slots a gauge counts. */
struct counted {
    uint32_t holder; /* those of this process, unless ANY_HOLDER */
    uint32_t peer;   /* those of this peer (index + 1), unless 0 */
    bool credit;     /* their grants, not their number */
};
#define ANY_HOLDER UINT32_MAX

static bool counts(const struct segment_conn *conn, struct counted what)
{
    uint64_t holders = atomic_load(&conn->holders);
    if (what.peer)
        return atomic_load(&conn->peer) == what.peer;
    if (what.holder == ANY_HOLDER)
        return true;
    for (unsigned i = 0; i < CONN_HOLDERS; i++)
        if ((holders >> 16 * i & 0xffff) == what.holder + 1)
            return true;
    return false;
}

static uint32_t recount(struct counted what)
{
    struct segment *segment = service.segment;
    /* Changes first, slots second: one that ends in between is counted twice, never not at all. */
    uint32_t count = what.credit ? 0 : (uint32_t)reservation_changing();
    uint32_t used = atomic_load(&segment->conns_used);
    for (uint32_t slot = 0; slot < used && slot < SEGMENT_CONNS; slot++)
        if (conn_phase(atomic_load(&segment->conn_state[slot])) != CONN_FREE &&
            counts(&segment->conn[slot], what))
            count += what.credit ? atomic_load(&segment->conn[slot].grant) : 1;
    return count;
}

static void mend_seen(struct gauge *gauge, uint64_t seen, struct counted what)
{
    uint32_t truth = recount(what);
    if (truth < (uint32_t)seen && gauge_mend(gauge, seen, truth)) {
        trace(TRACE_SEGMENT, "found-too-many", TRACE_NO_FD, "counted", (uint32_t)seen, "truth",
              truth);
        service_count(COUNTER_FOUND, (uint32_t)seen - truth);
        service_event(EVENT_FOUND, (uint32_t)seen - truth, "left by a process killed half way");
        segment_wake(service.segment, false);
    }
}

static void mend(struct gauge *gauge, struct counted what)
{
    mend_seen(gauge, atomic_load(&gauge->word), what);
}

/*
 * The same for credit, whose gauge is moved after the grant when it falls and before it when it
 * rises: what is found too high while nothing changes was left by a process killed in between.
 */
static void mend_credit(struct gauge *gauge, uint32_t holder)
{
    uint64_t seen = atomic_load(&gauge->word);
    uint32_t truth = recount((struct counted){.holder = holder, .credit = true});
    if (truth < (uint32_t)seen)
        gauge_mend(gauge, seen, truth);
}

/*
 * A process killed while it filled or emptied a slot leaves it half way. Whoever is at work on a
 * slot has `pending` raised all the while: a slot that was half way before nobody had, and still is
 * afterwards in the same generation, is nobody's.
 */
static void free_orphans(void)
{
    struct segment *segment = service.segment;
    uint32_t used = atomic_load(&segment->conns_used), found = 0, freed = 0;
    struct {
        uint32_t slot, state;
    } half_way[ORPHANS_AT_ONCE];

    for (uint32_t slot = 0; slot < used && slot < SEGMENT_CONNS && found < ORPHANS_AT_ONCE;
         slot++) {
        uint32_t state = atomic_load(&segment->conn_state[slot]);
        if (conn_phase(state) != CONN_OPENING && conn_phase(state) != CONN_CLOSING)
            continue;
        half_way[found].slot = slot;
        half_way[found++].state = state;
    }
    if (found == 0 || reservation_changing() > 0)
        return;
    for (uint32_t i = 0; i < found; i++)
        freed += connections_free_orphan(half_way[i].slot, half_way[i].state);
    if (freed == 0)
        return;
    trace(TRACE_SEGMENT, "found-half-way", TRACE_NO_FD, "slots", freed, NULL, 0);
    service_event(EVENT_FOUND, freed, "left half way by a process that was killed");
}

void audit_prepare(void)
{
    uint64_t never = 0;
    if (atomic_compare_exchange_strong(&service.segment->audit_next_ns, &never, 1))
        lost_prepare();
}

void audit_peer(uint32_t peer)
{
    static _Atomic uint64_t next;
    uint64_t now = monotonic_ns(), spent = spent_ns();
    if (peer >= SEGMENT_PEERS || !due_claim(&next, now, DUMP_LONGEST_NS))
        return;
    struct gauge *gauge = &service.segment->peer[peer].conns;
    uint64_t seen = atomic_load(&gauge->word);
    if (peer_count(seen) > 0)
        mend_seen(gauge, seen, (struct counted){.holder = ANY_HOLDER, .peer = peer + 1});
    atomic_store(&next, due_again(spent, SHARE, SELF_EVERY_NS));
}

void audit_run(void)
{
    int saved = errno;
    uint64_t now = monotonic_ns();

    if (!service_active() || !sandbox_serves(SANDBOX_CEILINGS))
        return;
    kept_watch();
    if (due_claim(&service.segment->reap_next_ns, now, DUMP_LONGEST_NS)) {
        uint64_t spent = spent_ns();
        static _Atomic uint32_t looks;
        processes_reap(atomic_fetch_add(&looks, 1) % THOROUGH_EVERY == 0);
        free_orphans();
        mend(&service.segment->conns, (struct counted){.holder = ANY_HOLDER});
        mend(&service_self()->conns, (struct counted){.holder = service.self});
        mend_credit(&service.segment->credit, ANY_HOLDER);
        mend_credit(&service_self()->credit, service.self);
        atomic_store(&service.segment->reap_next_ns, due_again(spent, REAP_SHARE, REAP_EVERY_NS));
    }
    now = monotonic_ns();
    if (due_claim(&self_next_ns, now, DUMP_LONGEST_NS)) {
        uint64_t spent = spent_ns();
        check_own_descriptors();
        atomic_store(&self_next_ns, due_again(spent, SHARE, SELF_EVERY_NS));
    }
    dump_if_due(monotonic_ns());
    errno = saved;
}

void audit_after_fork_in_child(void)
{
    atomic_store(&dumping, false);
    atomic_store(&self_next_ns, 0);
}
