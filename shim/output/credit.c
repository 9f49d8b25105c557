/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "output/credit.h"

#include "base/due.h"
#include "base/gauge.h"
#include "base/real.h"
#include "base/trace.h"
#include "output/grants.h"
#include "output/kernel_buffer.h"
#include "policy/credit_shares.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/syscall.h>

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72 /* Linux 5.14 */
#endif
#define SNDBUF_LOCKED 1 /* SOCK_SNDBUF_LOCK in <linux/socket.h> */
#define LOWAT_LEAST 4096
#define PIECE_OVERHEAD 64 /* what net/unix/af_unix.c leaves of half a buffer */
#define NOTHING UINT32_MAX
#define STANDING_SLICE_NS INT64_C(8000000)
#define SURPLUS_SLICE_NS INT64_C(100000000)
#define LOOK_SHARE 50
#define LOOK_EVERY_NS (2 * DUE_MILLISECOND)
#define LOOK_LONGEST_NS (1000 * DUE_MILLISECOND)
#define MEASURE_SHARE 200
#define MEASURE_EVERY_NS (20 * DUE_MILLISECOND)

static _Atomic uint32_t wanted_seen;
static _Atomic uint64_t look_next_ns;

static uint32_t conn_flags(const struct flow *flow)
{
    return atomic_load_explicit(&flow_conn(flow)->flags, memory_order_relaxed);
}

uint64_t credit_most(const struct flow *flow)
{
    uint64_t most = grants_ceiling(segment_limit(service.segment, LIMIT_CONN_BUFFER));
    uint64_t own = grants_ceiling(service_limit(LIMIT_BUFFER));
    uint64_t all = grants_ceiling(segment_limit(service.segment, LIMIT_TOTAL_BUFFER));
    uint32_t asked = conn_flags(flow) & CONN_OWN_SNDBUF
                         ? atomic_load(&flow_conn(flow)->told_sndbuf) / 1024
                         : NOTHING;
    most = own < most ? own : most;
    most = all < most ? all : most;
    most = asked < most ? asked : most;
    uint32_t kernels = kernel_buffer_most(flow->family);
    return most < kernels ? most : kernels;
}

bool credit_is_kernels(const struct flow *flow)
{
    uint32_t grant = atomic_load_explicit(&flow_conn(flow)->grant, memory_order_relaxed);
    return grant == 0 ||
           (grant >= kernel_buffer_most(flow->family) && !(conn_flags(flow) & CONN_OWN_SNDBUF));
}

/* --- telling the kernel --- */

static void tell_kernel(int fd, struct flow *flow)
{
    uint32_t grant = atomic_load(&flow_conn(flow)->grant);
    bool tcp = flow->family != AF_UNIX && !(conn_flags(flow) & CONN_OWN_LOWAT);
    int saved = errno;

    flow_reconsider(flow);
    if (credit_is_kernels(flow)) {
        /* As far as it goes without privilege, and from there on as the kernel likes. */
        kernel_buffer_set(fd, SOL_SOCKET, SO_SNDBUF, kernel_buffer_most(flow->family) * 512);
        if (flow->family != AF_UNIX)
            kernel_buffer_set(fd, SOL_SOCKET, SO_BUF_LOCK, 0);
        if (tcp)
            kernel_buffer_set(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 0);
    } else {
        /* socket(7): the kernel doubles the value, for its overhead. Undoubled it bounds the bytes.
         */
        kernel_buffer_set(fd, SOL_SOCKET, SO_SNDBUF, grant * 512);
        uint32_t lowat = grant * 512;
        if (tcp)
            kernel_buffer_set(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT,
                              lowat > LOWAT_LEAST ? lowat : LOWAT_LEAST);
    }
    errno = saved;
}

static struct credit_share share_of(const struct flow *flow)
{
    return (struct credit_share){
        .grant = atomic_load(&flow_conn(flow)->grant),
        .most = credit_most(flow),
        .free = grants_free(GRANTS_RESERVE),
        .kernels = kernel_buffer_most(flow->family),
        .locked = kernel_buffer_locked_most(),
    };
}

/* Of a new connection, for which the reserve is. */
static uint64_t start_for(const struct flow *flow)
{
    return credit_shares_start(&(struct credit_share){.most = credit_most(flow),
                                                      .free = grants_free(0),
                                                      .kernels = kernel_buffer_most(flow->family)});
}

bool credit_lend(int fd, const struct flow *flow, size_t bytes)
{
    uint64_t wanted = (uint64_t)bytes + PIECE_OVERHEAD;
    uint64_t grant = atomic_load(&flow_conn(flow)->grant);
    if (flow->family != AF_UNIX || !(flows_mode() & FLOWS_CREDIT) || credit_is_kernels(flow) ||
        wanted <= grant * 512)
        return false;
    int saved = errno;
    kernel_buffer_set(
        fd, SOL_SOCKET, SO_SNDBUF,
        (uint32_t)(wanted < KERNEL_BUFFER_UNIX * 512 ? wanted : KERNEL_BUFFER_UNIX * 512));
    errno = saved;
    return true;
}

void credit_lent_back(int fd, struct flow *flow)
{
    tell_kernel(fd, flow);
}

/* --- a connection's life --- */

static void open_grant(int fd, struct flow *flow)
{
    uint32_t slot = flow_slot(flow);
    struct segment_conn *conn = flow_conn(flow);
    int saved = errno;

    if (!(flows_mode() & FLOWS_CREDIT) || atomic_load(&conn->grant) != 0)
        return;
    atomic_store(&conn->told_sndbuf, kernel_buffer_get(fd, SOL_SOCKET, SO_SNDBUF));
    /* Locked before we touched it: by the program, or by its listener, from which it is inherited.
     */
    if (kernel_buffer_get(fd, SOL_SOCKET, SO_BUF_LOCK) & SNDBUF_LOCKED)
        atomic_fetch_or(&conn->flags, CONN_OWN_SNDBUF);
    uint64_t start = start_for(flow);
    uint32_t kernels = kernel_buffer_most(flow->family);
    if (start < kernels) /* otherwise nobody has to know what it can be held at */
        start = credit_shares_attainable(start, kernels, kernel_buffer_locked_most());
    /* Others may have taken it meanwhile; the floor was promised when it was admitted. */
    if (!grants_take(slot, (uint32_t)start) &&
        !(start > CREDIT_FLOOR && grants_take(slot, CREDIT_FLOOR)))
        grants_take_regardless(slot, CREDIT_FLOOR);
    if (!credit_is_kernels(flow))
        tell_kernel(fd, flow);
    errno = saved;
}

static void ran_short(struct flow *flow)
{
    flow_sign(flow, FLOW_STARVED, 0);
    atomic_fetch_add(&service.segment->credit_wanted, 1);
    atomic_store(&wanted_seen, atomic_load(&service.segment->credit_wanted));
    credit_reclaim();
}

bool credit_grow(int fd, struct flow *flow)
{
    uint32_t slot = flow_slot(flow);
    uint32_t grant = atomic_load(&flow_conn(flow)->grant);

    if (!(flows_mode() & FLOWS_CREDIT) || grant == 0 || credit_is_kernels(flow))
        return false;
    struct credit_share share = share_of(flow);
    struct credit_growth growth = credit_shares_growth(&share);
    if (growth.wish == 0)
        return false;
    if (growth.reached == 0 || !grants_take(slot, growth.reached - grant)) {
        trace(TRACE_OUTPUT, "grant-short", fd, "from_kib", grant, "wish_kib", growth.wish);
        ran_short(flow);
        return false;
    }
    trace(TRACE_OUTPUT, "grant-grow", fd, "from_kib", grant, "to_kib", growth.reached);
    flow_sign(flow, 0, FLOW_STARVED);
    tell_kernel(fd, flow);
    return true;
}

/* Lowers the grant to `target` KiB, or raises it as far as the pool allows. */
static void move_to(int fd, struct flow *flow, uint32_t target)
{
    uint32_t slot = flow_slot(flow), grant = atomic_load(&flow_conn(flow)->grant);
    if (target < grant)
        grants_give(slot, grant - target);
    else if (target == grant || !grants_take(slot, target - grant))
        return;
    if (target != grant)
        trace(TRACE_OUTPUT, target < grant ? "grant-shrink" : "grant-grow", fd, "from_kib", grant,
              "to_kib", target);
    tell_kernel(fd, flow);
}

static void adjust(int fd, struct flow *flow)
{
    uint32_t slot = flow_slot(flow), grant = atomic_load(&flow_conn(flow)->grant);

    if (!(flows_mode() & FLOWS_CREDIT)) {
        if (grant == 0)
            return;
        bool own = conn_flags(flow) & CONN_OWN_SNDBUF;
        grants_give(slot, grant);
        if (own)
            kernel_buffer_set(fd, SOL_SOCKET, SO_SNDBUF,
                              atomic_load(&flow_conn(flow)->told_sndbuf) / 2);
        else
            tell_kernel(fd, flow); /* a grant of 0 is the kernel's own */
        return;
    }
    if (grant == 0) {
        open_grant(fd, flow);
        return;
    }
    /* What is queued stays queued; the rest of the grant is handed out anew. */
    struct credit_share share = share_of(flow);
    move_to(fd, flow, credit_shares_anew(&share, start_for(flow), flow_queued(fd)));
    if (flow_signs(flow) & FLOW_STANDING)
        credit_grow(fd, flow);
}

uint32_t credit_shrink(int fd, struct flow *flow)
{
    struct credit_share share = share_of(flow);
    uint32_t queued = flow_queued(fd);
    uint32_t target = credit_shares_shrunk(&share, start_for(flow), queued);
    if (target != share.grant)
        move_to(fd, flow, target);
    return queued;
}

static bool wanted_elsewhere(void)
{
    uint32_t wanted = atomic_load_explicit(&service.segment->credit_wanted, memory_order_relaxed);
    return wanted != atomic_load_explicit(&wanted_seen, memory_order_relaxed) &&
           flows_mode() & FLOWS_CREDIT && atomic_exchange(&wanted_seen, wanted) != wanted;
}

/* --- looking at all of them --- */

struct look {
    bool reclaim;
    uint64_t queued;
};

static void look_at(int fd, struct flow *flow, void *context)
{
    struct look *look = context;
    uint32_t signs = flow_signs(flow);
    if (signs & FLOW_STARVED && credit_grow(fd, flow))
        signs = flow_signs(flow);
    look->queued +=
        look->reclaim && !(signs & FLOW_STARVED) ? credit_shrink(fd, flow) : flow_queued(fd);
}

static void note_queued(uint64_t queued)
{
    struct segment *segment = service.segment;
    struct segment_process *self = service_self();
    uint32_t used = atomic_load(&segment->processes_used);
    uint64_t all = 0;

    atomic_store(&self->counter[COUNTER_BUFFER], queued);
    gauge_raise_peak(&self->counter[COUNTER_BUFFER_PEAK], queued);
    for (uint32_t i = 0; i < used && i < SEGMENT_PROCESSES; i++)
        all += atomic_load_explicit(&segment->process[i].counter[COUNTER_BUFFER],
                                    memory_order_relaxed);
    gauge_raise_peak(&segment->buffer_peak, all);
}

static void look_over(bool reclaim)
{
    static _Thread_local bool looking __attribute__((tls_model("initial-exec")));
    uint64_t now = monotonic_ns();
    if (looking || !due_claim(&look_next_ns, now, LOOK_LONGEST_NS))
        return;
    int saved = errno;
    uint64_t spent = spent_ns();
    struct look look = {.reclaim = reclaim};
    looking = true;
    flows_each(look_at, &look);
    looking = false;
    note_queued(look.queued);
    atomic_store(&look_next_ns, due_again(spent, LOOK_SHARE, LOOK_EVERY_NS));
    errno = saved;
}

void credit_measure(void)
{
    static _Atomic uint64_t next_ns;
    uint64_t spent = spent_ns();
    if (!due_claim(&next_ns, monotonic_ns(), LOOK_LONGEST_NS))
        return;
    look_over(false);
    atomic_store(&next_ns, due_again(spent, MEASURE_SHARE, MEASURE_EVERY_NS));
}

void credit_reclaim(void)
{
    look_over(true);
}

/* Whether it holds more than its connections' floors, under a ceiling that others share. */
static bool holds_surplus(void)
{
    return segment_limit(service.segment, LIMIT_TOTAL_BUFFER) != LIMIT_OFF &&
           gauge_count(&service_self()->credit) >
               (uint64_t)gauge_count(&service_self()->conns) * CREDIT_FLOOR;
}

int64_t credit_slice(void)
{
    /* Credit may come from another process, a new limit from bpctl. */
    if (flows_standing() || flows_starved())
        return STANDING_SLICE_NS;
    return flows_mode() & FLOWS_CREDIT && holds_surplus() ? SURPLUS_SLICE_NS : -1;
}

static void attend(void)
{
    if (wanted_elsewhere())
        look_over(true);
    else if (flows_starved())
        look_over(false);
}

static void after_fork_in_child(void)
{
    atomic_store(&look_next_ns, 0);
}

static uint32_t mode(void)
{
    bool bounded = service_limit(LIMIT_BUFFER) != LIMIT_OFF ||
                   service_limit(LIMIT_TOTAL_BUFFER) != LIMIT_OFF ||
                   service_limit(LIMIT_CONN_BUFFER) != LIMIT_OFF;
    return bounded ? FLOWS_CREDIT : 0;
}

static bool careful(const struct flow *flow, uint32_t modes)
{
    return modes & FLOWS_CREDIT && !credit_is_kernels(flow);
}

const struct flow_feature credit_feature = {
    .mode = mode,
    .begin = open_grant,
    .adjust = adjust,
    .careful = careful,
    .attend = attend,
    .after_fork_in_child = after_fork_in_child,
};

/* --- options --- */

bool credit_option_set(int fd, int level, int name, const void *value, socklen_t length,
                       int *result)
{
    struct flow *flow = flow_of(fd);
    if (!flow || !(flows_mode() & FLOWS_CREDIT))
        return false;
    if (level == IPPROTO_TCP && name == TCP_NOTSENT_LOWAT) {
        atomic_fetch_or(&flow_conn(flow)->flags, CONN_OWN_LOWAT);
        return false;
    }
    if (level != SOL_SOCKET || (name != SO_SNDBUF && name != SO_SNDBUFFORCE) ||
        atomic_load(&flow_conn(flow)->grant) == 0)
        return false;
    uint32_t told = kernel_buffer_told_after(name, value, length, result);
    if (!told)
        return true;
    atomic_store(&flow_conn(flow)->told_sndbuf, told);
    atomic_fetch_or(&flow_conn(flow)->flags, CONN_OWN_SNDBUF);
    struct credit_share share = share_of(flow);
    move_to(fd, flow, credit_shares_asked(&share, start_for(flow)));
    tell_kernel(fd, flow);
    return true;
}

bool credit_option_get(int fd, int level, int name, void *value, socklen_t *length, int *result)
{
    struct flow *flow = flow_of(fd);
    if (!flow || !(flows_mode() & FLOWS_CREDIT) || atomic_load(&flow_conn(flow)->grant) == 0 ||
        !value || !length)
        return false;
    uint32_t told;
    if (level == SOL_SOCKET && name == SO_SNDBUF)
        told = atomic_load(&flow_conn(flow)->told_sndbuf);
    else if (level == IPPROTO_TCP && name == TCP_NOTSENT_LOWAT &&
             !(conn_flags(flow) & CONN_OWN_LOWAT))
        told = 0;
    else
        return false;
    *result = (int)kernel_call(SYS_getsockopt, fd, level, name, value, length);
    if (*result == 0)
        memcpy(value, &told, *length < sizeof told ? *length : sizeof told);
    return true;
}
