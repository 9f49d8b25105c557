/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "wait/readiness.h"

#include "accept/accepting.h"
#include "accept/admission.h"
#include "accept/connections.h"
#include "accept/since_wait.h"
#include "accept/waiting_room.h"
#include "base/memory.h"
#include "base/real.h"
#include "base/sandbox.h"
#include "fd/listeners.h"
#include "output/flows.h"
#include "output/pausing.h"
#include "process/descriptors.h"
#include "process/service.h"
#include "wait/interests.h"
#include "wait/slices.h"

#include <errno.h>
#include <sys/syscall.h>
#include <time.h>

#define MILLISECOND INT64_C(1000000)
#define FILTER_NAP_NS (2 * MILLISECOND)

static bool visible(int fd)
{
    struct listener *listener = listeners_tracked(fd);
    return !listener || admission_visible(listener);
}

int readiness_control(int set_number, int operation, int fd, struct epoll_event *event)
{
    if (descriptor_kind(descriptor_at(fd)) == DESCRIPTOR_CONN && service_active() &&
        !in_vfork_child)
        return pausing_control(set_number, operation, fd, event);
    if (!service_active() || in_vfork_child || !sandbox_serves(SANDBOX_CEILINGS))
        return REAL(epoll_ctl)(set_number, operation, fd, event);
    if (descriptor_kind(descriptor_at(fd)) == DESCRIPTOR_EPOLL)
        return interests_control_nested(set_number, operation, fd, event);
    if (descriptor_kind(descriptor_at(fd)) != DESCRIPTOR_LISTENER ||
        (operation != EPOLL_CTL_DEL && !memory_there(MEMORY_EVENT, event, sizeof *event)))
        return REAL(epoll_ctl)(set_number, operation, fd, event);
    return interests_control(set_number, operation, fd, event);
}

/* --- waiting --- */

bool readiness_hidden(void)
{
    return atomic_load_explicit(&interests_hidden, memory_order_relaxed) != 0;
}

void readiness_room_made(void)
{
    if (!readiness_hidden() || in_vfork_child || admission_shut())
        return;
    int saved = errno;
    interests_lock();
    uint32_t end = atomic_load(&interests_sets_end);
    for (uint32_t i = 0; i < end; i++) {
        struct watched_set *set = &interests_sets[i];
        for (unsigned j = 0; atomic_load(&set->hidden) && j < set->interests; j++)
            if (set->interest[j].fd >= 0 && visible(set->interest[j].fd))
                interests_show(set, &set->interest[j]);
    }
    interests_unlock();
    errno = saved;
}

/* A listener among what the kernel reported. */
struct reported {
    int place, fd;
};

/* Finds them; how many there are. */
static int listeners_among(struct watched_set *set, const struct epoll_event *events, int ready,
                           struct reported *found)
{
    int count = 0;
    interests_lock();
    for (int i = 0; i < ready && count < INTERESTS_MAX; i++) {
        const struct interest *interest =
            events[i].events & (EPOLLERR | EPOLLHUP) ? NULL : interests_of(set, &events[i]);
        if (interest)
            found[count++] = (struct reported){i, interest->fd};
    }
    interests_unlock();
    return count;
}

/* The program is not told, but the kernel may think that it was. */
static void withhold(struct watched_set *set, int fd, enum report report)
{
    interests_lock();
    struct interest *interest = interests_find(set, fd);
    if (interest && report == REPORT_LATER)
        interests_hide(set, interest);
    else if (interest && interest->events & EPOLLONESHOT)
        interests_arm_again(set, interest);
    interests_unlock();
}

/* Takes listeners at their ceiling, and those whose clients were all turned away, out of what the
 * kernel reported, and the first out of its sight. */
static int without_hidden(struct watched_set *set, struct epoll_event *events, int ready)
{
    struct reported found[INTERESTS_MAX];
    int kept = 0, withheld = 0;
    if (admission_all_visible())
        return ready;
    int count = listeners_among(set, events, ready, found);
    for (int i = 0; i < count; i++) {
        struct listener *listener = listeners_tracked(found[i].fd);
        enum report report = listener ? accepting_screen(listener, found[i].fd) : REPORT_NOW;
        if (report == REPORT_NOW)
            continue;
        withhold(set, found[i].fd, report);
        events[found[i].place].events = 0; /* as the kernel never reports */
        withheld++;
    }
    for (int i = 0; withheld && i < ready; i++)
        if (events[i].events)
            events[kept++] = events[i];
    return withheld ? kept : ready;
}

/* Adds listeners for which somebody waits in the waiting room. */
static int with_pending(struct watched_set *set, const struct epoll_call *call, int ready)
{
    if (!memory_there(MEMORY_RESULT, call->events, (size_t)(ready + 1) * sizeof *call->events)) {
        errno = EFAULT; /* as the kernel would, had it somebody to report */
        return -1;
    }
    interests_lock();
    for (unsigned i = 0; i < set->interests && ready < call->events_max; i++) {
        struct interest *interest = &set->interest[i];
        const struct listener *listener = interest->fd < 0 ? NULL : listeners_tracked(interest->fd);
        bool told = false;
        if (!listener || !(interest->events & EPOLLIN) || !admission_pending(listener))
            continue;
        for (int j = 0; j < ready && !told; j++)
            told = call->events[j].data.u64 == interest->data.u64;
        if (!told)
            call->events[ready++] = (struct epoll_event){.events = EPOLLIN, .data = interest->data};
    }
    interests_unlock();
    return ready;
}

static bool anybody_pending(struct watched_set *set)
{
    bool pending = false;
    interests_lock();
    for (unsigned i = 0; i < set->interests && !pending; i++) {
        const struct listener *listener =
            set->interest[i].fd < 0 ? NULL : listeners_tracked(set->interest[i].fd);
        pending = listener && admission_pending(listener);
    }
    interests_unlock();
    return pending;
}

struct epoll_wait {
    struct watched_set *set;
    struct epoll_call call;
    int64_t timeout_ns;
};

/* `wait` is flow_wait, or the call's own where there is nothing to pause. */
static int wait_counted(struct watched_set *set, const struct epoll_call *call, int64_t timeout_ns,
                        int (*wait)(const struct epoll_call *call, int64_t timeout_ns))
{
    atomic_fetch_add(&set->waiters, 1);
    int ready = wait(call, timeout_ns);
    atomic_fetch_sub(&set->waiters, 1);
    return ready;
}

static int wait_in_epoll(void *argument)
{
    const struct epoll_wait *wait = argument;
    return wait_counted(wait->set, &wait->call, wait->timeout_ns, flow_wait);
}

/* Leaving the wait: another thread that waits on this set must then be the one to watch. */
static void pass_the_watch(struct watched_set *set)
{
    if (atomic_load(&set->hidden) == 0 || atomic_load(&set->waiters) == 0)
        return;
    interests_lock();
    for (unsigned i = 0; i < set->interests; i++)
        if (set->interest[i].fd >= 0)
            interests_show(set, &set->interest[i]);
    interests_unlock();
}

static bool must_watch(const struct watched_set *set)
{
    return atomic_load(&set->hidden) || admission_needs_attention() ||
           (set->nests && readiness_hidden());
}

/* How long to wait now, at most `left` (-1 is for ever). */
static int64_t next_slice(struct watched_set *set, struct slices *slices, int64_t left)
{
    if (!service_active() || !must_watch(set))
        return left;
    return waiting_room_occupied() && anybody_pending(set) ? 0 : slices_next(slices, left);
}

static void nap(void)
{
    struct timespec time = {.tv_sec = 0, .tv_nsec = FILTER_NAP_NS};
    kernel_call(SYS_nanosleep, &time, NULL);
}

static int wait_watching(struct watched_set *set, const struct epoll_call *call,
                         struct slices *slices)
{
    for (;;) {
        admission_attend();
        readiness_room_made();
        int64_t left = slices_left(slices), slice = next_slice(set, slices, left);
        struct epoll_wait wait = {set, *call, slice};
        wait.call.signals = signals_opened(&slices->held, call->signals);
        int reported = slices_wait(slices, wait_in_epoll, &wait);
        if (reported < 0 || (!admission_active() && reported > 0))
            return reported;
        int ready = reported > 0 ? without_hidden(set, call->events, reported) : 0;
        if (waiting_room_occupied())
            ready = with_pending(set, call, ready);
        if (ready != 0 || (slice == left && (reported == 0 || left == 0)))
            return ready;
        /* A set shared with another process goes on reporting what is only filtered. */
        if (reported > 0 && set->inherited_from)
            nap();
        signals_hold(&slices->held);
    }
}

/* Nothing is out of sight in the set, and there is nothing to come back for. */
static bool calm(const struct watched_set *set)
{
    return !atomic_load_explicit(&set->hidden, memory_order_relaxed) && !set->nests &&
           flows_idle() && admission_calm();
}

/* With care, and again and again. Not inlined: what is calm shall not pay for its registers. */
static __attribute__((noinline)) int watch(struct watched_set *set, const struct epoll_call *call,
                                           int64_t timeout_ns, uint64_t deadline_ns)
{
    struct slices slices = slices_until(timeout_ns, deadline_ns);
    int ready = wait_watching(set, call, &slices);
    int saved = errno;
    slices_end(&slices);
    pass_the_watch(set);
    errno = saved;
    return ready;
}

int readiness_wait(const struct epoll_call *call, int64_t timeout_ns)
{
    struct watched_set *set = interests_set_at(call->set);

    since_wait_begin();
    if (!set || !admission_active() || call->events_max <= 0)
        return flow_wait(call, timeout_ns);
    uint64_t deadline_ns = slices_deadline(timeout_ns);
    if (!calm(set))
        return watch(set, call, timeout_ns, deadline_ns);
    int reported = wait_counted(set, call, timeout_ns, call->wait);
    int saved = errno;
    int ready = reported > 0 ? without_hidden(set, call->events, reported) : reported;
    if (ready == 0 && reported > 0) /* all of it has filled up meanwhile: the rest of the time */
        return watch(set, call, timeout_ns, deadline_ns);
    pass_the_watch(set);
    errno = saved;
    return ready;
}

/* --- what happens elsewhere --- */

void readiness_hold(int fd)
{
    uint32_t end = atomic_load(&interests_sets_end);
    if (end == 0)
        return;
    interests_lock();
    for (uint32_t i = 0; i < end; i++) {
        struct interest *interest =
            atomic_load(&interests_sets[i].fd) ? interests_find(&interests_sets[i], fd) : NULL;
        if (interest && interest->events & EPOLLET)
            interests_hide(&interests_sets[i], interest);
    }
    interests_unlock();
}

bool readiness_report_again(int fd)
{
    bool watched = false;
    uint32_t end = atomic_load(&interests_sets_end);
    if (end == 0)
        return false;
    int saved = errno;
    interests_lock();
    for (uint32_t i = 0; i < end; i++) {
        struct interest *interest =
            atomic_load(&interests_sets[i].fd) ? interests_find(&interests_sets[i], fd) : NULL;
        if (!interest)
            continue;
        watched = true;
        /* Others are reported all the time, or when the program has armed them again. */
        if (interest->events & EPOLLET && !(interest->events & EPOLLONESHOT))
            interests_arm_again(&interests_sets[i], interest);
    }
    interests_unlock();
    errno = saved;
    return watched;
}

void readiness_set_closed(int fd)
{
    uint32_t end = atomic_load(&interests_sets_end);
    if (end == 0)
        return;
    interests_lock();
    for (uint32_t i = 0; i < end; i++)
        if (interests_set_fd(&interests_sets[i]) == fd)
            interests_forget_set(&interests_sets[i]);
    interests_unlock();
}

void readiness_listener_closed(int fd)
{
    uint32_t end = atomic_load(&interests_sets_end);
    if (end == 0)
        return;
    interests_lock();
    for (uint32_t i = 0; i < end; i++) {
        struct interest *interest =
            atomic_load(&interests_sets[i].fd) ? interests_find(&interests_sets[i], fd) : NULL;
        if (interest)
            interests_forget(&interests_sets[i], interest);
    }
    interests_unlock();
}

void readiness_show_everything(void)
{
    if (!readiness_hidden())
        return;
    interests_lock();
    uint32_t end = atomic_load(&interests_sets_end);
    for (uint32_t i = 0; i < end; i++)
        for (unsigned j = 0; j < interests_sets[i].interests; j++)
            if (interests_sets[i].interest[j].fd >= 0)
                interests_show(&interests_sets[i], &interests_sets[i].interest[j]);
    interests_unlock();
}

void readiness_before_fork(void)
{
    readiness_show_everything();
}

void readiness_after_fork_in_child(uint64_t parent)
{
    interests_after_fork_in_child(parent);
}
