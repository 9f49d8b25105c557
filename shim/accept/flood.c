/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "accept/flood.h"

#include "policy/token_bucket.h"
#include "process/service.h"

#define MICROSECOND UINT64_C(1000)
/* What may be spent at once before the share counts: a few hundred refusals. */
#define BURST_NS (10000 * MICROSECOND)

static uint64_t share(void)
{
    return segment_limit(service.segment, LIMIT_SHED_SHARE);
}

void flood_refused(uint64_t spent_ns)
{
    uint64_t hundredths = share();
    if (hundredths != LIMIT_OFF && hundredths != 0)
        token_bucket_charge(&service.segment->flood_next_ns, spent_ns * 100 / hundredths,
                            monotonic_ns());
}

bool flood_under_way(void)
{
    uint64_t next = atomic_load_explicit(&service.segment->flood_next_ns, memory_order_relaxed);
    if (next == 0)
        return false;
    uint64_t hundredths = share();
    if (hundredths == LIMIT_OFF || hundredths == 0)
        return false;
    uint64_t now = monotonic_ns(), burst = BURST_NS * 100 / hundredths;
    if (next <= now) {
        /* All is paid: the clock need not be asked until somebody is refused again. */
        atomic_compare_exchange_strong(&service.segment->flood_next_ns, &next, 0);
        return false;
    }
    /* A time far ahead is a damaged word, not a debt. */
    return next > now + burst && next - now < 60 * UINT64_C(1000000000);
}
