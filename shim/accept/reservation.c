/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "accept/reservation.h"

#include "base/trace.h"
#include "policy/token_bucket.h"
#include "process/service.h"

const struct connection_features *connection_features;

void reservation_serve(const struct connection_features *wanted)
{
    connection_features = wanted;
}

void reservation_change_begins(void)
{
    atomic_fetch_add(&service_self()->pending, 1);
}

void reservation_change_ends(void)
{
    atomic_fetch_sub(&service_self()->pending, 1);
}

uint64_t reservation_changing(void)
{
    const struct segment *segment = service.segment;
    uint32_t used = atomic_load(&segment->processes_used);
    uint64_t changing = 0;
    for (uint32_t i = 0; i < used && i < SEGMENT_PROCESSES; i++)
        changing += atomic_load(&segment->process[i].pending);
    return changing;
}

/* --- accept-rate --- */

uint64_t reservation_rate_wait(void)
{
    uint64_t limit = segment_limit(service.segment, LIMIT_ACCEPT_RATE);
    if (limit == LIMIT_OFF)
        return 0;
    return token_bucket_wait(token_bucket_of(limit), atomic_load(&service.segment->rate_next_ns),
                             monotonic_ns());
}

static bool rate_take(void)
{
    uint64_t limit = segment_limit(service.segment, LIMIT_ACCEPT_RATE);
    return limit == LIMIT_OFF || token_bucket_take(token_bucket_of(limit),
                                                   &service.segment->rate_next_ns, monotonic_ns());
}

static void rate_give(void)
{
    uint64_t limit = segment_limit(service.segment, LIMIT_ACCEPT_RATE);
    if (limit != LIMIT_OFF)
        token_bucket_give(token_bucket_of(limit), &service.segment->rate_next_ns);
}

/* --- reservation --- */

static uint64_t total_ceiling(void)
{
    return segment_ceiling(segment_limit(service.segment, LIMIT_TOTAL_CONNS),
                           &service.segment->concurrency);
}

static uint64_t own_ceiling(void)
{
    return segment_ceiling(service_limit(LIMIT_CONNS), &service_self()->concurrency);
}

static bool open_to_all(void)
{
    return atomic_load_explicit(&service.segment->admission, memory_order_relaxed) ==
           ADMISSION_OPEN;
}

static bool below_ceilings(void)
{
    return gauge_count(&service.segment->conns) < total_ceiling() &&
           gauge_count(&service_self()->conns) < own_ceiling();
}

bool reservation_roomy(void)
{
    return open_to_all() && below_ceilings() &&
           segment_limit(service.segment, LIMIT_ACCEPT_RATE) == LIMIT_OFF;
}

enum reservation reservation_room(void)
{
    if (!open_to_all())
        return RESERVATION_PAUSED;
    if (!below_ceilings() || !connection_features->room())
        return RESERVATION_FULL;
    return reservation_rate_wait() ? RESERVATION_RATE : RESERVED;
}

static enum reservation refused(enum reservation why, const char *what)
{
    trace(TRACE_ACCEPT, what, TRACE_NO_FD, "conns", gauge_count(&service_self()->conns),
          "total-conns", gauge_count(&service.segment->conns));
    return why;
}

enum reservation reservation_make(void)
{
    struct segment *segment = service.segment;
    struct segment_process *self = service_self();

    if (!service_intact())
        return RESERVED;
    if (atomic_load(&segment->admission) != ADMISSION_OPEN)
        return refused(RESERVATION_PAUSED, "no-slot-paused");
    if (!connection_features->room())
        return refused(RESERVATION_FULL, "no-slot-buffer");
    reservation_change_begins();
    if (!gauge_take(&segment->conns, total_ceiling())) {
        reservation_change_ends();
        return refused(RESERVATION_FULL, "no-slot-total-conns");
    }
    if (!gauge_take(&self->conns, own_ceiling())) {
        gauge_give(&segment->conns);
        reservation_change_ends();
        return refused(RESERVATION_FULL, "no-slot-conns");
    }
    if (!rate_take()) {
        gauge_give(&self->conns);
        gauge_give(&segment->conns);
        reservation_change_ends();
        return refused(RESERVATION_RATE, "no-slot-accept-rate");
    }
    return RESERVED;
}

void reservation_cancel_quietly(void)
{
    if (!service_active())
        return;
    rate_give();
    gauge_give(&service_self()->conns);
    gauge_give(&service.segment->conns);
    reservation_change_ends();
}

void reservation_cancel(void)
{
    if (!service_active())
        return;
    reservation_cancel_quietly();
    /* Whoever was turned away by this reservation may have the slot now. */
    segment_wake(service.segment, false);
}

static bool reached(const struct gauge *gauge, uint64_t reserved, uint64_t ceiling)
{
    uint64_t count = gauge_count(gauge);
    return count >= reserved && count - reserved >= ceiling;
}

void reservation_room_made(void)
{
    segment_wake(service.segment, true);
    connection_features->room_made();
}

void reservation_attend(void)
{
    connection_features->attend();
}

void reservation_make_room(void)
{
    if (!connection_features->room())
        connection_features->make_room();
}

bool reservation_full_for_certain(void)
{
    struct segment *segment = service.segment;

    connection_features->verify();
    reservation_make_room();
    return reached(&segment->conns, reservation_changing(), total_ceiling()) ||
           reached(&service_self()->conns, atomic_load(&service_self()->pending), own_ceiling()) ||
           !connection_features->room();
}
