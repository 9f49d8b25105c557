/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "output/grants.h"

#include "policy/credit_shares.h"

#define SPARE_LEAST (64 * 1024) /* KiB */

/* --- what may be given --- */

uint64_t grants_ceiling(uint64_t limit)
{
    return limit == LIMIT_OFF ? LIMIT_OFF : limit / 1024;
}

/* What is free under one ceiling, beyond `reserve`, in KiB. */
static uint64_t free_under(const struct gauge *gauge, uint64_t ceiling, uint64_t reserve)
{
    uint64_t used = gauge_count(gauge) + reserve;
    if (ceiling == LIMIT_OFF)
        return LIMIT_OFF;
    return used < ceiling ? ceiling - used : 0;
}

uint64_t grants_free(uint64_t reserve_share)
{
    uint64_t own = grants_ceiling(service_limit(LIMIT_BUFFER));
    uint64_t all = grants_ceiling(segment_limit(service.segment, LIMIT_TOTAL_BUFFER));
    uint64_t own_free =
        free_under(&service_self()->credit, own, reserve_share ? own / reserve_share : 0);
    uint64_t all_free =
        free_under(&service.segment->credit, all, reserve_share ? all / reserve_share : 0);
    return own_free < all_free ? own_free : all_free;
}

uint64_t grants_share(void)
{
    uint64_t free = grants_free(GRANTS_RESERVE), conns = gauge_count(&service_self()->conns);
    return free == LIMIT_OFF ? UINT32_MAX : free / (conns ? conns : 1);
}

uint64_t grants_spare(void)
{
    uint64_t free = grants_free(GRANTS_RESERVE), conns = gauge_count(&service_self()->conns);
    uint64_t own = grants_ceiling(segment_limit(service.segment, LIMIT_CONN_BUFFER));
    if (free < SPARE_LEAST)
        return 0;
    uint64_t share = free == LIMIT_OFF ? UINT32_MAX : free / (conns ? conns : 1);
    return share < own ? share : own;
}

bool grants_room(void)
{
    return !(flows_mode() & FLOWS_CREDIT) || grants_free(0) >= CREDIT_FLOOR;
}

/* --- accounting: a connection counts for each process that holds it, and once for the service ---
 */

static void each_holder(uint32_t slot, void (*change)(struct gauge *, uint32_t), uint32_t amount)
{
    uint64_t holders = atomic_load(&service.segment->conn[slot].holders);
    for (unsigned i = 0; i < CONN_HOLDERS; i++) {
        uint64_t holder = holders >> 16 * i & 0xffff;
        if (holder && holder <= SEGMENT_PROCESSES)
            change(&service.segment->process[holder - 1].credit, amount);
    }
}

static void take_regardless(struct gauge *gauge, uint32_t amount)
{
    gauge_take_many(gauge, amount, UINT32_MAX);
}

bool grants_take(uint32_t slot, uint32_t amount)
{
    struct segment *segment = service.segment;
    if (!gauge_take_many(&segment->credit, amount,
                         grants_ceiling(segment_limit(segment, LIMIT_TOTAL_BUFFER))))
        return false;
    if (!gauge_take_many(&service_self()->credit, amount,
                         grants_ceiling(service_limit(LIMIT_BUFFER)))) {
        gauge_give_many(&segment->credit, amount);
        return false;
    }
    /* What other holders may have is theirs to see to. */
    each_holder(slot, take_regardless, amount);
    gauge_give_many(&service_self()->credit, amount);
    atomic_fetch_add(&segment->conn[slot].grant, amount);
    return true;
}

void grants_take_regardless(uint32_t slot, uint32_t amount)
{
    atomic_fetch_add(&service.segment->conn[slot].grant, amount);
    take_regardless(&service.segment->credit, amount);
    each_holder(slot, take_regardless, amount);
}

void grants_give(uint32_t slot, uint32_t amount)
{
    atomic_fetch_sub(&service.segment->conn[slot].grant, amount);
    each_holder(slot, gauge_give_many, amount);
    gauge_give_many(&service.segment->credit, amount);
}

void grants_shared(uint32_t slot, uint32_t holder)
{
    take_regardless(&service.segment->process[holder].credit,
                    atomic_load(&service.segment->conn[slot].grant));
}

void grants_left(uint32_t slot, uint32_t holder)
{
    gauge_give_many(&service.segment->process[holder].credit,
                    atomic_load(&service.segment->conn[slot].grant));
}

void grants_closed(uint32_t slot)
{
    gauge_give_many(&service.segment->credit,
                    atomic_exchange(&service.segment->conn[slot].grant, 0));
}
