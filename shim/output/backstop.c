/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "output/backstop.h"

#include "base/real.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/syscall.h>

#define SECOND_NS UINT64_C(1000000000)
#define MILLISECOND_NS UINT64_C(1000000)

static uint32_t wanted_ms(const struct flow *flow)
{
    if (!(flows_mode() & FLOWS_STALL) || flow->family == AF_UNIX ||
        flow_signs(flow) & FLOW_NONBLOCKING)
        return 0;
    uint64_t stall = service_limit(LIMIT_STALL), most = INT32_MAX;
    uint64_t milliseconds = (stall + stall / 2 + SECOND_NS) / MILLISECOND_NS;
    return (uint32_t)(milliseconds < most ? milliseconds : most);
}

static bool is_ours(const struct flow *flow)
{
    return atomic_load_explicit(&flow_conn(flow)->flags, memory_order_relaxed) & CONN_BACKSTOP;
}

static void tell_kernel(int fd, struct flow *flow, uint32_t milliseconds)
{
    if (kernel_call(SYS_setsockopt, fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &milliseconds,
                    sizeof milliseconds) < 0)
        return;
    if (milliseconds)
        atomic_fetch_or(&flow_conn(flow)->flags, CONN_BACKSTOP);
    else
        atomic_fetch_and(&flow_conn(flow)->flags, ~(uint32_t)CONN_BACKSTOP);
}

static bool is_set(int fd, int level, int name)
{
    int value = 0;
    socklen_t length = sizeof value;
    return kernel_call(SYS_getsockopt, fd, level, name, &value, &length) < 0 || value != 0;
}

void backstop_set(int fd, struct flow *flow)
{
    uint32_t wanted = wanted_ms(flow);
    int saved = errno;
    flow_sign(flow, 0, FLOW_UNGUARDED);
    if (wanted && !is_ours(flow) &&
        (is_set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT) || is_set(fd, SOL_SOCKET, SO_KEEPALIVE)))
        wanted = 0;
    if (wanted || is_ours(flow))
        tell_kernel(fd, flow, wanted);
    errno = saved;
}

static void take_back(int fd, struct flow *flow)
{
    int saved = errno;
    flow_sign(flow, 0, FLOW_UNGUARDED);
    if (is_ours(flow))
        tell_kernel(fd, flow, 0);
    errno = saved;
}

static void doubt(int fd, struct flow *flow)
{
    if (wanted_ms(flow))
        flow_sign(flow, FLOW_UNGUARDED, 0);
    else
        take_back(fd, flow);
}

void backstop_ended(int fd, struct flow *flow)
{
    /* Once, whoever of those that hold it is told first. */
    if (!(atomic_fetch_and(&flow_conn(flow)->flags, ~(uint32_t)CONN_BACKSTOP) & CONN_BACKSTOP))
        return;
    flows_tell(fd, EVENT_STALL_RESET, 0);
    service_count(COUNTER_STALLS_RESET, 1);
}

void backstop_option_set(int fd, int level, int name)
{
    struct flow *flow = flow_of(fd);
    bool makes_way = (level == IPPROTO_TCP && name == TCP_USER_TIMEOUT) ||
                     (level == SOL_SOCKET && name == SO_KEEPALIVE);
    if (!flow || !makes_way)
        return;
    take_back(fd, flow);
    flow_sign(flow, FLOW_UNGUARDED, 0); /* looked at anew by the next read or write */
}

bool backstop_option_get(int fd, int level, int name, void *value, socklen_t *length, int *result)
{
    const struct flow *flow =
        level == IPPROTO_TCP && name == TCP_USER_TIMEOUT && value && length ? flow_of(fd) : NULL;
    if (!flow || !is_ours(flow))
        return false;
    *result = (int)kernel_call(SYS_getsockopt, fd, level, name, value, length);
    if (*result == 0)
        memset(value, 0, *length);
    return true;
}

static void adjust(int fd, struct flow *flow)
{
    if (flows_mode() & FLOWS_STALL)
        backstop_set(fd, flow);
    else
        take_back(fd, flow);
}

const struct flow_feature backstop_feature = {
    .inherited = backstop_set, .adjust = adjust, .changed = doubt};
