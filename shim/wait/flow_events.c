/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "wait/flow_events.h"

#include "output/pausing.h"
#include "output/watches.h"

/* Whether anything of the event is left for the program. */
static bool keep(struct flow *flow, struct epoll_event *event, const struct input_gate *gate)
{
    if (!watches_hand_out(flow))
        return false;
    bool reads = event->events & WATCHES_READABLE, writes = event->events & WATCHES_WRITABLE;
    bool paused = pausing_judges(flow, event), remains = true;
    if (event->events & WATCHES_BROKEN)
        return true;
    if (reads && watches_withheld(flow))
        remains = watches_take_out(flow, event);
    if (paused && reads && !(event->events & WATCHES_READABLE))
        pausing_count(flow);
    if (paused && writes)
        pausing_tells_writable(flow);
    if (gate && event->events & WATCHES_READABLE && !gate->admits(atomic_load(&flow->fd), flow))
        remains = watches_refuse(flow, event);
    return remains;
}

int flow_events_filter(int set, struct epoll_event *events, int ready)
{
    const struct input_gate *gate = watches_gate_in_force();
    int kept = 0;
    if (!gate && !watches_active())
        return ready;
    for (int i = 0; i < ready; i++) {
        struct flow *flow = watches_find(set, events[i].data.u64);
        if (!flow || keep(flow, &events[i], gate))
            events[kept++] = events[i];
    }
    return kept;
}
