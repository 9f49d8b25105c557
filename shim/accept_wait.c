/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "accept_wait.h"

#include "admission.h"
#include "connections.h"
#include "libc.h"
#include "real.h"
#include "service.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/syscall.h>
#include <time.h>

#define MILLISECOND UINT64_C(1000000)
/* One thread of the service looks itself so often, and audits; the futex wakes it, and all others,
 * sooner. */
#define WATCHER_SLICE_NS (8 * MILLISECOND)
#define SLEEPER_SLICE_NS (100 * MILLISECOND)
#define WATCH_NS (4 * WATCHER_SLICE_NS)
#define ATTENDED_POLL_MS 8
/* A process that was killed while its gate was shut tells nobody, and a shut gate wakes nobody. */
#define LONGEST_POLL_MS 5000
#define MIXED_SLICE_MS 4

/* Sleeps until room was made, or for the slice. False when a signal's handler ends the accept. */
static bool sleep_for_room(struct held_signals *held, uint32_t seen, uint64_t slice_ns,
                           bool restartable)
{
    struct timespec time = {.tv_sec = (time_t)(slice_ns / 1000000000),
                            .tv_nsec = (long)(slice_ns % 1000000000)};
    if (signals_mixed(restartable))
        return signals_poll(held, -1, 0, MIXED_SLICE_MS, restartable) != WAIT_INTERRUPTED;
    if (held->held && signals_ended_it(held, restartable))
        return false;
    atomic_store(&service.segment->room_awaited, 1);
    /* A futex takes no mask: what comes in right here is the same to the program as what comes
     * right before it calls accept. */
    signals_let_in(held);
    errno = 0;
    kernel_call(SYS_futex, &service.segment->room, FUTEX_WAIT, seen, &time, NULL, 0);
    int error = errno;
    if (error == EINTR && signals_would_interrupt(restartable))
        return false;
    if (signals_can_interrupt(restartable))
        signals_hold(held);
    return true;
}

bool accept_wait_broken(int fd)
{
    struct pollfd listener = {.fd = fd, .events = 0};
    struct timespec now = {0, 0};
    return kernel_call(SYS_ppoll, &listener, 1, &now, NULL, 0) > 0;
}

static int fail(int error)
{
    errno = error;
    return -1;
}

/* Whether this thread is the one that watches: it is, or becomes it when the last one is gone. */
static bool keep_watch(bool watches, uint64_t now)
{
    _Atomic uint64_t *until = &service.segment->watch_until_ns;
    uint64_t seen = atomic_load(until);
    bool taken = seen > now && seen - now <= WATCH_NS;
    if (watches) {
        atomic_store(until, now + WATCH_NS);
        return true;
    }
    return !taken && atomic_compare_exchange_strong(until, &seen, now + WATCH_NS);
}

/* Waits for a slot, one slice. True when the wait goes on; otherwise errno is set. */
static bool wait_slice(struct accept_wait *wait, bool *watcher)
{
    uint32_t seen = atomic_load(&service.segment->room);
    uint64_t now = monotonic_ns(), slice;

    if (now >= wait->deadline_ns) {
        errno = EAGAIN;
        return false;
    }
    *watcher = keep_watch(*watcher, now);
    slice = *watcher || admission_needs_attention_here() ? WATCHER_SLICE_NS : SLEEPER_SLICE_NS;
    if (slice > wait->deadline_ns - now)
        slice = wait->deadline_ns - now;
    uint64_t rate_wait = reservation_rate_wait();
    if (rate_wait && rate_wait < slice)
        slice = rate_wait;
    if (*watcher)
        admission_attend();
    if (!service_active() || reservation_room() == RESERVED)
        return true;
    if (sleep_for_room(&wait->held, seen, slice, wait->deadline_ns == ACCEPT_WAIT_FOREVER))
        return true;
    errno = EINTR;
    return false;
}

static void stop_watching(void *argument)
{
    bool *watcher = argument;
    if (*watcher)
        atomic_store(&service.segment->watch_until_ns, 0);
    *watcher = false;
}

/* A blocking accept at the ceiling: until there is a slot. False with errno set when it must end.
 */
static bool wait_in_slices(struct accept_wait *wait, bool *watcher)
{
    while (service_active() && !accept_wait_broken(wait->fd)) {
        libc_test_cancel();
        if (!wait_slice(wait, watcher))
            return false;
        if (admission_lets_in(wait->listener))
            break;
    }
    return true;
}

bool accept_wait_for_slot(struct accept_wait *wait)
{
    bool watcher = false;
    struct libc_cleanup cleanup;
    admission_holds(wait->listener, wait->fd);
    libc_cleanup_push(&cleanup, stop_watching, &watcher);
    bool goes_on = wait_in_slices(wait, &watcher);
    libc_cleanup_pop(&cleanup, true);
    return goes_on;
}

/* A blocking accept with a slot in sight: until there is a client. As accept_wait_for_slot. */
bool accept_wait_for_client(struct accept_wait *wait)
{
    for (;;) {
        uint64_t now = monotonic_ns(), left;
        int timeout = admission_needs_attention() ? ATTENDED_POLL_MS : LONGEST_POLL_MS;
        if (wait->deadline_ns != ACCEPT_WAIT_FOREVER) {
            if (now >= wait->deadline_ns)
                return fail(EAGAIN), false;
            left = (wait->deadline_ns - now + MILLISECOND - 1) / MILLISECOND;
            timeout = left < (uint64_t)timeout ? (int)left : timeout;
        }
        enum wait_result result = signals_poll(&wait->held, wait->fd, POLLIN, timeout,
                                               wait->deadline_ns == ACCEPT_WAIT_FOREVER);
        if (result == WAIT_READY)
            return true;
        if (result == WAIT_FAILED)
            return false;
        if (result == WAIT_INTERRUPTED)
            return fail(EINTR), false;
        if (!service_active())
            return true;
        admission_attend();
        if (admission_pending(wait->listener))
            return true;
    }
}
