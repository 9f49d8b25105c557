/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "wait/flow_wait.h"

#include "output/credit.h"
#include "output/metering.h"
#include "output/pausing.h"
#include "output/stalls.h"
#include "output/watches.h"
#include "wait/flow_events.h"
#include "wait/slices.h"

static int64_t shorter(int64_t left, int64_t slice)
{
    return slice >= 0 && (left < 0 || slice < left) ? slice : left;
}

struct epoll_wait {
    const struct epoll_call *call;
    int64_t timeout_ns;
};

static int wait_in_epoll(void *argument)
{
    const struct epoll_wait *wait = argument;
    return wait->call->wait(wait->call, wait->timeout_ns);
}

int flow_wait(const struct epoll_call *call, int64_t timeout_ns)
{
    uint32_t mode = flows_mode_here();
    if (!mode || call->events_max <= 0)
        return call->wait(call, timeout_ns);
    pausing_new_turn();
    metering_new_turn();
    stalls_stir();
    struct slices slices = slices_start(timeout_ns);
    int ready;
    for (;;) {
        flows_attend();
        const struct input_gate *gate = watches_gate_in_force();
        if (gate)
            gate->turn_begins(call->set);
        int64_t left = slices_left(&slices), slice = shorter(left, credit_slice());
        if (gate)
            slice = shorter(slice, gate->next_look_ns());
        if (slice != left)
            signals_hold(&slices.held);
        slice = shorter(slice, stalls_slice());
        struct epoll_call opened = *call;
        opened.signals = signals_opened(&slices.held, call->signals);
        struct epoll_wait wait = {&opened, slice};
        int reported = ready = slices_wait(&slices, wait_in_epoll, &wait);
        if (reported < 0)
            break;
        if (reported > 0)
            ready = flow_events_filter(call->set, call->events, reported);
        if (ready > 0 || (slice == left && (reported == 0 || left == 0)))
            break;
        signals_hold(&slices.held);
    }
    slices_end(&slices);
    return ready;
}
