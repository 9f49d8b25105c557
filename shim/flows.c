/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "flows.h"

#include "address.h"
#include "backstop.h"
#include "concurrency.h"
#include "connections.h"
#include "credit.h"
#include "due.h"
#include "pacing.h"
#include "pausing.h"
#include "real.h"
#include "sandbox.h"
#include "sojourn.h"
#include "stalls.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#define STANDING_SLICE_NS INT64_C(8000000)
#define SURPLUS_SLICE_NS INT64_C(100000000)
#define LOOK_SHARE 50
#define LOOK_EVERY_NS (2 * DUE_MILLISECOND)
#define LOOK_LONGEST_NS (1000 * DUE_MILLISECOND)
#define MEASURE_SHARE 200
#define MEASURE_EVERY_NS (20 * DUE_MILLISECOND)
#define TELL_EVERY_NS (1000 * DUE_MILLISECOND)

struct flow flows[SEGMENT_CONNS];
_Atomic uint32_t flows_mode_now;
_Atomic uint64_t flows_seen_limits = UINT64_MAX;

/* How many flows have a sign that calls for attention. */
static _Atomic uint32_t starved, standing;
static _Atomic uint64_t look_next_ns;

/* --- the mode --- */

static bool is_set(enum limit_key key)
{
    return service_limit(key) != LIMIT_OFF;
}

static uint32_t work_out_mode(void)
{
    uint32_t mode = 0;
    if (!sandbox_serves(SANDBOX_BYTES))
        return 0;
    if (is_set(LIMIT_BUFFER) || is_set(LIMIT_TOTAL_BUFFER) || is_set(LIMIT_CONN_BUFFER))
        mode |= FLOWS_CREDIT;
    uint64_t pause = service_limit(LIMIT_PAUSE_READS);
    if (pause == PAUSE_READS_ON || (pause == PAUSE_READS_WITH_BUFFER && mode & FLOWS_CREDIT))
        mode |= FLOWS_PAUSE;
    if (is_set(LIMIT_STALL))
        mode |= FLOWS_STALL;
    if (is_set(LIMIT_SEND_RATE) || is_set(LIMIT_CONN_SEND_RATE))
        mode |= FLOWS_PACE;
    if (concurrency_wanted() || sojourn_watched())
        mode |= FLOWS_TIME;
    return mode;
}

void flows_each(void (*visit)(int fd, struct flow *flow, void *context), void *context)
{
    int end = descriptors_end();
    for (int fd = 0; fd < end; fd++) {
        struct flow *flow = flow_at(descriptor_at(fd));
        if (flow && flow_at_slot(flow_slot(flow)))
            visit(fd, flow, context);
    }
}

static void bring_in_line(int fd, struct flow *flow, void *context)
{
    const uint32_t *mode = context;
    /* In a sandbox a grant stays as it is, with the kernel and in the accounts, until the end. */
    if (!sandbox_serves(SANDBOX_BYTES)) {
        pausing_resume(flow);
        return;
    }
    if (*mode)
        flows_reread(fd);
    credit_adjust(fd, flow);
    pacing_adjust(fd, flow);
    stalls_adjust(flow);
    if (*mode & FLOWS_STALL)
        backstop_set(fd, flow);
    else
        backstop_take_back(fd, flow);
    flow_reconsider(flow);
    if (!(*mode & FLOWS_PAUSE))
        pausing_resume(flow);
}

static void (*adjust_others)(uint32_t before, uint32_t after);

void flows_on_limits(void (*adjust)(uint32_t before, uint32_t after))
{
    adjust_others = adjust;
}

void flows_refresh(void)
{
    uint64_t seen = atomic_load(&flows_seen_limits), version = flows_limits_version();
    if (seen == version || !service_active() ||
        !atomic_compare_exchange_strong(&flows_seen_limits, &seen, version))
        return;
    int saved = errno;
    uint32_t before = atomic_load(&flows_mode_now), mode = work_out_mode();
    atomic_store(&flows_mode_now, mode);
    if (mode | before)
        flows_each(bring_in_line, &mode);
    if (adjust_others && sandbox_serves(SANDBOX_BYTES))
        adjust_others(before, mode);
    errno = saved;
}

void flows_work_out_anew(void)
{
    atomic_store(&flows_seen_limits, UINT64_MAX);
}

void flows_before_sandbox(void)
{
    flows_work_out_anew();
    flows_refresh();
}

/* --- flows --- */

struct flow *flow_at_slot(uint32_t slot)
{
    if (slot >= SEGMENT_CONNS)
        return NULL;
    uint32_t generation = atomic_load_explicit(&flows[slot].generation, memory_order_relaxed);
    return generation && connections_held_here(slot, generation - 1) ? &flows[slot] : NULL;
}

uint32_t flow_sign(struct flow *flow, uint32_t set, uint32_t clear)
{
    uint32_t before = atomic_load(&flow->signs), after;
    do {
        after = (before & ~clear) | set;
    } while (after != before && !atomic_compare_exchange_weak(&flow->signs, &before, after));
    if ((before ^ after) & FLOW_STARVED)
        atomic_fetch_add(&starved, after & FLOW_STARVED ? 1U : UINT32_MAX);
    if ((before ^ after) & FLOW_STANDING)
        atomic_fetch_add(&standing, after & FLOW_STANDING ? 1U : UINT32_MAX);
    return before;
}

void flow_reconsider(struct flow *flow)
{
    uint32_t mode = atomic_load(&flows_mode_now);
    atomic_store(&flow->careful, (mode & FLOWS_CREDIT && !credit_is_kernels(flow)) ||
                                     mode & (FLOWS_STALL | FLOWS_PACE));
}

static void clear(struct flow *flow)
{
    pausing_forget(flow);
    pacing_forget(flow);
    flow_sign(flow, 0, UINT32_MAX);
    atomic_store(&flow->produced, 0);
    atomic_store(&flow->window, 0);
    atomic_store(&flow->quiet, 0);
    atomic_store(&flow->turn_taken, 0);
    atomic_store(&flow->turn_produced, 0);
    atomic_store(&flow->ratio, 0);
    atomic_store(&flow->refusals, 0);
    atomic_store(&flow->told_of, 0);
    atomic_store(&flow->low_water, 0);
    atomic_store(&flow->asked_ns, 0);
    atomic_store(&flow->stood_since_ns, 0);
    atomic_store(&flow->pace, 0);
    atomic_store(&flow->careful, false);
    atomic_store(&flow->paced_produced, 0);
    atomic_store(&flow->late_error, 0);
}

void flows_begin(int fd, uint32_t slot, uint32_t generation, int family)
{
    struct flow *flow = &flows[slot];
    clear(flow);
    flow->family = family;
    atomic_store(&flow->generation, generation + 1);
    if (!flows_mode())
        return;
    int saved = errno;
    flows_reread(fd);
    credit_open(fd, flow);
    pacing_begin(fd, flow);
    flow_reconsider(flow);
    errno = saved;
}

void flows_inherited(int fd)
{
    struct flow *flow = flow_of(fd);
    if (flow)
        backstop_set(fd, flow);
}

void flows_end(uint32_t slot, uint32_t generation)
{
    if (atomic_load(&flows[slot].generation) != generation + 1)
        return;
    clear(&flows[slot]);
    atomic_store(&flows[slot].generation, 0);
}

void flows_reread(int fd)
{
    struct flow *flow = flow_of(fd);
    int saved = errno;
    long status = flow ? kernel_call(SYS_fcntl, fd, F_GETFL) : -1;
    /* Readiness by signal is an edge that cannot be given again. */
    if (status >= 0)
        flow_sign(flow, status & O_NONBLOCK && !(status & O_ASYNC) ? FLOW_NONBLOCKING : 0,
                  status & O_NONBLOCK && !(status & O_ASYNC) ? 0 : FLOW_NONBLOCKING);
    if (flow)
        backstop_doubt(fd, flow);
    errno = saved;
}

uint32_t flow_queued(int fd)
{
    int queued = 0, saved = errno;
    kernel_call(SYS_ioctl, fd, SIOCOUTQ, &queued);
    errno = saved;
    return queued > 0 ? (uint32_t)queued : 0;
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

static void raise_to(_Atomic uint64_t *peak, uint64_t value)
{
    uint64_t seen = atomic_load_explicit(peak, memory_order_relaxed);
    while (seen < value && !atomic_compare_exchange_weak(peak, &seen, value))
        ;
}

static void note_queued(uint64_t queued)
{
    struct segment *segment = service.segment;
    struct segment_process *self = service_self();
    uint32_t used = atomic_load(&segment->processes_used);
    uint64_t all = 0;

    atomic_store(&self->counter[COUNTER_BUFFER], queued);
    raise_to(&self->counter[COUNTER_BUFFER_PEAK], queued);
    for (uint32_t i = 0; i < used && i < SEGMENT_PROCESSES; i++)
        all += atomic_load_explicit(&segment->process[i].counter[COUNTER_BUFFER],
                                    memory_order_relaxed);
    raise_to(&segment->buffer_peak, all);
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

void flows_measure(void)
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

int64_t flows_slice(void)
{
    /* Credit may come from another process, a new limit from bpctl. */
    if (atomic_load_explicit(&standing, memory_order_relaxed) ||
        atomic_load_explicit(&starved, memory_order_relaxed))
        return STANDING_SLICE_NS;
    return flows_mode() & FLOWS_CREDIT && holds_surplus() ? SURPLUS_SLICE_NS : -1;
}

void flows_attend(void)
{
    if (credit_wanted_elsewhere())
        look_over(true);
    else if (atomic_load_explicit(&starved, memory_order_relaxed))
        look_over(false);
    stalls_attend();
}

void flows_tell(int fd, enum event_kind kind, uint64_t amount)
{
    static _Atomic uint64_t told_ns[EVENT_KINDS];
    uint64_t now = monotonic_ns(), before = atomic_load(&told_ns[kind]);
    char address[SEGMENT_ADDRESS_MAX] = "";

    if ((before && now - before < TELL_EVERY_NS) ||
        !atomic_compare_exchange_strong(&told_ns[kind], &before, now))
        return;
    int saved = errno;
    address_of(fd, true, address, sizeof address);
    service_event(kind, amount, address);
    errno = saved;
}

static void forget_watch(int fd, struct flow *flow, void *context)
{
    (void)fd;
    (void)context;
    pausing_forget(flow);
}

void flows_after_fork_in_child(void)
{
    atomic_store(&look_next_ns, 0);
    /* The epoll sets are the parent's, too: what they report is not the child's to change. */
    flows_each(forget_watch, NULL);
    pausing_after_fork_in_child();
    stalls_after_fork_in_child();
}
