/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "wait/epoll_filter.h"

#include "accept/accepting.h"
#include "accept/admission.h"
#include "accept/since_wait.h"
#include "accept/waiting_room.h"
#include "base/memory.h"
#include "base/polling.h"
#include "base/real.h"
#include "output/pausing.h"
#include "output/watches.h"
#include "wait/interests.h"
#include "wait/readiness.h"
#include "wait/wait_loop.h"

#include <errno.h>
#include <sys/syscall.h>
#include <time.h>

#define MILLISECOND INT64_C(1000000)
#define FILTER_NAP_NS (2 * MILLISECOND)

struct epoll_wait {
    struct wait wait;
    struct watched_set *set; /* NULL: it watches no listener */
    const struct epoll_call *call;
    bool filtered_in_vain; /* the last turn left nothing of what the kernel reported */
};

static struct epoll_wait *epoll_wait_of(struct wait *wait)
{
    return (struct epoll_wait *)wait;
}

/* --- connections --- */

/* Whether anything of the event is left for the program. */
static bool keep(struct flow *flow, struct epoll_event *event, const struct input_gate *gate)
{
    if (!watches_hand_out(flow))
        return false;
    bool reads = event->events & WATCHES_READABLE, writes = event->events & WATCHES_WRITABLE;
    bool paused = pausing_judges(flow, event), remains = true;
    if (event->events & WATCHES_BROKEN) {
        if (gate)
            gate->broken(atomic_load(&flow->fd), flow);
        return true;
    }
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

static int without_withheld(const struct epoll_call *call, int ready)
{
    const struct input_gate *gate = watches_gate_in_force();
    int kept = 0;
    if (!gate && !watches_active())
        return ready;
    for (int i = 0; i < ready; i++) {
        struct flow *flow = watches_find(call->set, call->events[i].data.u64);
        if (!flow || keep(flow, &call->events[i], gate))
            call->events[kept++] = call->events[i];
    }
    return kept;
}

/* --- listeners --- */

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

/* Whether somebody waits with us for this listener, to be reported whatever the kernel says. */
static bool pending(const struct interest *interest)
{
    const struct listener *listener = interest->fd < 0 ? NULL : listeners_tracked(interest->fd);
    return listener && interest->events & EPOLLIN && admission_pending(listener);
}

static bool anybody_pending(struct watched_set *set)
{
    bool found = false;
    interests_lock();
    for (unsigned i = 0; i < set->interests && !found; i++)
        found = pending(&set->interest[i]);
    interests_unlock();
    return found;
}

static bool already_among(const struct epoll_event *events, int ready, uint64_t data)
{
    for (int i = 0; i < ready; i++)
        if (events[i].data.u64 == data)
            return true;
    return false;
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
        const struct interest *interest = &set->interest[i];
        if (pending(interest) && !already_among(call->events, ready, interest->data.u64))
            call->events[ready++] = (struct epoll_event){.events = EPOLLIN, .data = interest->data};
    }
    interests_unlock();
    return ready;
}

/* --- turns --- */

static void nap(void)
{
    struct timespec time = {.tv_sec = 0, .tv_nsec = FILTER_NAP_NS};
    kernel_call(SYS_nanosleep, &time, NULL);
}

static void prepare(struct wait *wait)
{
    struct epoll_wait *epoll = epoll_wait_of(wait);
    struct watched_set *set = epoll->set;
    wait->has_turns = true;
    if (!set)
        return;
    /* A set shared with another process goes on reporting what is only filtered. */
    if (epoll->filtered_in_vain && set->inherited_from)
        nap();
    wait->hides = atomic_load(&set->hidden) || (set->nests && readiness_hidden());
    wait->pending = waiting_room_occupied() && anybody_pending(set);
}

/* Until the set has something to report, or this thread is to look again; as epoll_wait(2), but for
 * what is ready. */
static int wait_to_be_woken(struct wait *wait)
{
    struct timespec time;
    struct pollfd fds[1 + WAIT_BELLS_MOST] = {{.fd = wait->set, .events = POLLIN}};
    unsigned bells = wait_loop_bells(wait, fds + 1);
    if (wait->sleep_ns >= 0)
        time = (struct timespec){.tv_sec = (time_t)(wait->sleep_ns / 1000000000),
                                 .tv_nsec = (long)(wait->sleep_ns % 1000000000)};
    int ready = polling_wait(fds, 1 + bells, wait->sleep_ns < 0 ? NULL : &time, wait->opened);
    if (ready > 0)
        wait_loop_heard(wait, fds + 1, bells);
    wait->cut_short = ready > 0;
    return ready;
}

static int ask_kernel(struct wait *wait)
{
    struct epoll_call call = *epoll_wait_of(wait)->call;
    call.signals = wait->opened;
    if (wait->wake_fd < 0 || wait->sleep_ns == 0)
        return call.wait(&call, wait->sleep_ns);
    int ready = wait_to_be_woken(wait);
    return ready > 0 ? call.wait(&call, 0) : ready;
}

static int ask(struct wait *wait)
{
    struct watched_set *set = epoll_wait_of(wait)->set;
    if (set)
        atomic_fetch_add(&set->waiters, 1);
    int ready = ask_kernel(wait);
    if (set)
        atomic_fetch_sub(&set->waiters, 1);
    return ready;
}

static int settle(struct wait *wait, int reported)
{
    struct epoll_wait *epoll = epoll_wait_of(wait);
    int ready = reported > 0 ? without_withheld(epoll->call, reported) : 0;
    if (!epoll->set || (reported > 0 && !admission_active()))
        return ready;
    if (ready > 0)
        ready = without_hidden(epoll->set, epoll->call->events, ready);
    if (waiting_room_occupied())
        ready = with_pending(epoll->set, epoll->call, ready);
    epoll->filtered_in_vain = reported > 0 && ready == 0;
    return ready;
}

static const struct wait_operations operations = {.prepare = prepare, .ask = ask, .settle = settle};

/* --- the call --- */

/* Leaving the wait: another thread that waits on this set must then be the one to watch. */
static void pass_the_watch(struct watched_set *set)
{
    if (atomic_load(&set->hidden) && atomic_load(&set->waiters))
        interests_show_all(set);
}

/* With care, and again and again. Not inlined: what is calm shall not pay for its registers. */
static __attribute__((noinline)) int watch(struct watched_set *set, const struct epoll_call *call,
                                           int64_t timeout_ns, uint64_t deadline_ns)
{
    struct epoll_wait epoll = {.wait = {.operations = &operations,
                                        .slices = slices_until(timeout_ns, deadline_ns),
                                        .signals = call->signals,
                                        .set = call->set,
                                        .accepts = set != NULL},
                               .set = set,
                               .call = call};
    int ready = wait_loop_run(&epoll.wait);
    if (set) {
        int saved = errno;
        pass_the_watch(set);
        errno = saved;
    }
    return ready;
}

/* No listener is among what it waits for. */
static int wait_for_flows(const struct epoll_call *call, int64_t timeout_ns)
{
    uint32_t mode = flows_mode_here();
    if (!mode || call->events_max <= 0)
        return call->wait(call, timeout_ns);
    uint64_t deadline_ns = slices_deadline(timeout_ns);
    if (wait_loop_concerned(mode) || mode & FLOWS_REQUESTS)
        return watch(NULL, call, timeout_ns, deadline_ns);
    int reported = call->wait(call, timeout_ns);
    int ready = reported > 0 ? without_withheld(call, reported) : reported;
    return ready == 0 && reported > 0 ? watch(NULL, call, timeout_ns, deadline_ns) : ready;
}

/* Nothing is out of sight in the set, and there is nothing to come back for. */
static bool calm(const struct watched_set *set)
{
    return !atomic_load_explicit(&set->hidden, memory_order_relaxed) && !set->nests &&
           flows_idle() && admission_calm();
}

int epoll_filter_wait(const struct epoll_call *call, int64_t timeout_ns)
{
    struct watched_set *set = interests_set_at(call->set);

    since_wait_begin();
    if (!set || !admission_active() || call->events_max <= 0)
        return wait_for_flows(call, timeout_ns);
    uint64_t deadline_ns = slices_deadline(timeout_ns);
    if (!calm(set)) {
        uint32_t mode = flows_mode_here();
        if (mode)
            wait_loop_concerned(mode);
        return watch(set, call, timeout_ns, deadline_ns);
    }
    atomic_fetch_add(&set->waiters, 1);
    int reported = call->wait(call, timeout_ns);
    atomic_fetch_sub(&set->waiters, 1);
    int saved = errno;
    int ready = reported > 0 ? without_hidden(set, call->events, reported) : reported;
    if (ready == 0 && reported > 0) /* all of it has filled up meanwhile: the rest of the time */
        return watch(set, call, timeout_ns, deadline_ns);
    pass_the_watch(set);
    errno = saved;
    return ready;
}
