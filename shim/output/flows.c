/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "output/flows.h"

#include "accept/connections.h"
#include "base/address.h"
#include "base/due.h"
#include "base/real.h"
#include "base/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

struct flow flows[SEGMENT_CONNS];
_Atomic uint32_t flows_mode_now;
_Atomic uint64_t flows_seen_limits = UINT64_MAX;

/* How many flows have a sign that calls for attention. */
static _Atomic uint32_t starved, standing;

/* --- features --- */

static const struct flow_feature *features[FLOW_FEATURES_MOST];
static void (*attend[FLOW_FEATURES_MOST + 1])(void); /* those of them that have any; then NULL */

void flows_take_part(const struct flow_feature *feature)
{
    unsigned i = 0, j = 0;
    while (i < FLOW_FEATURES_MOST - 1 && features[i])
        i++;
    features[i] = feature;
    while (attend[j])
        j++;
    if (j < FLOW_FEATURES_MOST)
        attend[j] = feature->attend;
}

#define EACH_FEATURE(feature, member)                                                              \
    for (const struct flow_feature *const *at = features, *feature;                                \
         at < features + FLOW_FEATURES_MOST && (feature = *at); at++)                              \
        if (feature->member)

const struct flow_requests *flow_requests;

void flows_limit_requests(const struct flow_requests *calls)
{
    flow_requests = calls;
}

/* --- the mode --- */

static uint32_t work_out_mode(void)
{
    uint32_t mode = 0;
    if (!sandbox_serves(SANDBOX_BYTES))
        return 0;
    EACH_FEATURE(feature, mode)
    mode |= feature->mode();
    uint64_t pause = service_limit(LIMIT_PAUSE_READS);
    if (pause == PAUSE_READS_ON || (pause == PAUSE_READS_WITH_BUFFER && mode & FLOWS_CREDIT))
        mode |= FLOWS_PAUSE;
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
        EACH_FEATURE(feature, let_go)
        feature->let_go(flow);
        return;
    }
    if (*mode)
        flows_reread(fd, -1);
    EACH_FEATURE(feature, adjust)
    feature->adjust(fd, flow);
    flow_reconsider(flow);
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
    bool careful = mode & (FLOWS_STALL | FLOWS_PACE);
    EACH_FEATURE(feature, careful)
    careful = careful || feature->careful(flow, mode);
    atomic_store(&flow->careful, careful);
}

static void clear(struct flow *flow)
{
    EACH_FEATURE(feature, end)
    feature->end(flow);
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
    atomic_store(&flow->waker, 0);
}

void flows_begin(int fd, uint32_t slot, uint32_t generation, int family, long status)
{
    struct flow *flow = &flows[slot];
    clear(flow);
    flow->family = family;
    atomic_store(&flow->generation, generation + 1);
    if (!flows_mode())
        return;
    int saved = errno;
    flows_reread(fd, status);
    EACH_FEATURE(feature, begin)
    feature->begin(fd, flow);
    flow_reconsider(flow);
    errno = saved;
}

void flows_inherited(int fd)
{
    struct flow *flow = flow_of(fd);
    if (!flow)
        return;
    EACH_FEATURE(feature, inherited)
    feature->inherited(fd, flow);
}

void flows_end(uint32_t slot, uint32_t generation)
{
    if (atomic_load(&flows[slot].generation) != generation + 1)
        return;
    clear(&flows[slot]);
    atomic_store(&flows[slot].generation, 0);
}

void flows_reread(int fd, long status)
{
    struct flow *flow = flow_of(fd);
    int saved = errno;
    if (flow && status < 0)
        status = kernel_call(SYS_fcntl, fd, F_GETFL);
    if (flow && status >= 0)
        atomic_store_explicit(&flow->blocks, !(status & O_NONBLOCK), memory_order_relaxed);
    /* Readiness by signal is an edge that cannot be given again. */
    if (flow && status >= 0)
        flow_sign(flow, status & O_NONBLOCK && !(status & O_ASYNC) ? FLOW_NONBLOCKING : 0,
                  status & O_NONBLOCK && !(status & O_ASYNC) ? 0 : FLOW_NONBLOCKING);
    if (flow)
        EACH_FEATURE(feature, changed)
    feature->changed(fd, flow);
    errno = saved;
}

int flow_hold(int fd, const struct flow *flow)
{
    int own = (int)kernel_call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 0);
    if (own >= 0 && flow_at(descriptor_at(fd)) == flow)
        return own;
    if (own >= 0)
        kernel_call(SYS_close, own);
    return -1;
}

uint32_t flow_queued(int fd)
{
    int queued = 0, saved = errno;
    kernel_call(SYS_ioctl, fd, SIOCOUTQ, &queued);
    errno = saved;
    return queued > 0 ? (uint32_t)queued : 0;
}

void flows_tell(int fd, enum event_kind kind, uint64_t amount)
{
    static _Atomic uint64_t told_ns[EVENT_KINDS];
    char address[SEGMENT_ADDRESS_MAX] = "";

    if (!due_to_tell(&told_ns[kind]))
        return;
    int saved = errno;
    address_of(fd, true, address, sizeof address);
    service_event(kind, amount, address);
    errno = saved;
}

uint32_t flows_starved(void)
{
    return atomic_load_explicit(&starved, memory_order_relaxed);
}

uint32_t flows_standing(void)
{
    return atomic_load_explicit(&standing, memory_order_relaxed);
}

void flows_attend(void)
{
    for (void (**each)(void) = attend; *each; each++)
        (*each)();
}

void flows_after_fork_in_child(void)
{
    EACH_FEATURE(feature, after_fork_in_child)
    feature->after_fork_in_child();
}
