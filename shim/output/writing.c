/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "output/writing.h"

#include "base/libc.h"
#include "base/memory.h"
#include "base/polling.h"
#include "base/real.h"
#include "base/sandbox.h"
#include "output/backstop.h"
#include "output/credit.h"
#include "output/metering.h"
#include "output/pacing.h"
#include "output/pausing.h"
#include "output/sojourn.h"
#include "output/stalls.h"
#include "process/signals.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>

#define NEVER UINT64_MAX
#define VECTOR_ON_STACK 16
#define WAIT_MS 8 /* a turn of waiting: room that another process made, a stall, a new limit */
#define WAIT_LONG_MS 50
#define PIECE_LEAST 4096
#define MOST_AT_ONCE 0x7ffff000 /* what the kernel writes in one call: MAX_RW_COUNT */

int writing_late_error(struct flow *flow)
{
    if (__builtin_expect(atomic_load_explicit(&flow->late_error, memory_order_relaxed) == 0, 1))
        return 0;
    return atomic_exchange(&flow->late_error, 0);
}

/* --- what a write came to --- */

/* Some bytes of a vector; the vector is NULL where they are a file's. */
struct written {
    const struct iovec *vector;
    size_t skip;
};

/* `rest` more of the same call were not taken. */
static void took(struct flow *flow, struct written what, size_t bytes, size_t rest)
{
    uint32_t mode = flows_mode_seen();
    if (mode & FLOWS_TIME)
        sojourn_wrote(flow);
    if (__builtin_expect(mode & FLOWS_REQUESTS, 0))
        flow_requests->wrote(flow, what.vector, what.skip, bytes, rest);
    /* Threads that write at once may lose a count: it only feeds a ratio and a rate. */
    atomic_store_explicit(&flow->produced,
                          atomic_load_explicit(&flow->produced, memory_order_relaxed) + bytes,
                          memory_order_relaxed);
}

static void went_whole(struct flow *flow)
{
    if (flow_untroubled(flow))
        return;
    pausing_wrote_all(flow);
    if (flow_signs(flow) & (FLOW_STANDING | FLOW_STARVED))
        flow_sign(flow, 0, FLOW_STANDING | FLOW_STARVED);
}

/* The kernel left `rest` bytes. True when there is more room now. */
static bool fell_short(int fd, struct flow *flow, size_t rest)
{
    int saved = errno;
    metering_overflowed(flow, rest);
    pacing_fell_short(flow);
    bool more = credit_grow(fd, flow);
    if (!more && writing_carefully(flow))
        flow_sign(flow, FLOW_STANDING, 0);
    credit_measure();
    errno = saved;
    return more;
}

void writing_passes(int fd, struct flow *flow)
{
    if (!flow_untroubled(flow)) {
        pausing_writes(flow);
        if (flow_signs(flow) & FLOW_UNGUARDED)
            backstop_set(fd, flow);
    }
    if (writing_carefully(flow) && flows_mode_seen() & FLOWS_PACE)
        pacing_writes(fd, flow);
    if (__builtin_expect(flows_mode_seen() & FLOWS_REQUESTS, 0))
        flow_requests->writes(flow);
}

static bool has_room(int fd)
{
    return polling_ready(fd, POLLOUT);
}

void writing_passed(int fd, struct flow *flow, const struct iovec *vector, size_t wanted,
                    ssize_t result)
{
    bool certain = vector != NULL;
    if (result > 0)
        took(flow, (struct written){vector, 0}, (size_t)result,
             certain ? wanted - (size_t)result : 0);
    if (result >= 0 && (size_t)result >= wanted) {
        went_whole(flow);
        return;
    }
    if (result < 0 && errno != EAGAIN) {
        if (errno == ETIMEDOUT)
            backstop_ended(fd, flow);
        return;
    }
    int saved = errno;
    if (result >= 0 && !certain && (!writing_carefully(flow) || has_room(fd))) {
        went_whole(flow);
    } else {
        fell_short(fd, flow, wanted - (result > 0 ? (size_t)result : 0));
        pausing_fell_short(flow);
    }
    errno = saved;
}

/* --- waiting for room, as the kernel would --- */

struct patience {
    uint64_t deadline_ns; /* NEVER without SO_SNDTIMEO */
    bool restartable;
    struct held_signals held;
};

static struct patience patience_of(int fd)
{
    struct timeval timeout = {0};
    socklen_t length = sizeof timeout;
    struct patience patience = {.deadline_ns = NEVER, .restartable = true};
    if (kernel_call(SYS_getsockopt, fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, &length) == 0 &&
        (timeout.tv_sec || timeout.tv_usec)) {
        patience.deadline_ns = monotonic_ns() + (uint64_t)timeout.tv_sec * 1000000000 +
                               (uint64_t)timeout.tv_usec * 1000;
        patience.restartable = false; /* socket(7): not restarted when a timeout is set */
    }
    return patience;
}

static bool is_blocking(int fd, int flags)
{
    int saved = errno;
    bool blocking =
        !(flags & MSG_DONTWAIT) && !((int)kernel_call(SYS_fcntl, fd, F_GETFL) & O_NONBLOCK);
    errno = saved;
    return blocking;
}

/* One turn. False with errno set when the write must end. */
static bool wait_for_room(int fd, struct flow *flow, struct patience *patience, bool partly)
{
    uint64_t now = monotonic_ns();
    int timeout = flow_signs(flow) & FLOW_STARVED ? WAIT_MS : WAIT_LONG_MS;
    int64_t slice = credit_slice();
    if (slice > 0 && slice / 1000000 < timeout)
        timeout = (int)(slice / 1000000) + 1;
    if (now >= patience->deadline_ns) {
        errno = EAGAIN;
        return false;
    }
    uint64_t left_ms = (patience->deadline_ns - now + 999999) / 1000000;
    timeout = left_ms < (uint64_t)timeout ? (int)left_ms : timeout;
    /* What was taken is reported when a signal comes, even if its handler restarts calls. */
    struct libc_cleanup cleanup;
    libc_cleanup_push(&cleanup, signals_let_in_at_end, &patience->held);
    enum wait_result result =
        signals_poll(&patience->held, fd, POLLOUT, timeout, patience->restartable && !partly);
    libc_cleanup_pop(&cleanup, false);
    if (result == WAIT_INTERRUPTED)
        errno = EINTR;
    if (result == WAIT_INTERRUPTED || result == WAIT_FAILED)
        return false;
    stalls_check(fd, flow);
    stalls_attend(); /* the other connections' output may stand, too */
    return true;
}

/* --- messages --- */

static size_t length_of(const struct iovec *vector, size_t count)
{
    size_t length = 0;
    for (size_t i = 0; i < count; i++) {
        if (vector[i].iov_len > MOST_AT_ONCE - length)
            return MOST_AT_ONCE;
        length += vector[i].iov_len;
    }
    return length;
}

/* What is left of the caller's vector. */
struct rest {
    const struct iovec *next;
    size_t count;
    size_t skip; /* bytes of the first that were taken */
};

static void advance(struct rest *rest, size_t bytes)
{
    rest->skip += bytes;
    while (rest->count && rest->skip >= rest->next->iov_len) {
        rest->skip -= rest->next->iov_len;
        rest->next++;
        rest->count--;
    }
}

/* Sends what is left, or, for want of room to copy the vector, a part of it: `offered` bytes. */
static ssize_t send_rest(int fd, const struct rest *rest, int flags, size_t *offered)
{
    struct msghdr message = {.msg_iov = (struct iovec *)rest->next, .msg_iovlen = rest->count};
    struct iovec shortened[VECTOR_ON_STACK];
    if (rest->skip) {
        /* The first was taken in part: so many as fit here are sent, the others in the next turn.
         */
        size_t count = rest->count < VECTOR_ON_STACK ? rest->count : VECTOR_ON_STACK;
        memcpy(shortened, rest->next, count * sizeof *shortened);
        shortened[0].iov_base = (char *)shortened[0].iov_base + rest->skip;
        shortened[0].iov_len -= rest->skip;
        message.msg_iov = shortened;
        message.msg_iovlen = count;
        if (count < rest->count)
            flags = (flags | MSG_MORE) & ~MSG_EOR; /* the record ends with the last */
    }
    *offered = length_of(message.msg_iov, message.msg_iovlen);
    return REAL(sendmsg)(fd, &message, flags);
}

/* What a call that took `done` bytes returns when it ends with `error`. */
static ssize_t end(struct flow *flow, size_t done, int error)
{
    if (done == 0) {
        errno = error;
        return -1;
    }
    /* The kernel would have kept the error for the next call; here it was used up. */
    if (error && error != EAGAIN && error != EINTR && error != EPIPE)
        atomic_store(&flow->late_error, error);
    return (ssize_t)done;
}

static ssize_t failed(int fd, struct flow *flow, size_t done)
{
    if (errno == ETIMEDOUT)
        backstop_ended(fd, flow);
    return end(flow, done, errno);
}

static ssize_t write_vector(int fd, struct flow *flow, const struct iovec *vector, int count,
                            int flags, struct patience *patience)
{
    struct rest rest = {.next = vector, .count = (size_t)count};
    size_t total = length_of(vector, (size_t)count), done = 0;
    bool asked = false;
    int late = writing_late_error(flow);

    if (late)
        return end(flow, 0, late);
    writing_passes(fd, flow);
    for (;;) {
        size_t offered;
        ssize_t result =
            send_rest(fd, &rest, flags | MSG_DONTWAIT | (done ? MSG_NOSIGNAL : 0), &offered);
        if (result > 0) {
            done += (size_t)result;
            took(flow, (struct written){rest.next, rest.skip}, (size_t)result, total - done);
            advance(&rest, (size_t)result);
        }
        if (done == total && result >= 0) {
            went_whole(flow);
            return (ssize_t)done;
        }
        if (result < 0 && errno != EAGAIN)
            return failed(fd, flow, done);
        if (result == (ssize_t)offered || fell_short(fd, flow, total - done))
            continue;
        if (!asked && !is_blocking(fd, flags)) {
            pausing_fell_short(flow);
            return end(flow, done, EAGAIN);
        }
        if (!asked)
            *patience = patience_of(fd);
        asked = true;
        if (!wait_for_room(fd, flow, patience, done > 0))
            return end(flow, done, errno);
        if (!sandbox_serves(SANDBOX_BYTES)) /* entered by another thread meanwhile */
            return end(flow, done, EINTR);
        if (!service_active())
            return done ? (ssize_t)done : send_rest(fd, &rest, flags, &offered);
    }
}

ssize_t writing_vector(int fd, struct flow *flow, const struct iovec *vector, int count, int flags)
{
    struct patience patience;
    patience.held.held = false;
    ssize_t result = write_vector(fd, flow, vector, count, flags, &patience);
    signals_let_in(&patience.held);
    return result;
}

size_t writing_length(const struct msghdr *message)
{
    size_t count = libc_message_length(message->msg_iovlen);
    return count <= IOV_MAX ? length_of(message->msg_iov, count) : 0;
}

ssize_t writing_message(int fd, struct flow *flow, const struct msghdr *message, int flags)
{
    size_t count = libc_message_length(message->msg_iovlen);
    if (!memory_holds(MEMORY_VECTOR, message->msg_iov, count, sizeof *message->msg_iov))
        return REAL(sendmsg)(fd, message, flags);
    /* What cannot be cut in two: descriptors and other control data, a counted completion, urgency.
     */
    bool whole = libc_message_length(message->msg_controllen) || message->msg_namelen ||
                 count > IOV_MAX || flags & (MSG_ZEROCOPY | MSG_OOB | MSG_FASTOPEN);
    if (!whole && writing_carefully(flow))
        return writing_vector(fd, flow, message->msg_iov, (int)count, flags);
    int late = writing_late_error(flow);
    if (late)
        return end(flow, 0, late);
    size_t total = writing_length(message);
    writing_passes(fd, flow);
    bool lent = whole && credit_lend(fd, flow, total);
    ssize_t result = REAL(sendmsg)(fd, message, flags);
    if (lent)
        credit_lent_back(fd, flow);
    writing_passed(fd, flow, message->msg_iov, total, result);
    return result;
}

/* --- files --- */

/* How much can be sent without the call blocking where nobody looks. */
static size_t piece(int fd, const struct flow *flow)
{
    uint64_t grant = (uint64_t)atomic_load(&flow_conn(flow)->grant) * 1024,
             queued = flow_queued(fd);
    if (grant == 0)
        grant = credit_most(flow) * 1024;
    uint64_t room = grant > queued ? (grant - queued) / 2 : 0;
    return room > PIECE_LEAST ? (size_t)room : PIECE_LEAST;
}

static ssize_t write_pieces(int fd, struct flow *flow, size_t count,
                            ssize_t (*send)(size_t count, void *context), void *context,
                            struct patience *patience)
{
    size_t done = 0;
    bool asked = false;
    int late = writing_late_error(flow);

    if (late)
        return end(flow, 0, late);
    writing_passes(fd, flow);
    if (!writing_carefully(flow) || flow_signs(flow) & FLOW_NONBLOCKING || !is_blocking(fd, 0)) {
        ssize_t result = send(count, context);
        writing_passed(fd, flow, NULL, count, result);
        return result;
    }
    while (done < count && service_active()) {
        if (!has_room(fd) && !fell_short(fd, flow, count - done)) {
            if (!asked)
                *patience = patience_of(fd);
            asked = true;
            if (!wait_for_room(fd, flow, patience, done > 0))
                return end(flow, done, errno);
            continue;
        }
        size_t most = piece(fd, flow), left = count - done;
        ssize_t result = send(left < most ? left : most, context);
        if (result > 0) {
            took(flow, (struct written){NULL, 0}, (size_t)result, 0);
            done += (size_t)result;
        }
        if (result < 0)
            return failed(fd, flow, done);
        if (result == 0)
            break; /* the file ended */
    }
    went_whole(flow);
    return (ssize_t)done;
}

ssize_t writing_pieces(int fd, struct flow *flow, size_t count,
                       ssize_t (*send)(size_t count, void *context), void *context)
{
    struct patience patience;
    patience.held.held = false;
    ssize_t result = write_pieces(fd, flow, count, send, context, &patience);
    signals_let_in(&patience.held);
    return result;
}
