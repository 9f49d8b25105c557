/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "output/watches.h"

#include "base/real.h"
#include "base/spinlock.h"
#include "base/trace.h"
#include "output/wakers.h"

#include <errno.h>
#include <sys/syscall.h>

/*
 * From (set, data) to a flow. An entry is checked against the flow it names, so none needs to be
 * taken out, and no lock is needed; a flow that finds no place in it is never paused.
 */
#define PLACES (1U << 18)
#define PROBES 16
static _Atomic uint32_t by_data[PLACES];

static struct spinlock lock;         /* whoever changes what the kernel's set reports */
static _Atomic uint32_t withholding; /* flows for which a reason stands */
static _Atomic bool rearmed;         /* a flow with FLOW_REARMED exists, or did */

const struct input_gate *watches_gate_there;

void watches_gate(const struct input_gate *gate)
{
    watches_gate_there = gate;
}

/* --- from an event to its flow --- */

static uint32_t place(int set, uint64_t data)
{
    uint64_t hash = (data ^ (uint64_t)(unsigned)set << 40) * UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)(hash >> 40) % PLACES;
}

static bool is_watched_as(const struct flow *flow, int set, uint64_t data)
{
    return watches_set_of(flow) == set &&
           atomic_load_explicit(&flow->data, memory_order_relaxed) == data;
}

static void remember(struct flow *flow, int set, uint64_t data)
{
    uint32_t start = place(set, data), mine = flow_slot(flow) + 1;
    for (uint32_t i = 0; i < PROBES; i++) {
        _Atomic uint32_t *entry = &by_data[(start + i) % PLACES];
        uint32_t before = atomic_load_explicit(entry, memory_order_relaxed);
        const struct flow *other = before ? &flows[before - 1] : NULL;
        if (before != mine && other && flow_at_slot(before - 1) == other &&
            place(atomic_load(&other->set), atomic_load(&other->data)) == start)
            continue;
        atomic_store_explicit(entry, mine, memory_order_relaxed);
        flow_sign(flow, FLOW_FOUND_BY_DATA, 0);
        return;
    }
    flow_sign(flow, 0, FLOW_FOUND_BY_DATA);
}

struct flow *watches_find(int set, uint64_t data)
{
    uint32_t start = place(set, data);
    for (uint32_t i = 0; i < PROBES; i++) {
        uint32_t entry = atomic_load_explicit(&by_data[(start + i) % PLACES], memory_order_relaxed);
        struct flow *flow = entry ? flow_at_slot(entry - 1) : NULL;
        if (flow && is_watched_as(flow, set, data))
            return flow;
    }
    return NULL;
}

/* --- the kernel's set; the lock is held --- */

/*
 * With EPOLLONESHOT the kernel reports once for each time the program arms a descriptor, and
 * threads rely on it. An arm of ours could make that twice, so that from the first one on events
 * are handed out only while the program has not been told since it armed.
 */
static long watch(struct flow *flow, uint32_t events)
{
    struct epoll_event event = {.events = events};
    int set = watches_set_of(flow), fd = atomic_load(&flow->fd), operation = EPOLL_CTL_MOD;
    if (events & (EPOLLONESHOT | EPOLLEXCLUSIVE)) {
        flow_sign(flow, FLOW_REARMED, 0);
        atomic_store(&rearmed, true);
    }
    event.data.u64 = atomic_load(&flow->data);
    if (events & EPOLLEXCLUSIVE) { /* cannot be modified: epoll_ctl(2) */
        long result = kernel_call(SYS_epoll_ctl, set, EPOLL_CTL_DEL, fd, &event);
        if (result < 0)
            return result;
        operation = EPOLL_CTL_ADD;
    }
    return kernel_call(SYS_epoll_ctl, set, operation, fd, &event);
}

/* What is not reported while input is withheld. That the peer has sent all it will send is told
 * behind a request that waits, not before it. */
static uint32_t input_events(const struct flow *flow)
{
    return WATCHES_READABLE | (flow_signs(flow) & FLOW_WAITS_TURN ? EPOLLRDHUP : 0);
}

/* --- reasons --- */

void watches_change(struct flow *flow, uint32_t set, uint32_t clear)
{
    uint32_t before = flow_sign(flow, set, clear);
    bool had = watches_reason(before), has = watches_reason((before & ~clear) | set);
    if (had != has)
        atomic_fetch_add(&withholding, has ? 1U : UINT32_MAX);
}

/* Reports anew what was withheld. Whoever withholds looks again after it noted so: see
 * watches_take_out. */
static void hand_back(struct flow *flow)
{
    if (!(flow_signs(flow) & (FLOW_OWED | FLOW_OUT_OF_SIGHT)))
        return;
    int saved = errno;
    spinlock_take(&lock);
    uint32_t signs = flow_signs(flow);
    if (!watches_reason(signs) && signs & (FLOW_OWED | FLOW_OUT_OF_SIGHT)) {
        flow_sign(flow, 0, FLOW_OWED | FLOW_OUT_OF_SIGHT | FLOW_PAUSE_COUNTED);
        trace(TRACE_OUTPUT, "resume-reads", atomic_load(&flow->fd), "slot", flow_slot(flow), NULL,
              0);
        if (watches_set_of(flow) >= 0 && !(signs & FLOW_HANDED_OUT))
            watch(flow, atomic_load(&flow->events));
    }
    spinlock_give(&lock);
    errno = saved;
}

void watches_resume(struct flow *flow, uint32_t set, uint32_t clear)
{
    watches_change(flow, set, clear);
    if (!watches_withheld(flow))
        hand_back(flow);
}

/* Whether the kernel reports each change once, and the program does not ask for the next one. */
static bool by_edge(const struct flow *flow)
{
    uint32_t events = atomic_load(&flow->events);
    return watches_set_of(flow) >= 0 && events & EPOLLET && !(events & EPOLLONESHOT);
}

void watches_withhold(struct flow *flow)
{
    watches_change(flow, FLOW_WAITS_TURN | (by_edge(flow) ? FLOW_OWED : 0), 0);
}

void watches_release(struct flow *flow)
{
    watches_resume(flow, 0, FLOW_WAITS_TURN);
    int waker = atomic_load(&flow->waker) ? atomic_exchange(&flow->waker, 0) : 0;
    if (waker)
        wakers_ring(waker - 1);
}

bool watches_awaits(struct flow *flow, int waker)
{
    if (!(flow_signs(flow) & FLOW_WAITS_TURN))
        return false;
    atomic_store(&flow->waker, waker + 1);
    if (atomic_load(&flow->signs) & FLOW_WAITS_TURN)
        return true;
    watches_awaits_no_more(flow, waker); /* released meanwhile */
    return false;
}

void watches_awaits_no_more(struct flow *flow, int waker)
{
    int mine = waker + 1;
    if (atomic_load_explicit(&flow->waker, memory_order_relaxed))
        atomic_compare_exchange_strong(&flow->waker, &mine, 0);
}

void watches_report_again(struct flow *flow)
{
    if (!by_edge(flow))
        return;
    int saved = errno;
    spinlock_take(&lock);
    if (!(flow_signs(flow) & FLOW_OUT_OF_SIGHT))
        watch(flow, atomic_load(&flow->events));
    spinlock_give(&lock);
    errno = saved;
}

/* --- epoll_ctl --- */

/* A request that waits does so wherever it is watched. */
static void forget_watch(struct flow *flow)
{
    watches_change(flow, 0,
                   FLOW_SIGNS | FLOW_FALSE_SIGN | FLOW_TOLD_WRITABLE | FLOW_OWED |
                       FLOW_OUT_OF_SIGHT | FLOW_PAUSE_COUNTED | FLOW_FOUND_BY_DATA | FLOW_REARMED |
                       FLOW_HANDED_OUT);
    atomic_store(&flow->set, -1);
}

void watches_closes(int fd, struct flow *flow)
{
    if (watches_set_of(flow) < 0 || atomic_load(&flow->fd) != fd)
        return;
    /* A second descriptor keeps it in the set (epoll(7)), and in sight. */
    watches_resume(flow, 0, FLOW_SIGNS | FLOW_FALSE_SIGN | FLOW_WAITS_TURN);
    forget_watch(flow);
}

struct watch {
    int set, fd;
    struct epoll_event event;
    uint32_t signs;
};

static inline __attribute__((always_inline)) void note_watch(struct flow *flow, int set, int fd,
                                                             const struct epoll_event *event,
                                                             struct watches_signs signs)
{
    /* FLOW_REARMED belongs to the kernel's entry, which another set's is not. */
    uint32_t foreign = watches_set_of(flow) == set ? 0 : FLOW_REARMED;
    atomic_store_explicit(&flow->fd, fd, memory_order_relaxed);
    atomic_store_explicit(&flow->events, event->events, memory_order_relaxed);
    if (!is_watched_as(flow, set, event->data.u64) || !(flow_signs(flow) & FLOW_FOUND_BY_DATA)) {
        atomic_store_explicit(&flow->data, event->data.u64, memory_order_relaxed);
        atomic_store_explicit(&flow->set, set, memory_order_relaxed);
        remember(flow, set, event->data.u64);
    }
    uint32_t had = flow_signs(flow), wants = had & FLOW_FOUND_BY_DATA ? signs.set : 0;
    /* The kernel looks anew now: whatever was withheld it reports by itself. */
    uint32_t clear = signs.clear | FLOW_OWED | FLOW_OUT_OF_SIGHT | FLOW_HANDED_OUT | foreign;
    if ((had & (clear | wants)) != wants)
        watches_change(flow, wants, clear & ~wants);
}

/* What was noted of a call that failed. Keeps errno. */
static __attribute__((noinline)) void take_back(struct flow *flow, const struct watch *before)
{
    const uint32_t of_pausing = FLOW_SIGNS | FLOW_FALSE_SIGN;
    const struct watches_signs signs = {before->signs & of_pausing, of_pausing};
    int saved = errno;
    if (before->set < 0) {
        forget_watch(flow);
        return;
    }
    note_watch(flow, before->set, before->fd, &before->event, signs);
    flow_sign(flow, before->signs & FLOW_HANDED_OUT, 0);
    if (before->signs & (FLOW_OWED | FLOW_OUT_OF_SIGHT))
        watch(flow, before->event.events);
    errno = saved;
}

/* Noted before the kernel knows: another thread may be told of the event before it returns here. */
static inline __attribute__((always_inline)) int control_noted(struct flow *flow, int set,
                                                               int operation, int fd,
                                                               struct epoll_event *event,
                                                               struct watches_signs signs)
{
    struct watch before = {
        .set = watches_set_of(flow),
        .fd = atomic_load_explicit(&flow->fd, memory_order_relaxed),
        .event = {.events = atomic_load_explicit(&flow->events, memory_order_relaxed)},
        .signs = flow_signs(flow)};
    before.event.data.u64 = atomic_load_explicit(&flow->data, memory_order_relaxed);
    note_watch(flow, set, fd, event, signs);
    int result = REAL(epoll_ctl)(set, operation, fd, event);
    if (__builtin_expect(result < 0, 0))
        take_back(flow, &before);
    return result;
}

static int remove_noted(struct flow *flow, int set, int fd, struct epoll_event *event)
{
    int result = REAL(epoll_ctl)(set, EPOLL_CTL_DEL, fd, event);
    if (result == 0 && watches_set_of(flow) == set)
        forget_watch(flow);
    return result;
}

/* One arm at a time, each with its note: see watches_hand_out. And what cannot be modified is not
 * put back behind the program's taking it out: see watch. */
static __attribute__((noinline)) int control_alone(struct flow *flow, int set, int operation,
                                                   int fd, struct epoll_event *event,
                                                   struct watches_signs signs)
{
    spinlock_take(&lock);
    int result = operation == EPOLL_CTL_DEL ? remove_noted(flow, set, fd, event)
                                            : control_noted(flow, set, operation, fd, event, signs);
    int saved = errno;
    spinlock_give(&lock);
    errno = saved;
    return result;
}

int watches_control(struct flow *flow, int set, int operation, int fd, struct epoll_event *event,
                    struct watches_signs signs)
{
    const struct input_gate *gate = watches_gate_as_seen();
    if (gate && operation != EPOLL_CTL_DEL && event->events & WATCHES_READABLE)
        gate->asks(flow);
    if (__builtin_expect(flow_signs(flow) & FLOW_REARMED, 0))
        return control_alone(flow, set, operation, fd, event, signs);
    return operation == EPOLL_CTL_DEL ? remove_noted(flow, set, fd, event)
                                      : control_noted(flow, set, operation, fd, event, signs);
}

/* --- what the kernel reported --- */

bool watches_active(void)
{
    return atomic_load_explicit(&withholding, memory_order_relaxed) ||
           atomic_load_explicit(&rearmed, memory_order_relaxed);
}

bool watches_hand_out(struct flow *flow)
{
    if (!(atomic_load(&flow->events) & EPOLLONESHOT) || !(flow_signs(flow) & FLOW_REARMED))
        return true;
    spinlock_take(&lock);
    bool told_already =
        flow_signs(flow) & FLOW_REARMED && flow_sign(flow, FLOW_HANDED_OUT, 0) & FLOW_HANDED_OUT;
    spinlock_give(&lock);
    return !told_already;
}

bool watches_take_out(struct flow *flow, struct epoll_event *event)
{
    spinlock_take(&lock);
    flow_sign(flow, FLOW_OWED, 0);
    uint32_t events = atomic_load(&flow->events), input = input_events(flow);
    bool edge = events & EPOLLET && !(events & EPOLLONESHOT);
    if (!watches_withheld(flow)) { /* another thread wrote meanwhile, or gave it its turn */
        flow_sign(flow, 0, FLOW_OWED);
        spinlock_give(&lock);
        return true;
    }
    event->events &= ~input;
    bool remains = event->events != 0, one_shot = events & EPOLLONESHOT;
    if (one_shot) {
        /* What remains the program answers by arming it again; else the shot was used up. */
        flow_sign(flow, 0, remains ? FLOW_OWED | FLOW_OUT_OF_SIGHT : FLOW_HANDED_OUT);
    }
    /* Level-triggered, it would be reported for ever. */
    if (!edge && !(one_shot && remains)) {
        flow_sign(flow, FLOW_OUT_OF_SIGHT, 0);
        if (watch(flow, events & ~input) < 0)
            flow_sign(flow, 0, FLOW_OUT_OF_SIGHT);
    }
    spinlock_give(&lock);
    return remains;
}

/* The client was answered by us. There may be more input behind that, for which there will be no
 * other edge and no other shot. */
static bool drop(struct flow *flow, struct epoll_event *event)
{
    uint32_t events = atomic_load(&flow->events);
    event->events &= ~(uint32_t)(WATCHES_READABLE | EPOLLRDHUP);
    bool remains = event->events != 0, one_shot = events & EPOLLONESHOT;
    if (!(events & (EPOLLET | EPOLLONESHOT)) || (one_shot && remains))
        return remains;
    spinlock_take(&lock);
    if (one_shot)
        flow_sign(flow, 0, FLOW_HANDED_OUT);
    if (!(flow_signs(flow) & FLOW_OUT_OF_SIGHT))
        watch(flow, events);
    spinlock_give(&lock);
    return remains;
}

bool watches_refuse(struct flow *flow, struct epoll_event *event)
{
    return watches_withheld(flow) ? watches_take_out(flow, event) : drop(flow, event);
}

/* --- what flows do for it --- */

static void end(struct flow *flow)
{
    forget_watch(flow);
    watches_change(flow, 0, FLOW_WAITS_TURN);
    atomic_store(&flow->waker, 0);
}

static void adjust(int fd, struct flow *flow)
{
    (void)fd;
    if (!(flows_mode() & FLOWS_REQUESTS))
        watches_release(flow);
}

static void forget(int fd, struct flow *flow, void *context)
{
    (void)fd;
    (void)context;
    end(flow);
}

/* The epoll sets are the parent's, too: what they report is not the child's to change. */
static void after_fork_in_child(void)
{
    flows_each(forget, NULL);
    spinlock_reset(&lock);
    wakers_after_fork_in_child();
}

const struct flow_feature watches_feature = {.end = end,
                                             .adjust = adjust,
                                             .let_go = watches_release,
                                             .after_fork_in_child = after_fork_in_child};
