/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "output/pausing.h"

#include "base/memory.h"
#include "base/polling.h"
#include "base/real.h"
#include "base/trace.h"
#include "output/watches.h"

#include <poll.h>

#define TOLD_MAX 64 /* connections told writable in one wait, whose answer is looked at */

static _Thread_local uint32_t told[TOLD_MAX] __attribute__((tls_model("initial-exec")));
_Thread_local unsigned pausing_told_count __attribute__((tls_model("initial-exec")));

static bool writable(int fd)
{
    return polling_ready(fd, POLLOUT);
}

static bool has_sign(const struct flow *flow)
{
    uint32_t signs = flow_signs(flow);
    return signs & FLOW_SIGNS && !(signs & FLOW_FALSE_SIGN);
}

/* --- what reads and writes come to --- */

void pausing_writes(struct flow *flow)
{
    uint32_t signs = flow_signs(flow);
    if (signs & (FLOW_TOLD_WRITABLE | FLOW_FALSE_SIGN))
        watches_change(flow, 0, FLOW_TOLD_WRITABLE | FLOW_FALSE_SIGN);
}

void pausing_wrote_all(struct flow *flow)
{
    if (flow_signs(flow) & FLOW_FELL_SHORT)
        watches_resume(flow, 0, FLOW_FELL_SHORT);
}

void pausing_fell_short(struct flow *flow)
{
    uint32_t events = atomic_load(&flow->events);
    if (flows_mode() & FLOWS_PAUSE && flow_signs(flow) & FLOW_FOUND_BY_DATA &&
        watches_set_of(flow) >= 0 && events & EPOLLET && events & WATCHES_READABLE &&
        events & WATCHES_WRITABLE)
        watches_change(flow, FLOW_FELL_SHORT, 0);
}

void pausing_count(struct flow *flow)
{
    if (flow_signs(flow) & FLOW_PAUSE_COUNTED)
        return;
    flow_sign(flow, FLOW_PAUSE_COUNTED, 0);
    service_count(COUNTER_READS_PAUSED, 1);
    trace(TRACE_OUTPUT, "pause-reads", atomic_load(&flow->fd), "slot", flow_slot(flow), NULL, 0);
    flows_tell(atomic_load(&flow->fd), EVENT_READS_PAUSED, 0);
}

bool pausing_withholds(int fd, struct flow *flow)
{
    if (!has_sign(flow) || !(flow_signs(flow) & FLOW_NONBLOCKING))
        return false;
    if (!(flow_signs(flow) & FLOW_TOLD_WRITABLE) && writable(fd)) {
        watches_resume(flow, 0, FLOW_FELL_SHORT);
        if (!has_sign(flow))
            return false;
    }
    /* With EPOLLONESHOT it is the program that arms it again, and then the kernel looks. */
    if (!(atomic_load(&flow->events) & EPOLLONESHOT))
        flow_sign(flow, FLOW_OWED, 0);
    if (!has_sign(flow)) { /* another thread wrote meanwhile */
        flow_sign(flow, 0, FLOW_OWED);
        return false;
    }
    pausing_count(flow);
    return true;
}

/* --- epoll --- */

static struct watches_signs signs_of(uint32_t events)
{
    struct watches_signs signs = {0, FLOW_FALSE_SIGN | FLOW_WANTS_ROOM};
    bool both = events & WATCHES_READABLE && events & WATCHES_WRITABLE;
    if (!both || !(events & EPOLLET))
        signs.clear |= FLOW_FELL_SHORT;
    if (both && !(events & EPOLLET) && flows_mode() & FLOWS_PAUSE)
        signs.set = FLOW_WANTS_ROOM;
    else
        signs.clear |= FLOW_PAUSE_COUNTED;
    return signs;
}

int pausing_control(int set, int operation, int fd, struct epoll_event *event)
{
    struct flow *flow = flow_at(descriptor_at(fd));
    if (flow && operation == EPOLL_CTL_DEL)
        return watches_control(flow, set, operation, fd, event, (struct watches_signs){0});
    if (!flow || !memory_there(MEMORY_EVENT, event, sizeof *event))
        return REAL(epoll_ctl)(set, operation, fd, event);
    return watches_control(flow, set, operation, fd, event, signs_of(event->events));
}

/* Connections that were told writable in this thread's last wait, and wrote nothing since, had
 * nothing to write: their sign was false. */
void pausing_judge_told(void)
{
    for (unsigned i = 0; i < pausing_told_count; i++) {
        struct flow *flow = flow_at_slot(told[i]);
        if (flow && flow_signs(flow) & FLOW_TOLD_WRITABLE && flow_signs(flow) & FLOW_SIGNS)
            watches_resume(flow, FLOW_FALSE_SIGN, FLOW_FELL_SHORT | FLOW_TOLD_WRITABLE);
    }
    pausing_told_count = 0;
}

bool pausing_judges(struct flow *flow, const struct epoll_event *event)
{
    if (!(event->events & (WATCHES_READABLE | WATCHES_WRITABLE)) || !has_sign(flow))
        return false;
    if (event->events & WATCHES_BROKEN) {
        watches_resume(flow, FLOW_FALSE_SIGN, FLOW_FELL_SHORT);
        return false;
    }
    /* What fell short and has room now, without being told so in this event, was told before. */
    if (event->events & WATCHES_READABLE && !(event->events & WATCHES_WRITABLE) &&
        flow_signs(flow) & FLOW_FELL_SHORT && writable(atomic_load(&flow->fd))) {
        watches_resume(flow, 0, FLOW_FELL_SHORT);
        return false;
    }
    return true;
}

void pausing_tells_writable(struct flow *flow)
{
    if (pausing_told_count == TOLD_MAX) {
        watches_resume(flow, FLOW_FALSE_SIGN, FLOW_FELL_SHORT);
        return;
    }
    flow_sign(flow, FLOW_TOLD_WRITABLE, 0);
    told[pausing_told_count++] = flow_slot(flow);
}

/* --- poll and select --- */

bool pausing_masks(struct flow *flow)
{
    /* Told, and it wrote nothing since: it has nothing to write. */
    if (!(flows_mode() & FLOWS_PAUSE) || flow_signs(flow) & FLOW_TOLD_WRITABLE)
        return false;
    pausing_count(flow);
    return true;
}

void pausing_told(int fd)
{
    struct flow *flow = flow_of(fd);
    if (flow)
        flow_sign(flow, FLOW_TOLD_WRITABLE, FLOW_PAUSE_COUNTED);
}

/* --- what flows do for it --- */

static void resume(struct flow *flow)
{
    watches_resume(flow, 0, FLOW_SIGNS | FLOW_FALSE_SIGN);
}

static void adjust(int fd, struct flow *flow)
{
    (void)fd;
    if (!(flows_mode() & FLOWS_PAUSE))
        resume(flow);
}

static void after_fork_in_child(void)
{
    pausing_told_count = 0;
}

const struct flow_feature pausing_feature = {
    .adjust = adjust, .let_go = resume, .after_fork_in_child = after_fork_in_child};
