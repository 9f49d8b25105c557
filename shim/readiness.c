/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "readiness.h"

#include "admission.h"
#include "connections.h"
#include "descriptors.h"
#include "listeners.h"
#include "pausing.h"
#include "processes.h"
#include "real.h"
#include "service.h"
#include "slices.h"
#include "spinlock.h"
#include "waiting_room.h"

#include <errno.h>
#include <sys/syscall.h>
#include <time.h>

#define MILLISECOND INT64_C(1000000)
#define FILTER_NAP_NS (2 * MILLISECOND)
#define SETS_MAX 256
#define INTERESTS_MAX 32 /* listeners in one set */

enum sight { IN_SIGHT, OUT_OF_SIGHT };

struct interest {
    int fd; /* the listener; -1 when the entry is free */
    enum sight sight;
    bool changed; /* in the kernel's set, too; else the shim filters what it reports */
    uint32_t events;
    epoll_data_t data;
};

static struct watched_set {
    _Atomic int fd; /* the epoll set + 1, or 0 when the entry is free */
    _Atomic int waiters;
    _Atomic int hidden;
    bool nests;              /* another watched set is in it */
    uint64_t inherited_from; /* the process it was forked with (processes_self), or 0 */
    unsigned interests;
    struct interest interest[INTERESTS_MAX];
} sets[SETS_MAX];
static _Atomic uint32_t sets_end;
static _Atomic int hidden_anywhere;
static struct spinlock lock;

static long control(int set, int operation, int fd, uint32_t events, epoll_data_t data)
{
    struct epoll_event event = {.events = events, .data = data};
    return kernel_call(SYS_epoll_ctl, set, operation, fd, &event);
}

static struct watched_set *set_at(int fd)
{
    descriptor what = descriptor_at(fd);
    if (descriptor_kind(what) != DESCRIPTOR_EPOLL || descriptor_index(what) >= SETS_MAX)
        return NULL;
    return &sets[descriptor_index(what)];
}

static int set_fd(const struct watched_set *set)
{
    return atomic_load_explicit(&set->fd, memory_order_relaxed) - 1;
}

/* --- hiding and showing; the lock is held --- */

/* Whether the kernel's set belongs to another process, too, which must not find it changed. */
static bool shared_with_parent(struct watched_set *set)
{
    if (set->inherited_from && processes_judge(set->inherited_from) == LIVENESS_GONE)
        set->inherited_from = 0;
    return set->inherited_from != 0;
}

static void hide(struct watched_set *set, struct interest *interest)
{
    if (interest->sight == OUT_OF_SIGHT)
        return;
    if (!shared_with_parent(set)) {
        /* epoll_ctl(2): an interest with EPOLLEXCLUSIVE cannot be modified. */
        long result = interest->events & EPOLLEXCLUSIVE
                          ? control(set_fd(set), EPOLL_CTL_DEL, interest->fd, 0, interest->data)
                          : control(set_fd(set), EPOLL_CTL_MOD, interest->fd,
                                    interest->events & (EPOLLET | EPOLLONESHOT), interest->data);
        if (result < 0)
            return;
        interest->changed = true;
    }
    interest->sight = OUT_OF_SIGHT;
    atomic_fetch_add(&set->hidden, 1);
    atomic_fetch_add(&hidden_anywhere, 1);
}

static void mark_shown(struct watched_set *set, struct interest *interest)
{
    if (interest->sight == IN_SIGHT)
        return;
    interest->sight = IN_SIGHT;
    atomic_fetch_sub(&set->hidden, 1);
    atomic_fetch_sub(&hidden_anywhere, 1);
}

static void show(struct watched_set *set, struct interest *interest)
{
    if (interest->sight == IN_SIGHT)
        return;
    mark_shown(set, interest);
    /* What was only filtered used up its edge, or its one shot: it is armed again. */
    if (!interest->changed && !(interest->events & (EPOLLET | EPOLLONESHOT)))
        return;
    bool added = interest->changed && interest->events & EPOLLEXCLUSIVE;
    interest->changed = false;
    control(set_fd(set), added ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, interest->fd, interest->events,
            interest->data);
}

static bool visible(int fd)
{
    struct listener *listener = listeners_tracked(fd);
    return !listener || admission_visible(listener);
}

/* --- what the program asks for --- */

static struct watched_set *new_set(int fd)
{
    for (uint32_t i = 0; i < SETS_MAX; i++) {
        if (atomic_load(&sets[i].fd) != 0)
            continue;
        sets[i].inherited_from = 0;
        sets[i].nests = false;
        sets[i].interests = 0;
        atomic_store(&sets[i].hidden, 0);
        atomic_store(&sets[i].waiters, 0);
        atomic_store(&sets[i].fd, fd + 1);
        if (atomic_load(&sets_end) <= i)
            atomic_store(&sets_end, i + 1);
        descriptor_put(fd, descriptor_make(DESCRIPTOR_EPOLL, i, 0));
        return &sets[i];
    }
    return NULL;
}

static struct interest *find_interest(struct watched_set *set, int fd)
{
    for (unsigned i = 0; set && i < set->interests; i++)
        if (set->interest[i].fd == fd)
            return &set->interest[i];
    return NULL;
}

static void remember(struct watched_set *set, int fd, const struct epoll_event *event)
{
    struct interest *interest = find_interest(set, fd);
    if (!interest)
        interest = find_interest(set, -1);
    if (!interest) {
        if (!set || set->interests == INTERESTS_MAX)
            return; /* accept alone holds, then */
        interest = &set->interest[set->interests++];
    }
    *interest = (struct interest){
        .fd = fd, .sight = IN_SIGHT, .events = event->events, .data = event->data};
    admission_waits_for_listener();
}

static void forget(struct watched_set *set, struct interest *interest)
{
    mark_shown(set, interest);
    interest->fd = -1;
}

/* The program changes an interest that is out of sight: it is told what it would be told. */
static int control_hidden(struct watched_set *set, struct interest *interest, int operation,
                          const struct epoll_event *event)
{
    bool exclusive = interest->changed && interest->events & EPOLLEXCLUSIVE;
    if (operation == EPOLL_CTL_DEL) {
        int fd = interest->fd;
        forget(set, interest);
        return exclusive ? 0 : (int)control(set_fd(set), EPOLL_CTL_DEL, fd, 0, (epoll_data_t){0});
    }
    if (operation == EPOLL_CTL_ADD || exclusive) {
        errno = operation == EPOLL_CTL_ADD ? EEXIST : EINVAL;
        return -1;
    }
    uint32_t events = event->events;
    if (interest->changed)
        events &= EPOLLET | EPOLLONESHOT;
    if (control(set_fd(set), EPOLL_CTL_MOD, interest->fd, events, event->data) < 0)
        return -1;
    interest->events = event->events;
    interest->data = event->data;
    return 0;
}

/* A set within a set: a wait on the outer one must come in slices, too. */
static int control_nested(int outer, int operation, int inner, struct epoll_event *event)
{
    int result = REAL(epoll_ctl)(outer, operation, inner, event);
    if (result < 0 || operation == EPOLL_CTL_DEL)
        return result;
    spinlock_take(&lock);
    struct watched_set *set = set_at(outer);
    set = set ? set : new_set(outer);
    if (set)
        set->nests = true;
    spinlock_give(&lock);
    return result;
}

int readiness_control(int set_number, int operation, int fd, struct epoll_event *event)
{
    if (descriptor_kind(descriptor_at(fd)) == DESCRIPTOR_CONN && service_active() &&
        !in_vfork_child)
        return pausing_control(set_number, operation, fd, event);
    if (descriptor_kind(descriptor_at(fd)) == DESCRIPTOR_EPOLL && service_active() &&
        !in_vfork_child)
        return control_nested(set_number, operation, fd, event);
    if (descriptor_kind(descriptor_at(fd)) != DESCRIPTOR_LISTENER || !service_active() ||
        in_vfork_child || (operation != EPOLL_CTL_DEL && !event))
        return REAL(epoll_ctl)(set_number, operation, fd, event);
    spinlock_take(&lock);
    struct watched_set *set = set_at(set_number);
    struct interest *interest = find_interest(set, fd);
    int result;
    if (interest && interest->sight == OUT_OF_SIGHT) {
        result = control_hidden(set, interest, operation, event);
    } else {
        result = REAL(epoll_ctl)(set_number, operation, fd, event);
        if (result == 0 && operation == EPOLL_CTL_DEL && interest)
            forget(set, interest);
        else if (result == 0 && operation != EPOLL_CTL_DEL)
            remember(set ? set : new_set(set_number), fd, event);
    }
    int saved = errno;
    spinlock_give(&lock);
    errno = saved;
    return result;
}

/* --- waiting --- */

bool readiness_hidden(void)
{
    return atomic_load_explicit(&hidden_anywhere, memory_order_relaxed) != 0;
}

void readiness_room_made(void)
{
    if (!readiness_hidden() || in_vfork_child || admission_shut())
        return;
    int saved = errno;
    spinlock_take(&lock);
    uint32_t end = atomic_load(&sets_end);
    for (uint32_t i = 0; i < end; i++) {
        struct watched_set *set = &sets[i];
        for (unsigned j = 0; atomic_load(&set->hidden) && j < set->interests; j++)
            if (set->interest[j].fd >= 0 && visible(set->interest[j].fd))
                show(set, &set->interest[j]);
    }
    spinlock_give(&lock);
    errno = saved;
}

static struct interest *interest_of(struct watched_set *set, const struct epoll_event *event)
{
    for (unsigned i = 0; i < set->interests; i++)
        if (set->interest[i].fd >= 0 && set->interest[i].data.u64 == event->data.u64)
            return &set->interest[i];
    return NULL;
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
    spinlock_take(&lock);
    for (int i = 0; i < ready && count < INTERESTS_MAX; i++) {
        const struct interest *interest =
            events[i].events & (EPOLLERR | EPOLLHUP) ? NULL : interest_of(set, &events[i]);
        if (interest)
            found[count++] = (struct reported){i, interest->fd};
    }
    spinlock_give(&lock);
    return count;
}

/* The program is not told, but the kernel may think that it was. */
static void withhold(struct watched_set *set, int fd, enum report report)
{
    spinlock_take(&lock);
    struct interest *interest = find_interest(set, fd);
    if (interest && report == REPORT_LATER)
        hide(set, interest);
    else if (interest && interest->sight == IN_SIGHT && interest->events & EPOLLONESHOT)
        control(set_fd(set), EPOLL_CTL_MOD, fd, interest->events, interest->data);
    spinlock_give(&lock);
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
        enum report report = listener ? admission_screen(listener, found[i].fd) : REPORT_NOW;
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
    spinlock_take(&lock);
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
    spinlock_give(&lock);
    return ready;
}

static bool anybody_pending(struct watched_set *set)
{
    bool pending = false;
    spinlock_take(&lock);
    for (unsigned i = 0; i < set->interests && !pending; i++) {
        const struct listener *listener =
            set->interest[i].fd < 0 ? NULL : listeners_tracked(set->interest[i].fd);
        pending = listener && admission_pending(listener);
    }
    spinlock_give(&lock);
    return pending;
}

struct epoll_wait {
    struct watched_set *set;
    struct epoll_call call;
    int64_t timeout_ns;
};

/* `wait` is pausing_wait, or the call's own where there is nothing to pause. */
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
    return wait_counted(wait->set, &wait->call, wait->timeout_ns, pausing_wait);
}

/* Leaving the wait: another thread that waits on this set must then be the one to watch. */
static void pass_the_watch(struct watched_set *set)
{
    if (atomic_load(&set->hidden) == 0 || atomic_load(&set->waiters) == 0)
        return;
    spinlock_take(&lock);
    for (unsigned i = 0; i < set->interests; i++)
        if (set->interest[i].fd >= 0)
            show(set, &set->interest[i]);
    spinlock_give(&lock);
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
        if (ready > 0 || (slice == left && (reported == 0 || left == 0)))
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
           admission_calm();
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
    struct watched_set *set = set_at(call->set);

    admission_thread_waits();
    if (!set || !admission_active() || call->events_max <= 0)
        return pausing_wait(call, timeout_ns);
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
    uint32_t end = atomic_load(&sets_end);
    if (end == 0)
        return;
    spinlock_take(&lock);
    for (uint32_t i = 0; i < end; i++) {
        struct interest *interest = atomic_load(&sets[i].fd) ? find_interest(&sets[i], fd) : NULL;
        if (interest && interest->events & EPOLLET)
            hide(&sets[i], interest);
    }
    spinlock_give(&lock);
}

bool readiness_report_again(int fd)
{
    bool watched = false;
    uint32_t end = atomic_load(&sets_end);
    if (end == 0)
        return false;
    int saved = errno;
    spinlock_take(&lock);
    for (uint32_t i = 0; i < end; i++) {
        struct interest *interest = atomic_load(&sets[i].fd) ? find_interest(&sets[i], fd) : NULL;
        if (!interest)
            continue;
        watched = true;
        /* Others are reported all the time, or when the program has armed them again. */
        if (interest->sight == OUT_OF_SIGHT || !(interest->events & EPOLLET) ||
            interest->events & EPOLLONESHOT)
            continue;
        bool exclusive = interest->events & EPOLLEXCLUSIVE; /* cannot be modified: epoll_ctl(2) */
        if (exclusive)
            control(set_fd(&sets[i]), EPOLL_CTL_DEL, fd, 0, interest->data);
        control(set_fd(&sets[i]), exclusive ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, interest->events,
                interest->data);
    }
    spinlock_give(&lock);
    errno = saved;
    return watched;
}

static void forget_set(struct watched_set *set)
{
    atomic_fetch_sub(&hidden_anywhere, atomic_exchange(&set->hidden, 0));
    set->interests = 0;
    atomic_store(&set->fd, 0);
}

void readiness_set_closed(int fd)
{
    uint32_t end = atomic_load(&sets_end);
    spinlock_take(&lock);
    for (uint32_t i = 0; i < end; i++)
        if (set_fd(&sets[i]) == fd)
            forget_set(&sets[i]);
    spinlock_give(&lock);
}

void readiness_listener_closed(int fd)
{
    uint32_t end = atomic_load(&sets_end);
    if (end == 0)
        return;
    spinlock_take(&lock);
    for (uint32_t i = 0; i < end; i++) {
        struct interest *interest = atomic_load(&sets[i].fd) ? find_interest(&sets[i], fd) : NULL;
        if (interest)
            forget(&sets[i], interest);
    }
    spinlock_give(&lock);
}

void readiness_show_everything(void)
{
    if (!readiness_hidden())
        return;
    spinlock_take(&lock);
    uint32_t end = atomic_load(&sets_end);
    for (uint32_t i = 0; i < end; i++)
        for (unsigned j = 0; j < sets[i].interests; j++)
            if (sets[i].interest[j].fd >= 0)
                show(&sets[i], &sets[i].interest[j]);
    spinlock_give(&lock);
}

void readiness_before_fork(void)
{
    readiness_show_everything();
}

void readiness_after_fork_in_child(uint64_t parent)
{
    uint32_t end = atomic_load(&sets_end);
    spinlock_reset(&lock);
    for (uint32_t i = 0; i < end; i++) {
        sets[i].inherited_from = parent;
        atomic_store(&sets[i].waiters, 0);
    }
}
