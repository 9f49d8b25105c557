/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "accept/accept_wait.h"

#include "accept/admission.h"
#include "accept/connections.h"
#include "base/libc.h"
#include "base/polling.h"
#include "base/real.h"
#include "process/service.h"

#include <errno.h>
#include <poll.h>
#include <sys/syscall.h>

#define MILLISECOND UINT64_C(1000000)
/* One thread of the service looks itself so often, and audits; the futex wakes it, and all others,
 * sooner. */
#define WATCHER_SLICE_NS (8 * MILLISECOND)
#define SLEEPER_SLICE_NS (100 * MILLISECOND)
#define WATCH_NS (4 * WATCHER_SLICE_NS)
#define ATTENDED_POLL_MS 8
/* A process that was killed while its gate was shut tells nobody, and a shut gate wakes nobody. */
#define LONGEST_POLL_MS 5000

bool accept_wait_broken(int fd)
{
    return polling_ready(fd, 0);
}

static int fail(int error)
{
    errno = error;
    return -1;
}

/* Whether this thread is the one that watches: it is, or becomes it when the last one is gone.
 * `watch` is until when, as this thread wrote it; 0 while another watches. Who slept past its time
 * finds another's there, and leaves it. */
static bool keep_watch(uint64_t *watch, uint64_t now)
{
    _Atomic uint64_t *until = &service.segment->watch_until_ns;
    uint64_t seen = atomic_load(until), next = now + WATCH_NS;
    bool anothers = seen != *watch && seen > now && seen - now <= WATCH_NS;
    *watch = !anothers && atomic_compare_exchange_strong(until, &seen, next) ? next : 0;
    return *watch != 0;
}

/* Waits for a slot, one slice. True when the wait goes on; otherwise errno is set. */
static bool wait_slice(struct accept_wait *wait, uint64_t *watch)
{
    uint32_t seen = atomic_load(&service.segment->room);
    uint64_t now = monotonic_ns(), slice;

    if (now >= wait->deadline_ns) {
        errno = EAGAIN;
        return false;
    }
    bool watches = keep_watch(watch, now);
    slice = watches || admission_needs_attention_here() ? WATCHER_SLICE_NS : SLEEPER_SLICE_NS;
    if (slice > wait->deadline_ns - now)
        slice = wait->deadline_ns - now;
    uint64_t rate_wait = reservation_rate_wait();
    if (rate_wait && rate_wait < slice)
        slice = rate_wait;
    if (watches)
        admission_attend();
    if (!service_active() || reservation_room() == RESERVED)
        return true;
    atomic_store(&service.segment->room_awaited, 1);
    if (signals_sleep(&wait->held, &service.segment->room, seen, slice,
                      wait->deadline_ns == ACCEPT_WAIT_FOREVER))
        return true;
    errno = EINTR;
    return false;
}

static void stop_watching(void *argument)
{
    uint64_t *watch = argument, mine = *watch;
    if (mine)
        atomic_compare_exchange_strong(&service.segment->watch_until_ns, &mine, 0);
    *watch = 0;
}

/* A blocking accept at the ceiling: until there is a slot. False with errno set when it must end.
 */
static bool wait_in_slices(struct accept_wait *wait, uint64_t *watch)
{
    while (service_active() && !accept_wait_broken(wait->fd)) {
        libc_test_cancel();
        if (!wait_slice(wait, watch))
            return false;
        if (admission_lets_in(wait->listener))
            break;
    }
    return true;
}

bool accept_wait_for_slot(struct accept_wait *wait)
{
    uint64_t watch = 0;
    struct libc_cleanup cleanup;
    admission_holds(wait->listener, wait->fd);
    libc_cleanup_push(&cleanup, stop_watching, &watch);
    bool goes_on = wait_in_slices(wait, &watch);
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
