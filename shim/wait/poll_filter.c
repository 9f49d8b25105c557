/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "wait/poll_filter.h"

#include "accept/admission.h"
#include "accept/since_wait.h"
#include "accept/waiting_room.h"
#include "base/polling.h"
#include "base/real.h"
#include "base/sandbox.h"
#include "output/pausing.h"
#include "wait/masking.h"
#include "wait/readiness.h"
#include "wait/wait_loop.h"
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>

#define ON_STACK 256

bool poll_filter_concerns(const struct pollfd *fds, nfds_t count)
{
    if (!admission_active() || in_vfork_child)
        return false;
    uint32_t mode = flows_mode();
    if ((!mode && !listeners_exist()) || !memory_holds(MEMORY_POLLED, fds, count, sizeof *fds))
        return false;
    bool concerned = mode && wait_loop_concerned(mode);
    for (nfds_t i = 0; i < count; i++) {
        enum descriptor_kind kind = descriptor_kind(descriptor_at(fds[i].fd));
        if (kind == DESCRIPTOR_LISTENER || kind == DESCRIPTOR_EPOLL) {
            admission_waits_for_listener();
            return true;
        }
        if (kind == DESCRIPTOR_CONN && masking_reaches(mode, fds[i].events & WRITABLE) &&
            fds[i].events & READABLE)
            return true;
    }
    return concerned;
}

struct poll_wait {
    struct wait wait;
    struct pollfd *fds, *scratch; /* scratch has room for WAIT_BELLS_MOST more */
    nfds_t count;
};

static struct poll_wait *poll_wait_of(struct wait *wait)
{
    return (struct poll_wait *)wait;
}

/* Copies the call without what is out of sight. */
static void prepare(struct wait *wait)
{
    const struct poll_wait *poll = poll_wait_of(wait);
    struct pollfd *to = poll->scratch;
    wait->pending = wait->has_turns = false;
    wait->hides = readiness_hidden();
    memcpy(to, poll->fds, poll->count * sizeof *to);
    for (nfds_t i = 0; i < poll->count; i++) {
        enum descriptor_kind kind = descriptor_kind(descriptor_at(to[i].fd));
        if (!(to[i].events & READABLE))
            continue;
        if (kind == DESCRIPTOR_CONN) {
            to[i].events &= ~masking_leaves_out(wait, to[i].fd, to[i].events);
        } else if (kind != DESCRIPTOR_LISTENER) {
            continue;
        } else if (masking_pending(to[i].fd)) {
            wait->pending = true;
        } else if (masking_hides(to[i].fd)) {
            to[i].fd = -1;
            wait->hides = true;
        }
    }
}

/* What the program is told of one of those that it asks for. */
static short told_of(const struct pollfd *asked, const struct pollfd *result)
{
    short events = result->fd < 0 ? 0 : result->revents;
    if (events & READABLE && masking_withholds(asked->fd))
        return events & ~READABLE;
    events = masking_admits(asked->fd, events);
    if (waiting_room_occupied() && asked->events & READABLE && asked->fd >= 0 &&
        masking_pending(asked->fd))
        events |= asked->events & READABLE;
    return events;
}

/* Hands the result out: without listeners that filled up meanwhile and input that is not admitted,
 * with listeners that somebody waits for. */
static int hand_out(struct pollfd *fds, const struct pollfd *result, nfds_t count)
{
    int ready = 0;
    for (nfds_t i = 0; i < count; i++) {
        short events = told_of(&fds[i], &result[i]);
        if (events & WRITABLE && result[i].events != fds[i].events)
            pausing_told(fds[i].fd);
        fds[i].revents = events;
        ready += events != 0;
    }
    return ready;
}

static int settle(struct wait *wait, int reported)
{
    const struct poll_wait *poll = poll_wait_of(wait);
    (void)reported;
    return hand_out(poll->fds, poll->scratch, poll->count);
}

/* A sandbox entered by another thread, while this one waits, may know poll alone. */
static int ask_poll(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
                    const sigset_t *signals)
{
    if (sandbox_permits(SYS_ppoll))
        return polling_wait(fds, count, timeout, signals);
    int64_t ms = timeout ? timeout->tv_sec * 1000 + (timeout->tv_nsec + 999999) / 1000000 : -1;
    return REAL(poll)(fds, count, ms < INT_MAX ? (int)ms : INT_MAX);
}

static int ask(struct wait *wait)
{
    const struct poll_wait *poll = poll_wait_of(wait);
    struct timespec time;
    struct pollfd *bells = poll->scratch + poll->count;
    unsigned more = wait_loop_bells(wait, bells);
    int ready = ask_poll(poll->scratch, poll->count + more, masking_timespec(wait->sleep_ns, &time),
                         wait->opened);
    if (ready > 0)
        wait_loop_heard(wait, bells, more);
    return ready;
}

static void leave(struct wait *wait)
{
    const struct poll_wait *poll = poll_wait_of(wait);
    for (nfds_t i = 0; wait->has_turns && i < poll->count; i++)
        masking_awaits_no_more(wait, poll->fds[i].fd);
}

static const struct wait_operations operations = {prepare, ask, leave, settle};

/* With care, and again and again, in a copy of the call. */
static __attribute__((noinline)) int watch_poll(struct pollfd *fds, nfds_t count,
                                                struct slices slices, const sigset_t *signals)
{
    struct pollfd on_stack[ON_STACK];
    struct poll_wait poll = {.wait = {.operations = &operations,
                                      .slices = slices,
                                      .signals = signals,
                                      .set = -1,
                                      .accepts = true},
                             .fds = fds,
                             .scratch = on_stack,
                             .count = count};
    struct timespec time;
    size_t size = (count + WAIT_BELLS_MOST) * sizeof *fds;

    if (size > sizeof on_stack) {
        poll.scratch = masking_memory(size);
        if (!poll.scratch)
            return polling_wait(fds, count, masking_timespec(slices_left(&slices), &time), signals);
    }
    int ready = wait_loop_run(&poll.wait);
    if (poll.scratch != on_stack) {
        int saved = errno;
        munmap(poll.scratch, size);
        errno = saved;
    }
    return ready;
}

/* After a failure: by poll, where a filter forbids ppoll. */
static __attribute__((noinline, cold)) int
ask_otherwise(struct pollfd *fds, nfds_t count, int64_t timeout_ns, const sigset_t *signals)
{
    struct timespec time;
    if (!polling_is_refusal(errno))
        return -1;
    return polling_wait(fds, count, masking_timespec(timeout_ns, &time), signals);
}

int poll_filter_wait(struct pollfd *fds, nfds_t count, int64_t timeout_ns, const sigset_t *signals)
{
    struct timespec time;

    since_wait_begin();
    uint64_t deadline_ns = slices_deadline(timeout_ns);
    if (masking_calm()) {
        int ready = REAL(ppoll)(fds, count, masking_timespec(timeout_ns, &time), signals);
        if (ready <= 0 || admission_all_visible())
            return ready < 0 ? ask_otherwise(fds, count, timeout_ns, signals) : ready;
        ready = hand_out(fds, fds, count);
        if (ready > 0)
            return ready;
    }
    return watch_poll(fds, count, slices_until(timeout_ns, deadline_ns), signals);
}
