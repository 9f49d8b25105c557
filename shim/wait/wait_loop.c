/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "wait/wait_loop.h"

#include "accept/admission.h"
#include "output/credit.h"
#include "output/metering.h"
#include "output/pausing.h"
#include "output/stalls.h"
#include "output/watches.h"
#include "wait/readiness.h"

#include <errno.h>

static int64_t shorter(int64_t left, int64_t slice)
{
    return slice >= 0 && (left < 0 || slice < left) ? slice : left;
}

bool wait_loop_concerned(uint32_t mode)
{
    pausing_new_turn();
    metering_new_turn();
    stalls_stir();
    flows_attend();
    return credit_slice() >= 0 || stalls_slice() >= 0 ||
           (mode & FLOWS_REQUESTS && watches_gate_there->next_look_ns() >= 0);
}

static void do_what_is_due(const struct wait *wait, const struct input_gate *gate)
{
    if (wait->accepts) {
        admission_attend();
        readiness_room_made();
    } else {
        flows_attend();
    }
    if (gate)
        gate->turn_begins(wait->set);
}

static int64_t next_sleep(struct wait *wait, const struct input_gate *gate, int64_t left)
{
    if (wait->pending)
        return 0;
    if (!service_active())
        return left;
    int64_t sleep = shorter(left, credit_slice());
    if (gate) {
        sleep = shorter(sleep, gate->next_look_ns());
        wait->wake_fd = wait->has_turns ? gate->wake_fd() : -1;
    }
    if (sleep != left || wait->wake_fd >= 0)
        signals_hold(&wait->slices.held);
    sleep = shorter(sleep, stalls_slice());
    bool watches = wait->accepts && (wait->hides || admission_needs_attention());
    return watches ? slices_next(&wait->slices, sleep) : sleep;
}

static int ask(void *argument)
{
    struct wait *wait = argument;
    return wait->operations->ask(wait);
}

static int go_round(struct wait *wait)
{
    for (;;) {
        const struct input_gate *gate = watches_gate_in_force();
        do_what_is_due(wait, gate);
        wait->operations->prepare(wait);
        wait->wake_fd = -1;
        wait->cut_short = false;
        int64_t left = slices_left(&wait->slices);
        wait->sleep_ns = next_sleep(wait, gate, left);
        wait->opened = signals_opened(&wait->slices.held, wait->signals);
        int reported = slices_wait(&wait->slices, ask, wait);
        int ready = reported < 0 ? reported : wait->operations->settle(wait, reported);
        bool over = wait->sleep_ns == left && reported == 0 && !wait->cut_short;
        if (ready != 0 || left == 0 || over)
            return ready;
        signals_hold(&wait->slices.held);
    }
}

int wait_loop_run(struct wait *wait)
{
    int ready = go_round(wait);
    slices_end(&wait->slices);
    return ready;
}
