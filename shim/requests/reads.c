/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "requests/reads.h"

#include "base/libc.h"
#include "base/real.h"
#include "output/watches.h"
#include "process/signals.h"
#include "requests/admit.h"
#include "requests/answers.h"
#include "requests/delay.h"
#include "requests/in_flight.h"
#include "requests/line.h"
#include "requests/look_ahead.h"
#include "requests/places.h"
#include "requests/receiving.h"
#include "requests/refusals.h"
#include "requests/timeouts.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>

#define NEVER UINT64_MAX
#define READ_AGAIN (-2) /* what was read was refused */
#define SLICE_MS 200
#define LONGEST_SLEEP_NS (SLICE_MS * UINT64_C(1000000))

/* --- what was read --- */

/* What a piece of input came to. */
struct input {
    unsigned begun;     /* requests whose head became whole in it, and that are to have a place */
    unsigned uncounted; /* those that are exempt, or wait on purpose */
    unsigned ended;     /* whose end came in it, those that nobody counts, too */
    bool behind; /* it began with the rest of a request that the program has the beginning of */
    bool inside; /* it began inside a transaction */
    bool leaves;
};

static void show(struct request_stream *stream, const struct limits *limits, const char *bytes,
                 size_t length, struct input *input)
{
    while (length && !input->leaves) {
        enum request_step step;
        bool had_head = !request_between(stream) && stream->flags & REQUEST_HEAD_WHOLE;
        size_t taken = request_ask(stream, limits, bytes, length, &step);
        bytes += taken;
        length -= taken;
        input->leaves = step == REQUEST_LEAVES;
        input->ended += step == REQUEST_ENDS;
        if (had_head || !(stream->flags & REQUEST_HEAD_WHOLE) || stream->flags & REQUEST_SILENT)
            continue;
        if (stream->flags & (REQUEST_EXEMPT | REQUEST_WAITS))
            input->uncounted++;
        else
            input->begun++;
    }
}

static struct input show_all(struct request *request, const struct msghdr *message, size_t length)
{
    struct input input = {.behind = !request_between(&request->stream),
                          .inside = request->stream.flags & SESSION_TRANSACTION};
    struct limits room;
    const struct limits *limits = look_ahead_limits(&room);
    for (size_t i = 0; length; i++) {
        const struct iovec *part = &message->msg_iov[i];
        size_t bytes = part->iov_len < length ? part->iov_len : length;
        show(&request->stream, limits, part->iov_base, bytes, &input);
        length -= bytes;
    }
    return input;
}

/* Where requests begin was not known, since nobody saw what came before. What follows an answer,
 * and is whole requests of a protocol that is recognised, tells. */
static bool finds_its_way(struct request *request, const struct msghdr *message, size_t length,
                          struct input *input)
{
    struct request tried = {.phase = PHASE_REST};
    if (!request->spoken)
        return false;
    tried.stream.flags = SESSION_TRANSACTION;
    *input = show_all(&tried, message, length);
    if (input->leaves || input->begun == 0 || !request_between(&tried.stream))
        return false;
    input->inside = request_may_be_inside(&tried.stream);
    if (!input->inside)
        tried.stream.flags &= ~(uint32_t)SESSION_TRANSACTION;
    request->stream = tried.stream;
    request->middle = false;
    return true;
}

/* --- waiting in a read that blocks --- */

struct patience {
    uint64_t deadline_ns; /* NEVER without SO_RCVTIMEO */
    struct held_signals held;
};

static void begin_waiting(struct patience *patience, int fd)
{
    struct timeval timeout = {0};
    socklen_t length = sizeof timeout;
    patience->deadline_ns = NEVER;
    patience->held.held = false;
    if (kernel_call(SYS_getsockopt, fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, &length) == 0 &&
        (timeout.tv_sec || timeout.tv_usec))
        patience->deadline_ns = monotonic_ns() + (uint64_t)timeout.tv_sec * 1000000000 +
                                (uint64_t)timeout.tv_usec * 1000;
}

struct waiter {
    struct request *request;
    struct patience *patience;
};

static void leave_at_cancellation(void *argument)
{
    const struct waiter *waiter = argument;
    line_leave(waiter->request);
    waiter->request->in_hand = waiter->request->firm = false;
    signals_let_in(&waiter->patience->held);
}

/* One slice of a wait for `fd`; -1: for its time. socket(7): a wait with a time-out is not
 * restarted. */
static enum wait_result wait_slice(struct request *request, struct patience *patience, int fd,
                                   int most_ms)
{
    struct libc_cleanup cleanup;
    struct waiter waiter = {request, patience};
    uint64_t now = monotonic_ns();
    if (now >= patience->deadline_ns)
        return WAIT_TIMED_OUT;
    uint64_t left_ms = (patience->deadline_ns - now + 999999) / 1000000;
    int timeout = left_ms < (uint64_t)most_ms ? (int)left_ms : most_ms;
    libc_cleanup_push(&cleanup, leave_at_cancellation, &waiter);
    enum wait_result result =
        signals_poll(&patience->held, fd, POLLIN, timeout, patience->deadline_ns == NEVER);
    libc_cleanup_pop(&cleanup, false);
    return result;
}

/* The first in line looks for room that nobody told of; the others are woken. */
static uint64_t slice_ns(const struct request *request, uint64_t left_ns)
{
    int64_t next = line_is_first(request) ? line_next_look() : -1;
    uint64_t slice = next < 0 ? LONGEST_SLEEP_NS : (uint64_t)next;
    return slice < left_ns ? slice : left_ns;
}

/* One slice in line; whether the wait goes on, and otherwise errno. */
static bool sleep_in_line(struct request *request, struct patience *patience)
{
    _Atomic uint32_t *turn = &service.segment->conn[request_slot(request)].turn;
    uint32_t seen = atomic_load(turn);
    uint64_t now = monotonic_ns();
    if (request_phase(request) != PHASE_WAITING)
        return true;
    if (now >= patience->deadline_ns) {
        errno = EAGAIN;
        return false;
    }
    bool restartable = patience->deadline_ns == NEVER;
    if (signals_sleep(&patience->held, turn, seen, slice_ns(request, patience->deadline_ns - now),
                      restartable))
        return true;
    errno = EINTR;
    return false;
}

/* In line, until its turn has come or it was refused. False with errno set when the read must end.
 * Input that was read already (`in_hand`) is not given up for a signal: the kernel would have
 * returned it. A thread that is cancelled has no use for it. */
static bool wait_for_turn(struct request *request, struct patience *patience, bool in_hand)
{
    struct libc_cleanup cleanup;
    struct waiter waiter = {request, patience};
    bool goes_on = true;
    libc_cleanup_push(&cleanup, leave_at_cancellation, &waiter);
    while (goes_on && request_phase(request) == PHASE_WAITING && service_active()) {
        libc_test_cancel();
        goes_on = sleep_in_line(request, patience) || in_hand;
        if (request_phase(request) == PHASE_WAITING)
            line_serve();
    }
    libc_cleanup_pop(&cleanup, false);
    if (goes_on)
        return true;
    int error = errno;
    line_leave(request);
    errno = error;
    return request_phase(request) != PHASE_REST; /* its turn came just now */
}

/* After how long a read that waits for input looks around; -1: the kernel may wait. */
static int look_again_ms(const struct request *request)
{
    int slice = timeouts_slice_ms(request);
    if (!admit_carefully(request))
        return slice;
    return slice >= 0 && slice < SLICE_MS ? slice : SLICE_MS;
}

/* Until there is input that may be read. ADMIT_WAIT with errno set: the read must end. */
static enum admit wait_for_input(int fd, struct request *request, struct patience *patience,
                                 size_t *most)
{
    for (;;) {
        enum request_phase phase = request_phase(request);
        /* It was held in a wait for readiness, or a handler left the read that waited. */
        if (phase == PHASE_WAITING && service_active()) {
            if (!wait_for_turn(request, patience, false))
                return ADMIT_WAIT;
            continue;
        }
        bool rests = phase == PHASE_REST && !request->middle && !request->was_reset;
        int slice = rests ? look_again_ms(request) : -1;
        timeouts_attend();
        if (slice < 0 || request->refused_for_good)
            return request->refused_for_good ? ADMIT_END : ADMIT_GO;
        enum wait_result result = wait_slice(request, patience, fd, slice);
        if (result == WAIT_INTERRUPTED || result == WAIT_FAILED) {
            errno = result == WAIT_INTERRUPTED ? EINTR : errno;
            return ADMIT_WAIT;
        }
        if (result == WAIT_TIMED_OUT && monotonic_ns() >= patience->deadline_ns) {
            errno = EAGAIN;
            return ADMIT_WAIT;
        }
        if (result == WAIT_TIMED_OUT)
            continue;
        enum admit admit = admit_input(fd, request, true, most);
        if (admit == ADMIT_GO || admit == ADMIT_END)
            return admit;
        if (admit == ADMIT_WAIT && !wait_for_turn(request, patience, false))
            return ADMIT_WAIT;
    }
}

static enum admit admit_blocking(int fd, struct request *request, size_t *most)
{
    struct patience patience;
    *most = SIZE_MAX;
    if (request->refused_for_good)
        return ADMIT_END;
    if (request_phase(request) != PHASE_WAITING &&
        (request_phase(request) != PHASE_REST || look_again_ms(request) < 0))
        return ADMIT_GO;
    begin_waiting(&patience, fd);
    enum admit admit = wait_for_input(fd, request, &patience, most);
    signals_let_in(&patience.held);
    return admit;
}

/* --- after a read --- */

/* It is in the program's hands, or as good as that. */
static void inside(struct request *request, uint64_t now)
{
    service_count(COUNTER_REQUESTS_BEGUN, 1);
    request->since_ns = 0;
    if (request->asked_ns == 0 || request->asked_ns > now)
        return;
    delay_begins(request->asked_ns, now);
    histogram_add(&service_self()->request_wait, now - request->asked_ns);
}

/* One whole request and nothing else: another could not be taken back from the program. */
static bool refusable_in_hand(const struct request *request, const struct input *input)
{
    return input->begun == 1 && input->ended == 1 && !input->behind && !input->inside &&
           request_between(&request->stream) && !(request->stream.flags & REQUEST_OPENS);
}

/* Whether what was read is refused, and the program is to know nothing of it. */
static bool refused_in_hand(int fd, struct request *request, const struct input *input,
                            enum refusal_reason reason)
{
    enum when_full how = (enum when_full)segment_limit(service.segment, LIMIT_WHEN_FULL);
    if (!refusable_in_hand(request, input))
        return false;
    if (refuse_in_hand(fd, request, how, reason) == REFUSAL_NOT)
        return false;
    request_cancels(request, PHASE_REST);
    return true;
}

/* In line with what was read already, until there is a place for it; false when it was refused. */
static bool line_up_in_hand(int fd, struct request *request, const struct input *input)
{
    struct patience patience = {.deadline_ns = NEVER};
    bool refused = false;
    service_count(COUNTER_REQUESTS_HELD, 1);
    request->in_hand = true;
    request->firm = !refusable_in_hand(request, input);
    for (;;) {
        line_join(request, fd, true);
        line_serve();
        patience.held.held = false;
        wait_for_turn(request, &patience, true);
        signals_let_in(&patience.held);
        if (!atomic_exchange(&request->late, false))
            break;
        /* Whoever cannot be told so waits on. */
        refused = refused_in_hand(fd, request, input, REFUSED_LATE);
        if (refused)
            break;
        request->firm = true;
    }
    request->in_hand = request->firm = false;
    return !refused;
}

/* A thread that blocks has read a request without having a place for it. Whether it may go on with
 * it. */
static bool place_in_hand(int fd, struct request *request, const struct input *input)
{
    bool above = input->inside;
    if ((above || !line_stands()) && request_takes(request, above)) {
        request_moves(request, PHASE_REST, PHASE_GRANTED);
    } else {
        bool holds = segment_limit(service.segment, LIMIT_WHEN_FULL) == WHEN_FULL_HOLD;
        if (!holds && !admit_lets_wait(request) && in_flight_full_for_certain() &&
            refused_in_hand(fd, request, input, REFUSED_FULL)) {
            delay_turns_away(monotonic_ns());
            return false;
        }
        if (!line_up_in_hand(fd, request, input))
            return false;
    }
    if (request_phase(request) == PHASE_GRANTED)
        request_begins(request, monotonic_ns());
    return true;
}

/* Takes note of what was read. False when it was refused, and the program is to know nothing of it.
 */
static bool took(int fd, struct request *request, const struct msghdr *message, size_t length,
                 uint64_t arrived_ns, bool blocking)
{
    uint64_t now = monotonic_ns();
    atomic_fetch_add_explicit(&request->reads, 1, memory_order_relaxed);
    struct input input;
    if (!request->middle) {
        input = show_all(request, message, length);
    } else if (!finds_its_way(request, message, length, &input)) {
        request_cancels(request, PHASE_REST);
        return true;
    }
    if (input.leaves) {
        request_becomes_stream(request);
        return true;
    }
    timeouts_read(request, input.begun + input.uncounted > 0);
    if (input.begun + input.uncounted > 1)
        request->pipelines = true;
    if (input.begun == 0) {
        if (input.uncounted && request_phase(request) != PHASE_UNCOUNTED &&
            request->stream.flags & REQUEST_EXEMPT)
            service_count(COUNTER_REQUESTS_EXEMPT, 1);
        request_cancels(request, input.uncounted ? PHASE_UNCOUNTED : PHASE_REST);
        if (input.uncounted)
            request_moves(request, PHASE_REST, PHASE_UNCOUNTED);
        return true;
    }
    if (!blocking)
        answers_next(request);
    request_moves(request, PHASE_KEPT, PHASE_GRANTED);
    if (request_phase(request) == PHASE_REST || !request->judged) {
        request->asked_ns = arrived_ns ? arrived_ns : request->asked_ns;
        uint64_t asked = request->asked_ns ? request->asked_ns : now;
        if (!request->judged && delay_sheds(fd, asked, now, line_length()) &&
            refused_in_hand(fd, request, &input, REFUSED_LATE))
            return false;
        request->judged = true;
    }
    if (request_phase(request) == PHASE_REST && blocking && !place_in_hand(fd, request, &input))
        return false;
    if (request_phase(request) == PHASE_REST && request_takes(request, true)) {
        request_moves(request, PHASE_REST, PHASE_GRANTED);
        request_begins(request, now);
    }
    if (request_moves(request, PHASE_GRANTED, PHASE_INSIDE))
        inside(request, now);
    return true;
}

/* --- the read itself --- */

static ssize_t read_blocking(int fd, struct request *request, struct msghdr *message, int flags)
{
    answers_end(request);
    for (;;) {
        size_t most;
        uint64_t arrived_ns;
        enum admit admit = admit_blocking(fd, request, &most);
        if (admit == ADMIT_END && request->refused_for_good)
            return 0;
        if (admit == ADMIT_WAIT)
            return -1;
        ssize_t result = receiving_most(fd, request, message, flags, most, &arrived_ns);
        if (result <= 0)
            request_cancels(request, PHASE_REST);
        if (result <= 0 || flags & MSG_PEEK)
            return result;
        if ((size_t)result == most) /* what came behind it makes no other edge */
            watches_report_again(request_flow(request));
        if (took(fd, request, message, (size_t)result, arrived_ns, true))
            return result;
    }
}

/* `nothing`: there was none that the program is to have. */
static ssize_t read_let_in(int fd, struct request *request, struct msghdr *message, int flags,
                           bool *nothing)
{
    size_t most;
    uint64_t arrived_ns;
    enum admit admit = admit_input(fd, request, false, &most);
    if (admit == ADMIT_END && request->refused_for_good)
        return 0;
    if (admit == ADMIT_WAIT || admit == ADMIT_AGAIN) {
        errno = EAGAIN;
        return -1;
    }
    ssize_t result = receiving_most(fd, request, message, flags, most, &arrived_ns);
    *nothing = result <= 0;
    if (result <= 0 || flags & MSG_PEEK)
        return result;
    if ((size_t)result == most) /* what came behind it makes no other edge */
        watches_report_again(request_flow(request));
    return took(fd, request, message, (size_t)result, arrived_ns, false) ? result : READ_AGAIN;
}

/*
 * Several threads may be told of the same input, where they wait in one set without EPOLLONESHOT.
 * One that finds nothing, since another has read it and not noted so yet, must not give the place
 * back; nor may that one's request end while this one may read the next.
 */
static ssize_t read_at_once(int fd, struct request *request, struct msghdr *message, int flags)
{
    for (;;) {
        bool nothing = false;
        atomic_fetch_add(&request->readers, 1);
        answers_end_reading(request);
        ssize_t result = read_let_in(fd, request, message, flags, &nothing);
        int saved = errno;
        bool alone = atomic_fetch_sub(&request->readers, 1) == 1;
        if (nothing && alone)
            request_cancels(request, PHASE_REST);
        if (alone)
            answers_end(request);
        errno = saved;
        if (result != READ_AGAIN)
            return result;
    }
}

ssize_t reads_message(int fd, struct flow *flow, struct msghdr *message, int flags)
{
    struct request *request = request_of(flow);
    if (!request || request_phase(request) == PHASE_STREAM || flags & (MSG_OOB | MSG_ERRQUEUE))
        return receiving_unseen(fd, request, message, flags);
    bool blocking =
        !(flags & MSG_DONTWAIT) && atomic_load_explicit(&flow->blocks, memory_order_relaxed);
    return blocking ? read_blocking(fd, request, message, flags)
                    : read_at_once(fd, request, message, flags);
}

void reads_unseen(struct flow *flow)
{
    struct request *request = request_of(flow);
    if (request)
        request_becomes_stream(request);
}
