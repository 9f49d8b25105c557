/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "credit.h"

#include "real.h"

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
#define START_SHARE 16
#define START_MOST 64        /* KiB */
#define RESERVE_SHARE 4      /* of the ceiling, for newcomers */
#define KERNEL_TCP_MOST 4096 /* KiB; tcp(7): the default of tcp_wmem[2] */
#define KERNEL_UNIX 208      /* KiB; unix(7): net.core.wmem_default */
#define LOWAT_LEAST 4096
#define SPARE_LEAST (64 * 1024) /* KiB */
#define PIECE_OVERHEAD 64       /* what net/unix/af_unix.c leaves of half a buffer */
#define NOTHING UINT32_MAX

static _Atomic uint32_t wanted_seen;

/* --- what may be given --- */

static uint64_t ceiling_kib(uint64_t limit)
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

static uint64_t free_credit(uint64_t reserve_share)
{
    uint64_t own = ceiling_kib(service_limit(LIMIT_BUFFER));
    uint64_t all = ceiling_kib(segment_limit(service.segment, LIMIT_TOTAL_BUFFER));
    uint64_t own_free =
        free_under(&service_self()->credit, own, reserve_share ? own / reserve_share : 0);
    uint64_t all_free =
        free_under(&service.segment->credit, all, reserve_share ? all / reserve_share : 0);
    return own_free < all_free ? own_free : all_free;
}

uint64_t credit_share(void)
{
    uint64_t free = free_credit(RESERVE_SHARE), conns = gauge_count(&service_self()->conns);
    return free == LIMIT_OFF ? UINT32_MAX : free / (conns ? conns : 1);
}

uint64_t credit_spare(void)
{
    uint64_t free = free_credit(RESERVE_SHARE), conns = gauge_count(&service_self()->conns);
    uint64_t own = ceiling_kib(segment_limit(service.segment, LIMIT_CONN_BUFFER));
    if (free < SPARE_LEAST)
        return 0;
    uint64_t share = free == LIMIT_OFF ? UINT32_MAX : free / (conns ? conns : 1);
    return share < own ? share : own;
}

bool credit_room(void)
{
    return !(flows_mode() & FLOWS_CREDIT) || free_credit(0) >= CREDIT_FLOOR;
}

static uint32_t conn_flags(const struct flow *flow)
{
    return atomic_load_explicit(&flow_conn(flow)->flags, memory_order_relaxed);
}

/* What the kernel gives on its own, at most, in KiB. */
static uint32_t kernels_most(const struct flow *flow)
{
    static _Atomic uint32_t tcp_most;
    uint32_t most = atomic_load_explicit(&tcp_most, memory_order_relaxed);
    if (flow->family == AF_UNIX)
        return KERNEL_UNIX;
    if (most)
        return most;
    char text[64] = "";
    most = KERNEL_TCP_MOST;
    int fd =
        (int)kernel_call(SYS_openat, AT_FDCWD, "/proc/sys/net/ipv4/tcp_wmem", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        uint64_t number = 0;
        long length = kernel_call(SYS_read, fd, text, sizeof text - 1);
        kernel_call(SYS_close, fd);
        /* Three numbers; the last one counts. */
        for (long i = 0; i < length && text[i] != '\n'; i++)
            number = text[i] < '0' || text[i] > '9' ? 0 : number * 10 + (uint64_t)(text[i] - '0');
        if (number / 1024 > 0 && number / 1024 < UINT32_MAX)
            most = (uint32_t)(number / 1024);
    }
    atomic_store(&tcp_most, most);
    return most;
}

uint64_t credit_most(const struct flow *flow)
{
    uint64_t most = ceiling_kib(segment_limit(service.segment, LIMIT_CONN_BUFFER));
    uint64_t own = ceiling_kib(service_limit(LIMIT_BUFFER));
    uint64_t all = ceiling_kib(segment_limit(service.segment, LIMIT_TOTAL_BUFFER));
    uint32_t asked = conn_flags(flow) & CONN_OWN_SNDBUF
                         ? atomic_load(&flow_conn(flow)->told_sndbuf) / 1024
                         : NOTHING;
    most = own < most ? own : most;
    most = all < most ? all : most;
    most = asked < most ? asked : most;
    uint32_t kernels = kernels_most(flow);
    return most < kernels ? most : kernels;
}

bool credit_is_kernels(const struct flow *flow)
{
    uint32_t grant = atomic_load_explicit(&flow_conn(flow)->grant, memory_order_relaxed);
    return grant == 0 || (grant >= kernels_most(flow) && !(conn_flags(flow) & CONN_OWN_SNDBUF));
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

static bool take(uint32_t slot, uint32_t amount)
{
    struct segment *segment = service.segment;
    if (!gauge_take_many(&segment->credit, amount,
                         ceiling_kib(segment_limit(segment, LIMIT_TOTAL_BUFFER))))
        return false;
    if (!gauge_take_many(&service_self()->credit, amount,
                         ceiling_kib(service_limit(LIMIT_BUFFER)))) {
        gauge_give_many(&segment->credit, amount);
        return false;
    }
    /* What other holders may have is theirs to see to. */
    each_holder(slot, take_regardless, amount);
    gauge_give_many(&service_self()->credit, amount);
    atomic_fetch_add(&segment->conn[slot].grant, amount);
    return true;
}

static void give(uint32_t slot, uint32_t amount)
{
    atomic_fetch_sub(&service.segment->conn[slot].grant, amount);
    each_holder(slot, gauge_give_many, amount);
    gauge_give_many(&service.segment->credit, amount);
}

void credit_shared(uint32_t slot, uint32_t holder)
{
    take_regardless(&service.segment->process[holder].credit,
                    atomic_load(&service.segment->conn[slot].grant));
}

void credit_left(uint32_t slot, uint32_t holder)
{
    gauge_give_many(&service.segment->process[holder].credit,
                    atomic_load(&service.segment->conn[slot].grant));
}

void credit_closed(uint32_t slot)
{
    gauge_give_many(&service.segment->credit,
                    atomic_exchange(&service.segment->conn[slot].grant, 0));
}

/* --- telling the kernel --- */

static long set_option(int fd, int level, int name, uint32_t value)
{
    return kernel_call(SYS_setsockopt, fd, level, name, &value, sizeof value);
}

static uint32_t get_option(int fd, int level, int name)
{
    uint32_t value = 0;
    socklen_t length = sizeof value;
    kernel_call(SYS_getsockopt, fd, level, name, &value, &length);
    return value;
}

static void tell_kernel(int fd, struct flow *flow)
{
    uint32_t grant = atomic_load(&flow_conn(flow)->grant);
    bool tcp = flow->family != AF_UNIX && !(conn_flags(flow) & CONN_OWN_LOWAT);
    int saved = errno;

    flow_reconsider(flow);
    if (credit_is_kernels(flow)) {
        /* As far as it goes without privilege, and from there on as the kernel likes. */
        set_option(fd, SOL_SOCKET, SO_SNDBUF, kernels_most(flow) * 512);
        if (flow->family != AF_UNIX)
            set_option(fd, SOL_SOCKET, SO_BUF_LOCK, 0);
        if (tcp)
            set_option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 0);
    } else {
        /* socket(7): the kernel doubles the value, for its overhead. Undoubled it bounds the bytes.
         */
        set_option(fd, SOL_SOCKET, SO_SNDBUF, grant * 512);
        uint32_t lowat = grant * 512;
        if (tcp)
            set_option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT,
                       lowat > LOWAT_LEAST ? lowat : LOWAT_LEAST);
    }
    errno = saved;
}

/* What getsockopt would tell after this setsockopt, without touching the connection: 0 on failure.
 */
static uint32_t told_after(int name, const void *value, socklen_t length, int *result)
{
    int trial = (int)kernel_call(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (trial < 0) {
        *result = -1;
        return 0;
    }
    *result = (int)kernel_call(SYS_setsockopt, trial, SOL_SOCKET, name, value, length);
    uint32_t told = *result == 0 ? get_option(trial, SOL_SOCKET, SO_SNDBUF) : 0;
    int saved = errno;
    kernel_call(SYS_close, trial);
    errno = saved;
    return told;
}

/* What a locked SO_SNDBUF can be raised to without privilege: twice net.core.wmem_max, in KiB. */
static uint32_t locked_most(void)
{
    static _Atomic uint32_t known;
    uint32_t most = atomic_load_explicit(&known, memory_order_relaxed);
    if (most)
        return most;
    int wish = INT32_MAX / 2, result;
    most = told_after(SO_SNDBUF, &wish, sizeof wish, &result) / 1024;
    most = most > CREDIT_FLOOR ? most : KERNEL_UNIX;
    atomic_store(&known, most);
    return most;
}

/* Brings a wish to what the kernel can do: its own growth, or a size it can be held at. */
static uint32_t attainable(const struct flow *flow, uint64_t wish)
{
    uint32_t kernels = kernels_most(flow), locked;
    if (wish >= kernels)
        return kernels;
    locked = locked_most();
    return (uint32_t)(wish < locked ? wish : locked);
}

bool credit_lend(int fd, const struct flow *flow, size_t bytes)
{
    uint64_t wanted = (uint64_t)bytes + PIECE_OVERHEAD;
    uint64_t grant = atomic_load(&flow_conn(flow)->grant);
    if (flow->family != AF_UNIX || !(flows_mode() & FLOWS_CREDIT) || credit_is_kernels(flow) ||
        wanted <= grant * 512)
        return false;
    int saved = errno;
    set_option(fd, SOL_SOCKET, SO_SNDBUF,
               (uint32_t)(wanted < KERNEL_UNIX * 512 ? wanted : KERNEL_UNIX * 512));
    errno = saved;
    return true;
}

void credit_lent_back(int fd, struct flow *flow)
{
    tell_kernel(fd, flow);
}

/* --- a connection's life --- */

static uint64_t start_for(const struct flow *flow)
{
    uint64_t share = free_credit(0), most = credit_most(flow);
    share = share == LIMIT_OFF ? LIMIT_OFF : share / START_SHARE;
    if (share >= kernels_most(flow) && most >= kernels_most(flow))
        return kernels_most(flow);
    share = share < START_MOST ? share : START_MOST;
    share = share < most ? share : most;
    return share > CREDIT_FLOOR ? share : CREDIT_FLOOR;
}

void credit_open(int fd, struct flow *flow)
{
    uint32_t slot = flow_slot(flow);
    struct segment_conn *conn = flow_conn(flow);
    int saved = errno;

    if (!(flows_mode() & FLOWS_CREDIT) || atomic_load(&conn->grant) != 0)
        return;
    atomic_store(&conn->told_sndbuf, get_option(fd, SOL_SOCKET, SO_SNDBUF));
    /* Locked before we touched it: by the program, or by its listener, from which it is inherited.
     */
    if (get_option(fd, SOL_SOCKET, SO_BUF_LOCK) & SNDBUF_LOCKED)
        atomic_fetch_or(&conn->flags, CONN_OWN_SNDBUF);
    uint32_t start = attainable(flow, start_for(flow));
    /* Others may have taken it meanwhile; the floor was promised when it was admitted. */
    if (!take(slot, start) && !(start > CREDIT_FLOOR && take(slot, CREDIT_FLOOR))) {
        atomic_fetch_add(&conn->grant, CREDIT_FLOOR);
        take_regardless(&service.segment->credit, CREDIT_FLOOR);
        each_holder(slot, take_regardless, CREDIT_FLOOR);
    }
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
    uint64_t most = credit_most(flow),
             wish = (uint64_t)grant * 2 < most ? (uint64_t)grant * 2 : most;
    if (attainable(flow, wish) <= grant)
        wish = most; /* from the most it can be held at to the kernel's own growth, in one step */
    if (attainable(flow, wish) <= grant)
        return false;
    uint64_t free = free_credit(RESERVE_SHARE);
    if (free != LIMIT_OFF && wish > grant + free / 2)
        wish = grant + free / 2;
    uint32_t reached = attainable(flow, wish);
    if (reached <= grant + grant / 8 || !take(slot, reached - grant)) {
        ran_short(flow);
        return false;
    }
    flow_sign(flow, 0, FLOW_STARVED);
    tell_kernel(fd, flow);
    return true;
}

/* Lowers the grant to `target` KiB, or raises it as far as the pool allows. */
static void move_to(int fd, struct flow *flow, uint32_t target)
{
    uint32_t slot = flow_slot(flow), grant = atomic_load(&flow_conn(flow)->grant);
    if (target < grant)
        give(slot, grant - target);
    else if (target == grant || !take(slot, target - grant))
        return;
    tell_kernel(fd, flow);
}

void credit_adjust(int fd, struct flow *flow)
{
    uint32_t slot = flow_slot(flow), grant = atomic_load(&flow_conn(flow)->grant);

    if (!(flows_mode() & FLOWS_CREDIT)) {
        if (grant == 0)
            return;
        bool own = conn_flags(flow) & CONN_OWN_SNDBUF;
        give(slot, grant);
        if (own)
            set_option(fd, SOL_SOCKET, SO_SNDBUF, atomic_load(&flow_conn(flow)->told_sndbuf) / 2);
        else
            tell_kernel(fd, flow); /* a grant of 0 is the kernel's own */
        return;
    }
    if (grant == 0) {
        credit_open(fd, flow);
        return;
    }
    /* What is queued stays queued; the rest of the grant is handed out anew. */
    uint64_t target = start_for(flow), queued = (flow_queued(fd) + 1023) / 1024;
    uint64_t most = credit_most(flow);
    if (target < queued)
        target = queued < most ? queued : most;
    move_to(fd, flow, attainable(flow, target > CREDIT_FLOOR ? target : CREDIT_FLOOR));
    if (flow_signs(flow) & FLOW_STANDING)
        credit_grow(fd, flow);
}

uint32_t credit_shrink(int fd, struct flow *flow)
{
    uint32_t grant = atomic_load(&flow_conn(flow)->grant), queued = flow_queued(fd);
    uint64_t target = start_for(flow);
    /* Room to go on with: twice what it uses. */
    uint64_t used = (uint64_t)queued * 2 / 1024;
    target = target < used ? used : target;
    if (grant && target < grant - grant / 4)
        move_to(fd, flow, attainable(flow, target > CREDIT_FLOOR ? target : CREDIT_FLOOR));
    return queued;
}

bool credit_wanted_elsewhere(void)
{
    uint32_t wanted = atomic_load_explicit(&service.segment->credit_wanted, memory_order_relaxed);
    return wanted != atomic_load_explicit(&wanted_seen, memory_order_relaxed) &&
           flows_mode() & FLOWS_CREDIT && atomic_exchange(&wanted_seen, wanted) != wanted;
}

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
    uint32_t told = told_after(name, value, length, result);
    if (!told)
        return true;
    atomic_store(&flow_conn(flow)->told_sndbuf, told);
    atomic_fetch_or(&flow_conn(flow)->flags, CONN_OWN_SNDBUF);
    uint32_t grant = atomic_load(&flow_conn(flow)->grant);
    uint64_t target = start_for(flow);
    /* The program's word is as good as a write that came back short. */
    uint64_t most = credit_most(flow), free = free_credit(RESERVE_SHARE);
    target = target < most ? most : target;
    if (free != LIMIT_OFF && target > grant + free / 2)
        target = grant + free / 2;
    move_to(fd, flow, attainable(flow, target > CREDIT_FLOOR ? target : CREDIT_FLOOR));
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
