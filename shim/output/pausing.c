/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "output/pausing.h"

#include "accept/connections.h"
#include "base/memory.h"
#include "base/polling.h"
#include "base/real.h"
#include "base/spinlock.h"
#include "base/trace.h"

#include <errno.h>
#include <poll.h>
#include <sys/syscall.h>

#define READABLE (EPOLLIN | EPOLLRDNORM)
#define WRITABLE (EPOLLOUT | EPOLLWRNORM)
#define BROKEN (EPOLLERR | EPOLLHUP)
#define TOLD_MAX 64 /* connections told writable in one wait, whose answer is looked at */

/*
 * From (set, data) to a flow. An entry is checked against the flow it names, so none needs to be
 * taken out, and no lock is needed; a flow that finds no place in it is never paused.
 */
#define PLACES (1U << 18)
#define PROBES 16
static _Atomic uint32_t by_data[PLACES];

static struct spinlock lock; /* whoever changes what the kernel's set reports */
static _Thread_local uint32_t told[TOLD_MAX] __attribute__((tls_model("initial-exec")));
static _Thread_local unsigned told_count __attribute__((tls_model("initial-exec")));
static _Atomic uint32_t withholding; /* flows with a sign */
static _Atomic bool rearmed;         /* a flow with FLOW_REARMED exists, or did */

static uint32_t place(int set, uint64_t data)
{
    uint64_t hash = (data ^ (uint64_t)(unsigned)set << 40) * UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)(hash >> 40) % PLACES;
}

static bool is_watched_as(const struct flow *flow, int set, uint64_t data)
{
    return atomic_load_explicit(&flow->set, memory_order_relaxed) == set &&
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

static struct flow *find(int set, uint64_t data)
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

/*
 * With EPOLLONESHOT the kernel reports once for each time the program arms a descriptor, and
 * threads rely on it. An arm of ours could make that twice, so that from the first one on events
 * are handed out only while the program has not been told since it armed.
 */
static long watch(struct flow *flow, uint32_t events)
{
    struct epoll_event event = {.events = events};
    if (events & EPOLLONESHOT) {
        flow_sign(flow, FLOW_REARMED, 0);
        atomic_store(&rearmed, true);
    }
    event.data.u64 = atomic_load(&flow->data);
    return kernel_call(SYS_epoll_ctl, atomic_load(&flow->set), EPOLL_CTL_MOD,
                       atomic_load(&flow->fd), &event);
}

static bool writable(int fd)
{
    return polling_ready(fd, POLLOUT);
}

/* --- signs --- */

static bool has_sign(uint32_t signs)
{
    return signs & FLOW_SIGNS && !(signs & FLOW_FALSE_SIGN);
}

static void change(struct flow *flow, uint32_t set, uint32_t clear)
{
    uint32_t before = flow_sign(flow, set, clear);
    bool had = has_sign(before), has = has_sign((before & ~clear) | set);
    if (had != has)
        atomic_fetch_add(&withholding, has ? 1U : UINT32_MAX);
}

/* Reports anew what was withheld. Whoever withholds looks again after it noted so: see withhold. */
static void hand_back(struct flow *flow)
{
    if (!(flow_signs(flow) & (FLOW_OWED | FLOW_OUT_OF_SIGHT)))
        return;
    int saved = errno;
    spinlock_take(&lock);
    uint32_t signs = flow_signs(flow);
    if (!has_sign(signs) && signs & (FLOW_OWED | FLOW_OUT_OF_SIGHT)) {
        flow_sign(flow, 0, FLOW_OWED | FLOW_OUT_OF_SIGHT | FLOW_PAUSE_COUNTED);
        trace(TRACE_OUTPUT, "resume-reads", atomic_load(&flow->fd), "slot", flow_slot(flow), NULL,
              0);
        if (atomic_load(&flow->set) >= 0 && !(signs & FLOW_HANDED_OUT))
            watch(flow, atomic_load(&flow->events));
    }
    spinlock_give(&lock);
    errno = saved;
}

static void resume(struct flow *flow, uint32_t set, uint32_t clear)
{
    change(flow, set, clear);
    if (!has_sign(flow_signs(flow)))
        hand_back(flow);
}

void pausing_resume(struct flow *flow)
{
    resume(flow, 0, FLOW_SIGNS | FLOW_FALSE_SIGN);
}

bool pausing_active(void)
{
    return atomic_load_explicit(&withholding, memory_order_relaxed) != 0;
}

void pausing_writes(struct flow *flow)
{
    uint32_t signs = flow_signs(flow);
    if (signs & (FLOW_TOLD_WRITABLE | FLOW_FALSE_SIGN))
        change(flow, 0, FLOW_TOLD_WRITABLE | FLOW_FALSE_SIGN);
}

void pausing_wrote_all(struct flow *flow)
{
    if (flow_signs(flow) & FLOW_FELL_SHORT)
        resume(flow, 0, FLOW_FELL_SHORT);
}

void pausing_fell_short(struct flow *flow)
{
    uint32_t events = atomic_load(&flow->events);
    if (flows_mode() & FLOWS_PAUSE && flow_signs(flow) & FLOW_FOUND_BY_DATA &&
        atomic_load(&flow->set) >= 0 && events & EPOLLET && events & READABLE && events & WRITABLE)
        change(flow, FLOW_FELL_SHORT, 0);
}

static void count_pause(struct flow *flow)
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
    uint32_t signs = flow_signs(flow);
    if (!has_sign(signs) || !(signs & FLOW_NONBLOCKING))
        return false;
    if (!(signs & FLOW_TOLD_WRITABLE) && writable(fd)) {
        resume(flow, 0, FLOW_FELL_SHORT);
        if (!has_sign(flow_signs(flow)))
            return false;
    }
    /* With EPOLLONESHOT it is the program that arms it again, and then the kernel looks. */
    if (!(atomic_load(&flow->events) & EPOLLONESHOT))
        flow_sign(flow, FLOW_OWED, 0);
    if (!has_sign(flow_signs(flow))) { /* another thread wrote meanwhile */
        flow_sign(flow, 0, FLOW_OWED);
        return false;
    }
    count_pause(flow);
    return true;
}

void pausing_report_again(struct flow *flow)
{
    uint32_t events = atomic_load(&flow->events);
    if (atomic_load(&flow->set) < 0 || !(events & EPOLLET) || events & EPOLLONESHOT)
        return;
    int saved = errno;
    spinlock_take(&lock);
    if (!(flow_signs(flow) & FLOW_OUT_OF_SIGHT))
        watch(flow, events);
    spinlock_give(&lock);
    errno = saved;
}

/* --- epoll_ctl --- */

static void forget_watch(struct flow *flow)
{
    change(flow, 0,
           FLOW_SIGNS | FLOW_FALSE_SIGN | FLOW_TOLD_WRITABLE | FLOW_OWED | FLOW_OUT_OF_SIGHT |
               FLOW_PAUSE_COUNTED | FLOW_FOUND_BY_DATA | FLOW_REARMED | FLOW_HANDED_OUT);
    atomic_store(&flow->set, -1);
}

static void end(struct flow *flow)
{
    forget_watch(flow);
}

void pausing_closes(int fd, struct flow *flow)
{
    if (atomic_load(&flow->set) < 0 || atomic_load(&flow->fd) != fd)
        return;
    pausing_resume(flow); /* a second descriptor keeps it in the set (epoll(7)), and in sight */
    forget_watch(flow);
}

struct watched {
    int set, fd;
    uint32_t events, signs;
    uint64_t data;
};

static void note_watch(struct flow *flow, int set, int fd, const struct epoll_event *event)
{
    uint32_t events = event->events;
    /* FLOW_REARMED belongs to the kernel's entry, which another set's is not. */
    uint32_t foreign = atomic_load(&flow->set) == set ? 0 : FLOW_REARMED;
    atomic_store_explicit(&flow->fd, fd, memory_order_relaxed);
    atomic_store_explicit(&flow->events, events, memory_order_relaxed);
    if (!is_watched_as(flow, set, event->data.u64) || !(flow_signs(flow) & FLOW_FOUND_BY_DATA)) {
        atomic_store_explicit(&flow->data, event->data.u64, memory_order_relaxed);
        atomic_store_explicit(&flow->set, set, memory_order_relaxed);
        remember(flow, set, event->data.u64);
    }
    uint32_t had = flow_signs(flow);
    /* The kernel looks anew now: whatever was withheld it reports by itself. */
    uint32_t clear = FLOW_OWED | FLOW_OUT_OF_SIGHT | FLOW_FALSE_SIGN | FLOW_WANTS_ROOM |
                     FLOW_HANDED_OUT | foreign,
             wants = 0;
    bool both = events & READABLE && events & WRITABLE;
    if (!both || !(events & EPOLLET))
        clear |= FLOW_FELL_SHORT;
    if (both && !(events & EPOLLET) && had & FLOW_FOUND_BY_DATA && flows_mode() & FLOWS_PAUSE)
        wants = FLOW_WANTS_ROOM;
    if (!wants)
        clear |= FLOW_PAUSE_COUNTED;
    if ((had & (clear | wants)) != wants)
        change(flow, wants, clear & ~wants);
}

/* What was noted of a call that failed. */
static void take_back(struct flow *flow, const struct watched *before)
{
    if (before->set < 0) {
        forget_watch(flow);
        return;
    }
    struct epoll_event event = {.events = before->events, .data.u64 = before->data};
    note_watch(flow, before->set, before->fd, &event);
    flow_sign(flow, before->signs & FLOW_HANDED_OUT, 0);
    if (before->signs & (FLOW_OWED | FLOW_OUT_OF_SIGHT))
        watch(flow, before->events);
}

/* Noted before the kernel knows: another thread may be told of the event before it returns here. */
static int control_noted(struct flow *flow, int set, int operation, int fd,
                         struct epoll_event *event)
{
    struct epoll_event asked = *event;
    struct watched before = {atomic_load(&flow->set), atomic_load(&flow->fd),
                             atomic_load(&flow->events), flow_signs(flow),
                             atomic_load(&flow->data)};
    note_watch(flow, set, fd, &asked);
    int result = REAL(epoll_ctl)(set, operation, fd, event);
    if (result < 0) {
        int saved = errno;
        take_back(flow, &before);
        errno = saved;
    }
    return result;
}

int pausing_control(int set, int operation, int fd, struct epoll_event *event)
{
    struct flow *flow = flow_at(descriptor_at(fd));
    if (!flow || (operation != EPOLL_CTL_DEL && !memory_there(MEMORY_EVENT, event, sizeof *event)))
        return REAL(epoll_ctl)(set, operation, fd, event);
    int result;
    if (operation == EPOLL_CTL_DEL) {
        result = REAL(epoll_ctl)(set, operation, fd, event);
        if (result == 0 && atomic_load(&flow->set) == set)
            forget_watch(flow);
    } else if (flow_signs(flow) & FLOW_REARMED) {
        spinlock_take(&lock); /* one arm at a time, each with its note: see keep */
        result = control_noted(flow, set, operation, fd, event);
        int saved = errno;
        spinlock_give(&lock);
        errno = saved;
    } else {
        result = control_noted(flow, set, operation, fd, event);
    }
    return result;
}

/* --- waiting --- */

/* Connections that were told writable in this thread's last wait, and wrote nothing since, had
 * nothing to write: their sign was false. */
void pausing_new_turn(void)
{
    for (unsigned i = 0; i < told_count; i++) {
        struct flow *flow = flow_at_slot(told[i]);
        if (flow && flow_signs(flow) & FLOW_TOLD_WRITABLE && flow_signs(flow) & FLOW_SIGNS)
            resume(flow, FLOW_FALSE_SIGN, FLOW_FELL_SHORT | FLOW_TOLD_WRITABLE);
    }
    told_count = 0;
}

static void tell_writable(struct flow *flow)
{
    if (told_count == TOLD_MAX) {
        resume(flow, FLOW_FALSE_SIGN, FLOW_FELL_SHORT);
        return;
    }
    flow_sign(flow, FLOW_TOLD_WRITABLE, 0);
    told[told_count++] = flow_slot(flow);
}

/* Takes the flow's readability out of the event. False when nothing remains of it. */
static bool withhold(struct flow *flow, struct epoll_event *event)
{
    spinlock_take(&lock);
    flow_sign(flow, FLOW_OWED, 0);
    uint32_t events = atomic_load(&flow->events);
    bool edge = events & EPOLLET && !(events & EPOLLONESHOT);
    if (!has_sign(flow_signs(flow))) { /* another thread wrote meanwhile */
        flow_sign(flow, 0, FLOW_OWED);
        spinlock_give(&lock);
        return true;
    }
    event->events &= ~(uint32_t)READABLE;
    bool remains = event->events != 0, one_shot = events & EPOLLONESHOT;
    if (one_shot) {
        /* What remains the program answers by arming it again; else the shot was used up. */
        flow_sign(flow, 0, remains ? FLOW_OWED | FLOW_OUT_OF_SIGHT : FLOW_HANDED_OUT);
    }
    /* Level-triggered, it would be reported for ever. */
    if (!edge && !(one_shot && remains)) {
        flow_sign(flow, FLOW_OUT_OF_SIGHT, 0);
        if (watch(flow, events & ~(uint32_t)READABLE) < 0)
            flow_sign(flow, 0, FLOW_OUT_OF_SIGHT);
    }
    spinlock_give(&lock);
    count_pause(flow);
    return remains;
}

/* With EPOLLONESHOT: whether the program may be told; it may not when it was, and has not armed the
 * descriptor again since. Before we ever armed it ourselves, the kernel sees to that. */
static bool hand_out(struct flow *flow)
{
    if (!(flow_signs(flow) & FLOW_REARMED))
        return true;
    spinlock_take(&lock);
    bool told_already =
        flow_signs(flow) & FLOW_REARMED && flow_sign(flow, FLOW_HANDED_OUT, 0) & FLOW_HANDED_OUT;
    spinlock_give(&lock);
    return !told_already;
}

static bool keep(int set, struct epoll_event *event)
{
    struct flow *flow = find(set, event->data.u64);
    if (!flow)
        return true;
    if (atomic_load(&flow->events) & EPOLLONESHOT && !hand_out(flow))
        return false;
    if (!(event->events & (READABLE | WRITABLE)) || !has_sign(flow_signs(flow)))
        return true;
    if (event->events & BROKEN) {
        resume(flow, FLOW_FALSE_SIGN, FLOW_FELL_SHORT);
        return true;
    }
    bool writes = event->events & WRITABLE;
    /* What fell short and has room now, without being told so in this event, was told before. */
    if (event->events & READABLE && !writes && flow_signs(flow) & FLOW_FELL_SHORT &&
        writable(atomic_load(&flow->fd))) {
        resume(flow, 0, FLOW_FELL_SHORT);
        return true;
    }
    bool remains = !(event->events & READABLE) || withhold(flow, event);
    if (writes)
        tell_writable(flow);
    return remains;
}

static int without_withheld(int set, struct epoll_event *events, int ready)
{
    int kept = 0;
    for (int i = 0; i < ready; i++)
        if (keep(set, &events[i]))
            events[kept++] = events[i];
    return kept;
}

int pausing_filter(int set, struct epoll_event *events, int ready)
{
    return pausing_active() || atomic_load(&rearmed) ? without_withheld(set, events, ready) : ready;
}

/* --- poll and select --- */

bool pausing_masks(int fd)
{
    struct flow *flow = flow_of(fd);
    if (!flow || !(flows_mode() & FLOWS_PAUSE))
        return false;
    if (flow_signs(flow) & FLOW_TOLD_WRITABLE) /* and it wrote nothing since */
        return false;
    count_pause(flow);
    return true;
}

void pausing_told(int fd)
{
    struct flow *flow = flow_of(fd);
    if (flow)
        flow_sign(flow, FLOW_TOLD_WRITABLE, FLOW_PAUSE_COUNTED);
}

/* --- what flows do for it --- */

static void adjust(int fd, struct flow *flow)
{
    (void)fd;
    if (!(flows_mode() & FLOWS_PAUSE))
        pausing_resume(flow);
}

static void forget(int fd, struct flow *flow, void *context)
{
    (void)fd;
    (void)context;
    forget_watch(flow);
}

/* The epoll sets are the parent's, too: what they report is not the child's to change. */
static void after_fork_in_child(void)
{
    flows_each(forget, NULL);
    spinlock_reset(&lock);
    told_count = 0;
}

const struct flow_feature pausing_feature = {.end = end,
                                             .adjust = adjust,
                                             .let_go = pausing_resume,
                                             .after_fork_in_child = after_fork_in_child};
