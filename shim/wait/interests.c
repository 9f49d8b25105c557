/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "wait/interests.h"

#include "accept/admission.h"
#include "base/real.h"
#include "base/spinlock.h"
#include "base/trace.h"
#include "process/processes.h"
#include "process/service.h"

#include <errno.h>
#include <sys/syscall.h>

struct watched_set interests_sets[SETS_MAX];
_Atomic uint32_t interests_sets_end;
_Atomic int interests_hidden;
static struct spinlock lock;

void interests_lock(void)
{
    spinlock_take(&lock);
}

void interests_unlock(void)
{
    spinlock_give(&lock);
}

static long control(int set, int operation, int fd, uint32_t events, epoll_data_t data)
{
    struct epoll_event event = {.events = events, .data = data};
    return kernel_call(SYS_epoll_ctl, set, operation, fd, &event);
}

/* --- hiding and showing; the lock is held --- */

/* Whether the kernel's set belongs to another process, too, which must not find it changed. */
static bool shared_with_parent(struct watched_set *set)
{
    if (set->inherited_from && processes_judge(set->inherited_from) == LIVENESS_GONE)
        set->inherited_from = 0;
    return set->inherited_from != 0;
}

void interests_hide(struct watched_set *set, struct interest *interest)
{
    if (interest->sight == OUT_OF_SIGHT)
        return;
    if (!shared_with_parent(set)) {
        /* epoll_ctl(2): an interest with EPOLLEXCLUSIVE cannot be modified. */
        long result =
            interest->events & EPOLLEXCLUSIVE
                ? control(interests_set_fd(set), EPOLL_CTL_DEL, interest->fd, 0, interest->data)
                : control(interests_set_fd(set), EPOLL_CTL_MOD, interest->fd,
                          interest->events & (EPOLLET | EPOLLONESHOT), interest->data);
        if (result < 0)
            return;
        interest->changed = true;
    }
    trace(TRACE_WAIT, "mask", interest->fd, "set", (uint64_t)interests_set_fd(set), NULL, 0);
    interest->sight = OUT_OF_SIGHT;
    atomic_fetch_add(&set->hidden, 1);
    atomic_fetch_add(&interests_hidden, 1);
}

static void mark_shown(struct watched_set *set, struct interest *interest)
{
    if (interest->sight == IN_SIGHT)
        return;
    interest->sight = IN_SIGHT;
    atomic_fetch_sub(&set->hidden, 1);
    atomic_fetch_sub(&interests_hidden, 1);
}

void interests_show(struct watched_set *set, struct interest *interest)
{
    if (interest->sight == IN_SIGHT)
        return;
    mark_shown(set, interest);
    trace(TRACE_WAIT, "show", interest->fd, "set", (uint64_t)interests_set_fd(set), NULL, 0);
    /* What was only filtered used up its edge, or its one shot: it is armed again. */
    if (!interest->changed && !(interest->events & (EPOLLET | EPOLLONESHOT)))
        return;
    bool added = interest->changed && interest->events & EPOLLEXCLUSIVE;
    interest->changed = false;
    control(interests_set_fd(set), added ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, interest->fd,
            interest->events, interest->data);
}

void interests_show_all(struct watched_set *set)
{
    spinlock_take(&lock);
    for (unsigned i = 0; i < set->interests; i++)
        if (set->interest[i].fd >= 0)
            interests_show(set, &set->interest[i]);
    spinlock_give(&lock);
}

/* --- what the program asks for --- */

static struct watched_set *new_set(int fd)
{
    for (uint32_t i = 0; i < SETS_MAX; i++) {
        if (atomic_load(&interests_sets[i].fd) != 0)
            continue;
        interests_sets[i].inherited_from = 0;
        interests_sets[i].nests = false;
        interests_sets[i].interests = 0;
        atomic_store(&interests_sets[i].hidden, 0);
        atomic_store(&interests_sets[i].waiters, 0);
        atomic_store(&interests_sets[i].fd, fd + 1);
        if (atomic_load(&interests_sets_end) <= i)
            atomic_store(&interests_sets_end, i + 1);
        descriptor_put(fd, descriptor_make(DESCRIPTOR_EPOLL, i, 0));
        return &interests_sets[i];
    }
    return NULL;
}

struct interest *interests_find(struct watched_set *set, int fd)
{
    for (unsigned i = 0; set && i < set->interests; i++)
        if (set->interest[i].fd == fd)
            return &set->interest[i];
    return NULL;
}

static void remember(struct watched_set *set, int fd, const struct epoll_event *event)
{
    struct interest *interest = interests_find(set, fd);
    if (!interest)
        interest = interests_find(set, -1);
    if (!interest) {
        if (!set || set->interests == INTERESTS_MAX)
            return; /* accept alone holds, then */
        interest = &set->interest[set->interests++];
    }
    *interest = (struct interest){
        .fd = fd, .sight = IN_SIGHT, .events = event->events, .data = event->data};
    admission_waits_for_listener();
}

void interests_forget(struct watched_set *set, struct interest *interest)
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
        interests_forget(set, interest);
        return exclusive
                   ? 0
                   : (int)control(interests_set_fd(set), EPOLL_CTL_DEL, fd, 0, (epoll_data_t){0});
    }
    if (operation == EPOLL_CTL_ADD || exclusive) {
        errno = operation == EPOLL_CTL_ADD ? EEXIST : EINVAL;
        return -1;
    }
    uint32_t events = event->events;
    if (interest->changed)
        events &= EPOLLET | EPOLLONESHOT;
    if (control(interests_set_fd(set), EPOLL_CTL_MOD, interest->fd, events, event->data) < 0)
        return -1;
    interest->events = event->events;
    interest->data = event->data;
    return 0;
}

/* A set within a set: a wait on the outer one must come in slices, too. */
int interests_control_nested(int outer, int operation, int inner, struct epoll_event *event)
{
    int result = REAL(epoll_ctl)(outer, operation, inner, event);
    if (result < 0 || operation == EPOLL_CTL_DEL)
        return result;
    spinlock_take(&lock);
    struct watched_set *set = interests_set_at(outer);
    set = set ? set : new_set(outer);
    if (set)
        set->nests = true;
    spinlock_give(&lock);
    return result;
}

int interests_control(int set_number, int operation, int fd, struct epoll_event *event)
{
    spinlock_take(&lock);
    struct watched_set *set = interests_set_at(set_number);
    struct interest *interest = interests_find(set, fd);
    int result;
    if (interest && interest->sight == OUT_OF_SIGHT) {
        result = control_hidden(set, interest, operation, event);
    } else {
        result = REAL(epoll_ctl)(set_number, operation, fd, event);
        if (result == 0 && operation == EPOLL_CTL_DEL && interest)
            interests_forget(set, interest);
        else if (result == 0 && operation != EPOLL_CTL_DEL)
            remember(set ? set : new_set(set_number), fd, event);
    }
    int saved = errno;
    spinlock_give(&lock);
    errno = saved;
    return result;
}

struct interest *interests_of(struct watched_set *set, const struct epoll_event *event)
{
    for (unsigned i = 0; i < set->interests; i++)
        if (set->interest[i].fd >= 0 && set->interest[i].data.u64 == event->data.u64)
            return &set->interest[i];
    return NULL;
}

void interests_forget_set(struct watched_set *set)
{
    atomic_fetch_sub(&interests_hidden, atomic_exchange(&set->hidden, 0));
    set->interests = 0;
    atomic_store(&set->fd, 0);
}

void interests_arm_again(struct watched_set *set, struct interest *interest)
{
    if (interest->sight == OUT_OF_SIGHT)
        return;
    bool exclusive = interest->events & EPOLLEXCLUSIVE; /* cannot be modified: epoll_ctl(2) */
    if (exclusive)
        control(interests_set_fd(set), EPOLL_CTL_DEL, interest->fd, 0, interest->data);
    control(interests_set_fd(set), exclusive ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, interest->fd,
            interest->events, interest->data);
}

void interests_after_fork_in_child(uint64_t parent)
{
    uint32_t end = atomic_load(&interests_sets_end);
    spinlock_reset(&lock);
    for (uint32_t i = 0; i < end; i++) {
        interests_sets[i].inherited_from = parent;
        atomic_store(&interests_sets[i].waiters, 0);
    }
}
