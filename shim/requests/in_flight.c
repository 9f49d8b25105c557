/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "requests/in_flight.h"

#include "accept/concurrency.h"
#include "accept/reservation.h"
#include "base/due.h"
#include "base/trace.h"
#include "policy/token_bucket.h"
#include "process/service.h"

#include <errno.h>

#define RECOUNT_SHARE 200
#define RECOUNT_EVERY_NS (20 * DUE_MILLISECOND)
#define RECOUNT_LONGEST_NS (1000 * DUE_MILLISECOND)

bool in_flight_limited(void)
{
    return segment_limit(service.segment, LIMIT_TOTAL_REQUESTS) != LIMIT_OFF ||
           service_limit(LIMIT_REQUESTS) != LIMIT_OFF ||
           segment_limit(service.segment, LIMIT_REQUEST_RATE) != LIMIT_OFF;
}

static uint64_t total_ceiling(void)
{
    return segment_ceiling(segment_limit(service.segment, LIMIT_TOTAL_REQUESTS),
                           &service.segment->request_concurrency);
}

static uint64_t own_ceiling(void)
{
    return segment_ceiling(service_limit(LIMIT_REQUESTS), &service_self()->request_concurrency);
}

/* --- request-rate --- */

uint64_t in_flight_rate_wait(void)
{
    uint64_t limit = segment_limit(service.segment, LIMIT_REQUEST_RATE);
    if (limit == LIMIT_OFF)
        return 0;
    return token_bucket_wait(token_bucket_of(limit),
                             atomic_load(&service.segment->request_rate_next_ns), monotonic_ns());
}

static bool rate_take(void)
{
    uint64_t limit = segment_limit(service.segment, LIMIT_REQUEST_RATE);
    return limit == LIMIT_OFF ||
           token_bucket_take(token_bucket_of(limit), &service.segment->request_rate_next_ns,
                             monotonic_ns());
}

void in_flight_token_back(void)
{
    uint64_t limit = segment_limit(service.segment, LIMIT_REQUEST_RATE);
    if (limit != LIMIT_OFF)
        token_bucket_give(token_bucket_of(limit), &service.segment->request_rate_next_ns);
}

/* --- places --- */

static bool take(struct segment *segment, struct segment_process *self, bool above)
{
    if (!gauge_take(&segment->requests, above ? LIMIT_OFF : total_ceiling()))
        return false;
    if (gauge_take(&self->requests, above ? LIMIT_OFF : own_ceiling())) {
        if (above || rate_take())
            return true;
        gauge_give(&self->requests);
    }
    gauge_give(&segment->requests);
    return false;
}

bool in_flight_take(uint32_t slot, bool above)
{
    struct segment *segment = service.segment;
    if (!service_intact())
        return true;
    reservation_change_begins();
    bool taken = take(segment, service_self(), above);
    /* Two threads may come for one connection: its place is one. */
    uint32_t holder = 0;
    if (taken && !atomic_compare_exchange_strong(&segment->conn[slot].in_flight, &holder,
                                                 service.self + 1)) {
        gauge_give(&service_self()->requests);
        gauge_give(&segment->requests);
    }
    reservation_change_ends();
    if (!taken)
        return false;
    gauge_raise_peak(&segment->requests_peak, gauge_count(&segment->requests));
    gauge_raise_peak(&service_self()->counter[COUNTER_REQUESTS_IN_FLIGHT_PEAK],
                     gauge_count(&service_self()->requests));
    return true;
}

/* `holder` is what the slot's entry had. */
static void give(uint32_t holder)
{
    struct segment *segment = service.segment;
    if (holder <= SEGMENT_PROCESSES)
        gauge_give(&segment->process[holder - 1].requests);
    gauge_give(&segment->requests);
}

bool in_flight_give(uint32_t slot)
{
    if (!service_active())
        return false;
    reservation_change_begins();
    uint32_t holder = atomic_exchange(&service.segment->conn[slot].in_flight, 0);
    if (holder)
        give(holder);
    reservation_change_ends();
    return holder != 0;
}

void in_flight_left(uint32_t slot, uint32_t process)
{
    uint32_t holder = process + 1;
    if (atomic_load_explicit(&service.segment->conn[slot].in_flight, memory_order_relaxed) !=
        holder)
        return;
    reservation_change_begins();
    if (atomic_compare_exchange_strong(&service.segment->conn[slot].in_flight, &holder, 0))
        give(holder);
    reservation_change_ends();
}

void in_flight_freed(uint32_t slot)
{
    if (atomic_load_explicit(&service.segment->conn[slot].in_flight, memory_order_relaxed))
        in_flight_give(slot);
}

bool in_flight_room(void)
{
    return gauge_count(&service.segment->requests) < total_ceiling() &&
           gauge_count(&service_self()->requests) < own_ceiling() && in_flight_rate_wait() == 0;
}

/* --- counting again --- */

#define ANY_PROCESS UINT32_MAX

static uint32_t recount(uint32_t process)
{
    const struct segment *segment = service.segment;
    /* Changes first, slots second: one that ends in between is counted twice, never not at all. */
    uint32_t count = (uint32_t)reservation_changing();
    uint32_t used = atomic_load(&segment->conns_used);
    for (uint32_t slot = 0; slot < used && slot < SEGMENT_CONNS; slot++) {
        uint32_t holder =
            atomic_load_explicit(&segment->conn[slot].in_flight, memory_order_relaxed);
        count += process == ANY_PROCESS ? holder != 0 : holder == process + 1;
    }
    return count;
}

static void mend(struct gauge *gauge, uint32_t process)
{
    uint64_t seen = atomic_load(&gauge->word);
    uint32_t truth = recount(process);
    if (truth < (uint32_t)seen && gauge_mend(gauge, seen, truth))
        trace(TRACE_SEGMENT, "found-too-many-requests", TRACE_NO_FD, "counted", (uint32_t)seen,
              "truth", truth);
}

bool in_flight_full_for_certain(void)
{
    struct segment *segment = service.segment;
    uint64_t now = monotonic_ns();
    if (due_claim(&segment->requests_recount_ns, now, RECOUNT_LONGEST_NS)) {
        int saved = errno;
        uint64_t spent = spent_ns();
        mend(&segment->requests, ANY_PROCESS);
        mend(&service_self()->requests, service.self);
        atomic_store(&segment->requests_recount_ns,
                     due_again(spent, RECOUNT_SHARE, RECOUNT_EVERY_NS));
        errno = saved;
    }
    return gauge_count(&segment->requests) >= total_ceiling() ||
           gauge_count(&service_self()->requests) >= own_ceiling();
}

/* --- ceilings that find themselves --- */

bool in_flight_answered(uint64_t response_ns)
{
    struct segment *segment = service.segment;
    uint64_t total = segment_limit(segment, LIMIT_TOTAL_REQUESTS),
             own = service_limit(LIMIT_REQUESTS);
    if (!limit_is_auto(total) && !limit_is_auto(own))
        return false;
    struct concurrency_answer taken = {response_ns, monotonic_ns(), EVENT_REQUEST_CEILING};
    bool raised =
        concurrency_follow(&segment->request_concurrency, total, &segment->requests, taken);
    return concurrency_follow(&service_self()->request_concurrency, own, &service_self()->requests,
                              taken) ||
           raised;
}
