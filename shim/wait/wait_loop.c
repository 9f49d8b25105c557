/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "wait/wait_loop.h"

#include "accept/admission.h"
#include "base/libc.h"
#include "base/sandbox.h"
#include "output/credit.h"
#include "output/metering.h"
#include "output/pausing.h"
#include "output/stalls.h"
#include "output/wakers.h"
#include "output/watches.h"
#include "wait/readiness.h"

#include <sys/syscall.h>

#define WAKELESS_NS INT64_C(8000000) /* where nobody wakes this thread */

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
        gate->turn_begins();
}

/* --- being woken --- */

/* Whether a thread of this process waits for the gate's descriptor: one is enough, and all would be
 * woken by it. */
static _Atomic bool watched;

/*
 * What is due at some time, whatever happens: one thread of a process looks, as long as it comes
 * back in time, and the others sleep for longer. The word has until when, which tells that thread
 * that it is the one.
 */
static _Atomic uint64_t looked_after_until_ns;
static _Thread_local uint64_t looks_until_ns __attribute__((tls_model("initial-exec")));
#define OTHERS_NS INT64_C(200000000)
static _Atomic uint32_t asleep;
#define MANY 16

static int64_t next_look(const struct input_gate *gate)
{
    int64_t look = gate->next_look_ns();
    if (look < 0 || look > OTHERS_NS || atomic_load_explicit(&asleep, memory_order_relaxed) < MANY)
        return look;
    uint64_t now = monotonic_ns(), until = atomic_load(&looked_after_until_ns);
    if (until > now && until - now <= (uint64_t)OTHERS_NS && until != looks_until_ns)
        return OTHERS_NS;
    if (!atomic_compare_exchange_strong(&looked_after_until_ns, &until, now + (uint64_t)look))
        return OTHERS_NS;
    looks_until_ns = now + (uint64_t)look;
    return look;
}

/* How long the thread may sleep, then: -1 for as long as it likes. */
static int64_t watch_wake_fd(struct wait *wait, const struct input_gate *gate)
{
    int fd = wait->has_turns ? gate->wake_fd() : -1;
    if (fd >= 0 && sandbox_permits(SYS_ppoll) && !atomic_exchange(&watched, true))
        wait->wake_fd = fd;
    bool by_itself = wait->wake_fd < 0 && wait->waker < 0 && (fd >= 0 || wait->set < 0);
    return wait->has_turns && by_itself ? WAKELESS_NS : -1;
}

void wait_loop_after_fork_in_child(void)
{
    atomic_store(&watched, false);
    atomic_store(&asleep, 0);
}

static void leave_wake_fd(struct wait *wait)
{
    if (wait->wake_fd >= 0)
        atomic_store(&watched, false);
    wait->wake_fd = -1;
}

bool wait_loop_awaits(struct wait *wait, struct flow *flow)
{
    if (!(flow_signs(flow) & FLOW_WAITS_TURN))
        return false;
    if (wait->waker < 0 && sandbox_permits(SYS_ppoll))
        wait->waker = wakers_take();
    bool awaits = watches_awaits(flow, wait->waker);
    wait->has_turns |= awaits;
    return awaits;
}

void wait_loop_awaits_no_more(const struct wait *wait, struct flow *flow)
{
    watches_awaits_no_more(flow, wait->waker);
}

unsigned wait_loop_bells(const struct wait *wait, struct pollfd bells[WAIT_BELLS_MOST])
{
    unsigned count = 0;
    if (wait->wake_fd >= 0)
        bells[count++] = (struct pollfd){.fd = wait->wake_fd, .events = POLLIN};
    if (wait->waker >= 0)
        bells[count++] = (struct pollfd){.fd = wakers_descriptor(wait->waker), .events = POLLIN};
    return count;
}

void wait_loop_heard(struct wait *wait, const struct pollfd *bells, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (!bells[i].revents)
            continue;
        wait->cut_short = true;
        if (bells[i].fd == wait->wake_fd && watches_gate_there)
            watches_gate_there->heard();
        else
            wakers_heard(wait->waker);
    }
}

/* --- turns --- */

static int64_t next_sleep(struct wait *wait, const struct input_gate *gate, int64_t left)
{
    if (wait->pending)
        return 0;
    if (!service_active())
        return left;
    int64_t sleep = shorter(left, credit_slice());
    if (gate) {
        sleep = shorter(sleep, watch_wake_fd(wait, gate));
        sleep = shorter(sleep, next_look(gate));
    }
    if (sleep != left || wait->wake_fd >= 0 || wait->waker >= 0)
        signals_hold(&wait->slices.held);
    sleep = shorter(sleep, stalls_slice());
    bool watches = wait->accepts && (wait->hides || admission_needs_attention());
    return watches ? slices_next(&wait->slices, sleep) : sleep;
}

static void leave(struct wait *wait)
{
    if (wait->sleeping) {
        watches_gate_there->sleeps(false);
        atomic_fetch_sub_explicit(&asleep, 1, memory_order_relaxed);
    }
    wait->sleeping = false;
    leave_wake_fd(wait);
    if (wait->operations->leave)
        wait->operations->leave(wait);
}

static void end(struct wait *wait)
{
    wakers_give(wait->waker);
    slices_end(&wait->slices);
}

static void end_at_cancellation(void *wait)
{
    leave(wait);
    end(wait);
}

/* One wait in the kernel, which a cancelled thread leaves with everything in order. */
static int ask(struct wait *wait)
{
    struct libc_cleanup cleanup;
    if (!wait->slices.held.held)
        return wait->operations->ask(wait);
    libc_cleanup_push(&cleanup, end_at_cancellation, wait);
    int reported = wait->operations->ask(wait);
    libc_cleanup_pop(&cleanup, false);
    return reported;
}

static int go_round(struct wait *wait)
{
    for (;;) {
        const struct input_gate *gate = watches_gate_in_force();
        do_what_is_due(wait, gate);
        wait->operations->prepare(wait);
        wait->cut_short = false;
        int64_t left = slices_left(&wait->slices);
        wait->sleep_ns = next_sleep(wait, gate, left);
        wait->opened = signals_opened(&wait->slices.held, wait->signals);
        wait->sleeping = gate != NULL;
        if (gate) {
            gate->sleeps(true);
            atomic_fetch_add_explicit(&asleep, 1, memory_order_relaxed);
        }
        int reported = ask(wait);
        leave(wait);
        int ready = reported < 0 ? reported : wait->operations->settle(wait, reported);
        bool over = wait->sleep_ns == left && reported == 0 && !wait->cut_short;
        if (ready != 0 || left == 0 || over)
            return ready;
        signals_hold(&wait->slices.held);
    }
}

int wait_loop_run(struct wait *wait)
{
    wait->wake_fd = wait->waker = -1;
    wait->sleeping = false;
    int ready = go_round(wait);
    end(wait);
    return ready;
}
