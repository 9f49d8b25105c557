/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "stalls.h"

#include "real.h"

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/syscall.h>

/* A number that moves when the peer takes something. */
static uint64_t progress(int fd, const struct flow *flow)
{
    struct tcp_info info = {0};
    socklen_t length = sizeof info;
    if (flow->family == AF_UNIX ||
        kernel_call(SYS_getsockopt, fd, IPPROTO_TCP, TCP_INFO, &info, &length) < 0 ||
        length < offsetof(struct tcp_info, tcpi_bytes_acked) + sizeof info.tcpi_bytes_acked)
        return flow_queued(fd);
    return info.tcpi_bytes_acked;
}

static void start_clock(int fd, struct flow *flow)
{
    int saved = errno;
    atomic_store(&flow->acknowledged, progress(fd, flow));
    atomic_store(&flow->stood_since_ns, monotonic_ns());
    errno = saved;
}

void stalls_stands(int fd, struct flow *flow)
{
    bool stood = flow_sign(flow, FLOW_STANDING, 0) & FLOW_STANDING;
    if (flows_mode() & FLOWS_STALL && (!stood || !atomic_load(&flow->stood_since_ns)))
        start_clock(fd, flow);
}

void stalls_moves(struct flow *flow)
{
    if (flow_signs(flow) & (FLOW_STANDING | FLOW_STARVED)) {
        flow_sign(flow, 0, FLOW_STANDING | FLOW_STARVED);
        atomic_store(&flow->stood_since_ns, 0);
    }
}

/*
 * connect(2) to AF_UNSPEC dissolves a TCP connection with a RST (tcp_disconnect), whoever else
 * holds the descriptor, and leaves it to the program to close: reads and writes then say
 * ECONNRESET, as after a reset by the peer. AF_UNIX has no reset; its peer sees the end.
 */
static void reset(int fd, const struct flow *flow)
{
    struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    if (flow->family == AF_UNIX || kernel_call(SYS_connect, fd, &nobody, sizeof nobody) < 0)
        kernel_call(SYS_shutdown, fd, SHUT_RDWR);
}

bool stalls_check(int fd, struct flow *flow)
{
    uint64_t since = atomic_load(&flow->stood_since_ns), now = monotonic_ns();
    if (!(flows_mode() & FLOWS_STALL) || !(flow_signs(flow) & FLOW_STANDING))
        return false;
    if (since == 0 || progress(fd, flow) != atomic_load(&flow->acknowledged)) {
        start_clock(fd, flow);
        return false;
    }
    uint64_t limit = service_limit(LIMIT_STALL);
    if (now < since || now - since < limit)
        return false;
    uint32_t queued = flow_queued(fd);
    if (queued == 0) {
        stalls_moves(flow); /* there was room again; the program did not use it */
        return false;
    }
    /* Only one thread resets it. */
    if (!(flow_sign(flow, 0, FLOW_STANDING | FLOW_STARVED) & FLOW_STANDING))
        return false;
    flows_tell(fd, EVENT_STALL_RESET, queued);
    reset(fd, flow);
    service_count(COUNTER_STALLS_RESET, 1);
    return true;
}

void stalls_adjust(int fd, struct flow *flow)
{
    if (flows_mode() & FLOWS_STALL && flow_signs(flow) & FLOW_STANDING)
        start_clock(fd, flow);
}
