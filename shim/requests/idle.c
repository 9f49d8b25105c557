/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "requests/idle.h"

#include "accept/admission.h"
#include "accept/reservation.h"
#include "accept/waiting_room.h"
#include "base/due.h"
#include "base/tcp_state.h"
#include "process/service.h"

/* What is told counts for so long, unless it is told again. */
#define FRESH_NS (1000 * DUE_MILLISECOND)
/* So long the programs have to close what was taken from them before it is asked for again. */
#define TELL_EVERY_NS (100 * DUE_MILLISECOND)
#define LOOK_EVERY_NS (20 * DUE_MILLISECOND)
#define DEFER_LEAST_NS (100 * DUE_MILLISECOND) /* beside the time in which they look */

uint64_t idle_limit(void)
{
    bool bounded = segment_limit(service.segment, LIMIT_TOTAL_CONNS) != LIMIT_OFF ||
                   service_limit(LIMIT_CONNS) != LIMIT_OFF;
    return bounded ? segment_limit(service.segment, LIMIT_IDLE) : LIMIT_OFF;
}

/* --- who wants a slot --- */

static uint32_t waits_at(int fd, uint32_t listener)
{
    struct tcp_state state = tcp_state_of(fd);
    uint32_t parked = waiting_room_count(listener);
    return parked + (state.known ? state.waiting : (uint32_t)admission_client_waits(fd));
}

static uint32_t waiting(void)
{
    uint32_t count = 0;
    int end = descriptors_end();
    for (int fd = 0; fd < end; fd++) {
        descriptor what = descriptor_at(fd);
        if (descriptor_kind(what) == DESCRIPTOR_LISTENER)
            count += waits_at(fd, descriptor_index(what));
    }
    return count;
}

/* By this process, since it was asked last. */
static uint32_t refused(void)
{
    static _Atomic uint64_t seen;
    const _Atomic uint64_t *counter = service_self()->counter;
    uint64_t all = atomic_load_explicit(&counter[COUNTER_SHED_BUSY], memory_order_relaxed) +
                   atomic_load_explicit(&counter[COUNTER_SHED_RESET], memory_order_relaxed);
    uint64_t before = atomic_exchange(&seen, all);
    return all > before ? (uint32_t)(all - before) : 0;
}

void idle_tell(uint64_t now)
{
    static _Atomic uint64_t look_next_ns;
    struct segment *segment = service.segment;
    if (reservation_room() != RESERVATION_FULL || !due_claim(&look_next_ns, now, LOOK_EVERY_NS))
        return;
    uint32_t want = refused() + waiting();
    /* With queue=0 nobody is seen to wait: one slot is kept free then. */
    if (want == 0 && segment_limit(segment, LIMIT_QUEUE) == 0)
        want = 1;
    if (want == 0 || !due_claim(&segment->slots_told_next_ns, now, TELL_EVERY_NS))
        return;
    atomic_store(&segment->slots_wanted, want);
    atomic_store(&segment->slots_wanted_ns, now);
}

bool idle_wanted(uint64_t now)
{
    const struct segment *segment = service.segment;
    uint64_t told = atomic_load_explicit(&segment->slots_wanted_ns, memory_order_relaxed);
    return atomic_load_explicit(&segment->slots_wanted, memory_order_relaxed) > 0 &&
           (told > now || now - told < FRESH_NS);
}

/* --- whose turn it is to give one up --- */

void idle_publish(uint64_t since_ns)
{
    _Atomic uint64_t *published = &service_self()->idle_since_ns;
    if (atomic_load_explicit(published, memory_order_relaxed) != since_ns)
        atomic_store(published, since_ns);
}

static bool another_comes_first(uint64_t since_ns)
{
    const struct segment *segment = service.segment;
    uint32_t used = atomic_load_explicit(&segment->processes_used, memory_order_relaxed);
    for (uint32_t i = 1; i < used && i < SEGMENT_PROCESSES; i++) {
        uint64_t theirs =
            atomic_load_explicit(&segment->process[i].idle_since_ns, memory_order_relaxed);
        if (theirs && theirs < since_ns && i != service.self)
            return true;
    }
    return false;
}

/* Lets others go first, but not for long. */
static bool defers(uint64_t since_ns, uint64_t now, uint64_t looks_ns)
{
    static _Atomic uint64_t deferring_ns;
    uint64_t since = atomic_load(&deferring_ns), longest = looks_ns + DEFER_LEAST_NS;
    if (!another_comes_first(since_ns)) {
        atomic_store(&deferring_ns, 0);
        return false;
    }
    if (since == 0 || now - since > 2 * longest) {
        atomic_store(&deferring_ns, now);
        return true;
    }
    return now - since < longest;
}

bool idle_take(uint64_t since_ns, uint64_t now, uint64_t looks_ns)
{
    _Atomic uint32_t *wanted = &service.segment->slots_wanted;
    uint32_t want = atomic_load(wanted);
    if (!idle_wanted(now) || reservation_room() != RESERVATION_FULL ||
        defers(since_ns, now, looks_ns))
        return false;
    while (want > 0)
        if (atomic_compare_exchange_weak(wanted, &want, want - 1))
            return true;
    return false;
}
