/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "wait/readiness.h"

#include "accept/admission.h"
#include "base/memory.h"
#include "base/real.h"
#include "base/sandbox.h"
#include "fd/listeners.h"
#include "output/pausing.h"
#include "process/descriptors.h"
#include "process/service.h"
#include "wait/interests.h"

#include <errno.h>

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

/* --- all interests, or those in a listener --- */

#define EVERY_LISTENER (-1)

/* Calls `visit` for each interest in `fd`, with the lock held; whether there is any. Keeps errno.
 */
static bool each_interest(int fd, void (*visit)(struct watched_set *set, struct interest *interest))
{
    bool found = false;
    uint32_t end = atomic_load(&interests_sets_end);
    if (end == 0)
        return false;
    int saved = errno;
    interests_lock();
    for (uint32_t i = 0; i < end; i++) {
        struct watched_set *set = &interests_sets[i];
        for (unsigned j = 0; atomic_load(&set->fd) && j < set->interests; j++) {
            struct interest *interest = &set->interest[j];
            if (interest->fd < 0 || (fd != EVERY_LISTENER && interest->fd != fd))
                continue;
            visit(set, interest);
            found = true;
        }
    }
    interests_unlock();
    errno = saved;
    return found;
}

bool readiness_hidden(void)
{
    return atomic_load_explicit(&interests_hidden, memory_order_relaxed) != 0;
}

static void show_if_visible(struct watched_set *set, struct interest *interest)
{
    struct listener *listener =
        interest->sight == OUT_OF_SIGHT ? listeners_tracked(interest->fd) : NULL;
    if (!listener || admission_visible(listener))
        interests_show(set, interest);
}

void readiness_room_made(void)
{
    if (readiness_hidden() && !in_vfork_child && !admission_shut())
        each_interest(EVERY_LISTENER, show_if_visible);
}

void readiness_show_everything(void)
{
    if (readiness_hidden())
        each_interest(EVERY_LISTENER, interests_show);
}

static void hide_edge(struct watched_set *set, struct interest *interest)
{
    if (interest->events & EPOLLET)
        interests_hide(set, interest);
}

void readiness_hold(int fd)
{
    each_interest(fd, hide_edge);
}

/* Others are reported all the time, or when the program has armed them again. */
static void arm_edge_again(struct watched_set *set, struct interest *interest)
{
    if (interest->events & EPOLLET && !(interest->events & EPOLLONESHOT))
        interests_arm_again(set, interest);
}

bool readiness_report_again(int fd)
{
    return each_interest(fd, arm_edge_again);
}

void readiness_listener_closed(int fd)
{
    each_interest(fd, interests_forget);
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

void readiness_before_fork(void)
{
    readiness_show_everything();
}

void readiness_after_fork_in_child(uint64_t parent)
{
    interests_after_fork_in_child(parent);
}
