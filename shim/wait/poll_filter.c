/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "wait/poll_filter.h"

#include "accept/admission.h"
#include "accept/since_wait.h"
#include "accept/waiting_room.h"
#include "base/polling.h"
#include "base/real.h"
#include "base/sandbox.h"
#include "output/metering.h"
#include "output/pausing.h"
#include "output/stalls.h"
#include "wait/masking.h"
#include "wait/readiness.h"
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>

#define ON_STACK 256

bool poll_filter_concerns(const struct pollfd *fds, nfds_t count)
{
    if (!admission_active() || in_vfork_child || (!listeners_exist() && !flows_mode()) ||
        !memory_holds(MEMORY_POLLED, fds, count, sizeof *fds))
        return false;
    stalls_stir();
    bool pause = flows_mode() & FLOWS_PAUSE;
    for (nfds_t i = 0; i < count; i++)
        if (masking_concerns(fds[i].fd)) {
            admission_waits_for_listener();
            return true;
        } else if (pause && fds[i].events & WRITABLE && fds[i].events & READABLE &&
                   descriptor_kind(descriptor_at(fds[i].fd)) == DESCRIPTOR_CONN) {
            return true;
        }
    return masking_bytes_concerned();
}

/* Copies the call without what is out of sight; whether anything was left out. */
static bool mask_poll(struct pollfd *to, const struct pollfd *fds, nfds_t count,
                      bool *somebody_pending)
{
    bool left_out = false;
    memcpy(to, fds, count * sizeof *fds);
    for (nfds_t i = 0; i < count; i++) {
        if (masking_pauses(fds[i].fd, fds[i].events & READABLE, fds[i].events & WRITABLE))
            to[i].events &= ~READABLE;
        if (fds[i].fd < 0 || !(fds[i].events & READABLE) ||
            descriptor_kind(descriptor_at(fds[i].fd)) != DESCRIPTOR_LISTENER)
            continue;
        if (masking_pending(fds[i].fd)) {
            *somebody_pending = true;
        } else if (masking_hides(fds[i].fd)) {
            to[i].fd = -1;
            left_out = true;
        }
    }
    return left_out;
}

/* Hands the result out: without listeners that filled up meanwhile, with those somebody waits for.
 */
static int settle_poll(struct pollfd *fds, const struct pollfd *result, nfds_t count)
{
    int ready = 0;
    for (nfds_t i = 0; i < count; i++) {
        short events = result[i].fd < 0 ? 0 : result[i].revents;
        if (events & READABLE && masking_withholds(fds[i].fd)) {
            events &= ~READABLE;
        } else if (waiting_room_occupied() && fds[i].events & READABLE && fds[i].fd >= 0 &&
                   masking_pending(fds[i].fd)) {
            events |= fds[i].events & READABLE;
        }
        if (events & WRITABLE && result[i].events != fds[i].events)
            pausing_told(fds[i].fd);
        fds[i].revents = events;
        ready += events != 0;
    }
    return ready;
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

struct poll_wait {
    struct pollfd *fds;
    nfds_t count;
    const struct timespec *timeout;
    const sigset_t *signals;
};

static int wait_in_poll(void *argument)
{
    const struct poll_wait *wait = argument;
    return ask_poll(wait->fds, wait->count, wait->timeout, wait->signals);
}

static int poll_watching(struct pollfd *fds, struct pollfd *scratch, nfds_t count,
                         struct slices *slices, const sigset_t *signals)
{
    struct timespec time;
    for (;;) {
        bool somebody_pending = false;
        admission_attend();
        readiness_room_made();
        metering_new_turn();
        bool left_out = mask_poll(scratch, fds, count, &somebody_pending);
        int64_t left = slices_left(slices);
        int64_t slice = masking_next_slice(slices, left_out, somebody_pending, left);
        struct poll_wait wait = {scratch, count, masking_timespec(slice, &time),
                                 signals_opened(&slices->held, signals)};
        int reported = slices_wait(slices, wait_in_poll, &wait);
        if (reported < 0)
            return reported;
        int ready = settle_poll(fds, scratch, count);
        if (ready > 0 || (slice == left && (reported == 0 || left == 0)))
            return ready;
        signals_hold(&slices->held);
    }
}

/* With care, and again and again, in a copy of the call. */
static __attribute__((noinline)) int watch_poll(struct pollfd *fds, nfds_t count,
                                                struct slices slices, const sigset_t *signals)
{
    struct pollfd on_stack[ON_STACK], *scratch = on_stack;
    struct timespec time;
    size_t size = count * sizeof *fds;

    if (count > ON_STACK) {
        scratch = masking_memory(size);
        if (!scratch)
            return polling_wait(fds, count, masking_timespec(slices_left(&slices), &time), signals);
    }
    int ready = poll_watching(fds, scratch, count, &slices, signals);
    slices_end(&slices);
    if (scratch != on_stack) {
        int saved = errno;
        munmap(scratch, size);
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
        ready = settle_poll(fds, fds, count);
        if (ready > 0)
            return ready;
    }
    return watch_poll(fds, count, slices_until(timeout_ns, deadline_ns), signals);
}
