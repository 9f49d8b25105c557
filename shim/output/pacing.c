/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "output/pacing.h"

#include "base/real.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define PERIOD_NS UINT64_C(100000000)
#define PERIODS_PER_LOOK 5 /* looks whether those thought hungry still are */
#define UNPACED UINT64_MAX
#define LEAST_SHARE 1024

/* The period that runs, and what is known of it so far. */
static _Atomic uint64_t ends_ns;
static _Atomic uint32_t period = 1;
static _Atomic uint32_t hungry;       /* connections with more to send than they may */
static _Atomic uint32_t modest_count; /* those with less, that wrote in this period, */
static _Atomic uint64_t modest_bytes; /* and what they wrote in the one before */
static _Atomic uint64_t share = UNPACED;

static void mark_hungry(struct flow *flow, bool is)
{
    uint32_t before = flow_sign(flow, is ? FLOW_HUNGRY : 0, is ? 0 : FLOW_HUNGRY);
    if (is != ((before & FLOW_HUNGRY) != 0))
        atomic_fetch_add(&hungry, is ? 1U : UINT32_MAX);
}

void pacing_fell_short(struct flow *flow)
{
    if (flows_mode() & FLOWS_PACE && service_limit(LIMIT_SEND_RATE) != LIMIT_OFF)
        mark_hungry(flow, true);
}

static void end(struct flow *flow)
{
    if (flow_signs(flow) & FLOW_HUNGRY)
        mark_hungry(flow, false);
}

/* The rate that a connection may have now, in bytes per second. */
static uint64_t rate_now(void)
{
    uint64_t own = segment_limit(service.segment, LIMIT_CONN_SEND_RATE);
    uint64_t all = service_limit(LIMIT_SEND_RATE), part = UNPACED;
    if (all != LIMIT_OFF) {
        part = atomic_load_explicit(&share, memory_order_relaxed);
        part = part < all ? part : all;
    }
    return own < part ? own : part;
}

static void tell_kernel(int fd, struct flow *flow, uint64_t rate)
{
    uint64_t before = atomic_load(&flow->pace);
    int saved = errno;
    if (before == rate || (before == 0 && rate == UNPACED) || flow->family == AF_UNIX)
        return;
    atomic_store(&flow->pace, rate);
    kernel_call(SYS_setsockopt, fd, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof rate);
    errno = saved;
}

static void bring_in_line(int fd, struct flow *flow)
{
    if (flows_mode() & FLOWS_PACE)
        tell_kernel(fd, flow, rate_now());
    else if (atomic_load(&flow->pace))
        tell_kernel(fd, flow, UNPACED);
}

/* Nobody knows yet what it wants: it starts with an even part. */
static void begin(int fd, struct flow *flow)
{
    uint64_t all = service_limit(LIMIT_SEND_RATE), conns = gauge_count(&service_self()->conns);
    uint64_t rate = rate_now(), even = all == LIMIT_OFF || conns == 0 ? UNPACED : all / conns;
    if (flows_mode() & FLOWS_PACE)
        tell_kernel(fd, flow, even < rate ? even : rate);
}

static void adjust(int fd, struct flow *flow, void *look)
{
    if (look && flow_signs(flow) & FLOW_HUNGRY && flow_queued(fd) == 0)
        mark_hungry(flow, false);
    if (!look && flow_signs(flow) & FLOW_HUNGRY)
        tell_kernel(fd, flow, rate_now());
}

static void deal_out(uint64_t rate, uint64_t lasted_ns)
{
    static _Atomic uint32_t periods;
    bool look = atomic_fetch_add(&periods, 1) % PERIODS_PER_LOOK == 0;
    if (look)
        flows_each(adjust, &look);
    uint64_t wanting = atomic_load(&hungry), modest = atomic_exchange(&modest_count, 0);
    uint64_t used = atomic_exchange(&modest_bytes, 0) * 1000000000 / lasted_ns;
    uint64_t even = rate / (wanting + modest ? wanting + modest : 1), mine = rate;
    /* What the modest leave is for the others; what they took in a burst is not held against them.
     */
    if (wanting) {
        mine = rate > used ? (rate - used) / wanting : 0;
        mine = mine > even ? mine : even;
    }
    mine = mine > LEAST_SHARE ? mine : LEAST_SHARE;
    uint64_t before = atomic_exchange(&share, mine);
    if (mine > before + before / 8 || mine < before - before / 8)
        flows_each(adjust, NULL);
}

void pacing_writes(int fd, struct flow *flow)
{
    uint64_t all = service_limit(LIMIT_SEND_RATE);
    if (all == LIMIT_OFF)
        return; /* a rate of its own was set when it came */
    uint64_t now = monotonic_ns(), ends = atomic_load(&ends_ns);
    if (now >= ends && atomic_compare_exchange_strong(&ends_ns, &ends, now + PERIOD_NS)) {
        deal_out(all, PERIOD_NS + (ends ? now - ends : 0));
        atomic_fetch_add(&period, 1);
    }
    uint32_t current = atomic_load(&period);
    if (atomic_exchange(&flow->period, current) == current)
        return;
    /* Its first write in this period: what is left in its queue tells whether it wants more. */
    uint64_t produced = atomic_load(&flow->produced), before = atomic_load(&flow->paced_produced);
    atomic_store(&flow->paced_produced, produced);
    bool wants_more = flow_queued(fd) > 0;
    mark_hungry(flow, wants_more);
    if (!wants_more) {
        atomic_fetch_add(&modest_count, 1);
        atomic_fetch_add(&modest_bytes, produced - before);
    } else if (before > 0) {
        tell_kernel(fd, flow, rate_now());
    }
}

static uint32_t mode(void)
{
    bool paced = service_limit(LIMIT_SEND_RATE) != LIMIT_OFF ||
                 service_limit(LIMIT_CONN_SEND_RATE) != LIMIT_OFF;
    return paced ? FLOWS_PACE : 0;
}

const struct flow_feature pacing_feature = {
    .mode = mode, .begin = begin, .adjust = bring_in_line, .end = end};
