/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "requests/requests.h"

#include "base/real.h"
#include "base/tcp_state.h"
#include "output/watches.h"
#include "requests/entries.h"
#include "requests/in_flight.h"
#include "requests/line.h"
#include "requests/look_ahead.h"
#include "requests/places.h"
#include "requests/wakes.h"

#include <linux/sockios.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

/* Whether bytes of the client were read where nobody saw them. */
static bool in_the_middle(int fd)
{
    int unread = 0;
    struct tcp_state state = tcp_state_of(fd);
    if (!state.known)
        return true;
    kernel_call(SYS_ioctl, fd, SIOCINQ, &unread);
    return state.bytes_received > (uint64_t)unread;
}

static void begin(int fd, struct flow *flow)
{
    struct request *request = &requests[flow_slot(flow)];
    if (!(flows_mode() & FLOWS_REQUESTS))
        return;
    memset(request, 0, offsetof(struct request, listed));
    atomic_store(&request->head_ns, atomic_load(&flow_conn(flow)->accepted_ns));
    atomic_store(&request->generation, atomic_load(&flow->generation));
    look_ahead_stamp(fd, request);
}

static void inherited(int fd, struct flow *flow)
{
    struct request *request = request_of(flow);
    if (!request)
        return;
    request->middle = in_the_middle(fd);
    if (request->middle)
        atomic_store(&request->head_ns, 0);
}

static void end(struct flow *flow)
{
    struct request *request = request_of(flow);
    if (!request)
        return;
    request_becomes_stream(request); /* gives back what it has */
    if (request->stream_counted)
        atomic_fetch_sub(&service_self()->streams, 1);
    atomic_store(&request->generation, 0);
}

static void let_go(struct flow *flow)
{
    end(flow);
    watches_release(flow);
}

static void adjust(int fd, struct flow *flow)
{
    bool wanted = flows_mode() & FLOWS_REQUESTS;
    if (!wanted && request_of(flow))
        let_go(flow);
    if (wanted && !request_of(flow)) {
        begin(fd, flow);
        inherited(fd, flow);
    }
}

static uint32_t mode(void)
{
    bool timed = segment_limit(service.segment, LIMIT_IDLE) != LIMIT_OFF ||
                 segment_limit(service.segment, LIMIT_HEADER_TIMEOUT) != LIMIT_OFF;
    return timed || in_flight_limited() ? FLOWS_REQUESTS : 0;
}

/* A place is the parent's, who gives it back when it closes the connection. */
static void becomes_childs(int fd, struct flow *flow, void *context)
{
    struct request *request = request_of(flow);
    (void)fd;
    (void)context;
    if (!request || request_phase(request) == PHASE_REST || request_phase(request) == PHASE_STREAM)
        return;
    bool waited = request_phase(request) == PHASE_WAITING;
    atomic_store(&request->phase, waited ? PHASE_REST : PHASE_UNCOUNTED);
    atomic_store(&request->listed, false);
}

static void after_fork_in_child(void)
{
    line_after_fork_in_child();
    requests_forget_list();
    wakes_after_fork_in_child();
    flows_each(becomes_childs, NULL);
}

const struct flow_feature requests_feature = {
    .mode = mode,
    .begin = begin,
    .inherited = inherited,
    .end = end,
    .adjust = adjust,
    .let_go = let_go,
    .after_fork_in_child = after_fork_in_child,
};
