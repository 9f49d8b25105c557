/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "requests/refusals.h"

#include "accept/shedding.h"
#include "base/real.h"
#include "base/tcp_state.h"
#include "base/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

static void count(int fd, struct request *request, enum when_full how, enum refusal_reason reason)
{
    static const struct {
        enum counter counter;
        enum event_kind event;
    } by[] = {
        [REFUSED_LATE] = {COUNTER_REQUESTS_SHED_LATE, EVENT_REQUEST_SHED_LATE},
        [REFUSED_FULL] = {COUNTER_REQUESTS_SHED_BUSY, EVENT_REQUEST_SHED_BUSY},
    };
    request->since_ns = request_order(request);
    trace(TRACE_ACCEPT, "refuse-request", fd, "late", reason == REFUSED_LATE, "reset",
          how == WHEN_FULL_RESET);
    if (how == WHEN_FULL_RESET && reason == REFUSED_FULL)
        service_count(COUNTER_REQUESTS_SHED_RESET, 1);
    else
        service_count(by[reason].counter, 1);
    flows_tell(fd, by[reason].event, 0);
}

/* The program, whose descriptor it stays, then reads ECONNRESET, once: nobody else may ask for it.
 * AF_UNIX has no reset; both sides see the end, though the request is still there to be read. */
static enum refusal reset(int fd, struct request *request)
{
    request->was_reset = request_flow(request)->family != AF_UNIX && tcp_dissolve(fd);
    if (!request->was_reset) {
        request->refused_for_good = true;
        kernel_call(SYS_shutdown, fd, SHUT_RDWR);
    }
    return REFUSAL_CLOSES;
}

/* Behind an answer that closes: what is unread, or still to come, must not become a reset that
 * would destroy the answer (RFC 9112, 9.6). The program closes its descriptor; another one lingers.
 */
static enum refusal close_behind(int fd, struct request *request)
{
    request->refused_for_good = true;
    kernel_call(SYS_shutdown, fd, SHUT_WR);
    int other = (int)kernel_call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 0);
    if (other >= 0)
        shedding_linger(other);
    return REFUSAL_CLOSES;
}

/* What waits to be sent before it may have filled the send buffer, or not have got there at all:
 * then nothing is said. After half of an answer nothing else can be. */
static enum refusal say(int fd, struct request *request, const char *text, size_t length,
                        bool closes)
{
    if (length == 0 || request_output_pending(request))
        return REFUSAL_NOT;
    long sent = kernel_call(SYS_sendto, fd, text, length, MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0);
    if (sent <= 0)
        return REFUSAL_NOT;
    return closes || (size_t)sent < length ? close_behind(fd, request) : REFUSAL_GIVEN;
}

static enum refusal say_refusal(int fd, struct request *request,
                                const struct request_stream *stream, bool closes)
{
    struct limits limits;
    char text[REQUEST_REFUSAL_MAX];
    segment_read_limits(service.segment, &limits);
    return say(fd, request, text, request_refuse(stream, &limits, closes, text, sizeof text),
               closes);
}

/* No more than was looked at. AF_UNIX has no way to drop what it does not copy. */
static void drop(int fd, size_t length)
{
    char unused[LOOK_AHEAD_MAX];
    while (length) {
        size_t piece = length < sizeof unused ? length : sizeof unused;
        if (kernel_call(SYS_recvfrom, fd, unused, piece, MSG_DONTWAIT, NULL, NULL) != (long)piece)
            return;
        length -= piece;
    }
}

#define TRANSACTION_TEXT 4096

/* The refusals of all requests of a transaction, one behind another; 0 unless each can be refused,
 * and there is room for them. */
static size_t compose_all(struct request_stream *stream, const char *bytes, size_t length,
                          char *text)
{
    struct limits limits;
    size_t said = 0;
    segment_read_limits(service.segment, &limits);
    while (length && TRANSACTION_TEXT - said >= REQUEST_REFUSAL_MAX) {
        enum request_step step;
        size_t taken = request_ask(stream, &limits, bytes, length, &step);
        size_t one = request_refuse(stream, &limits, false, text + said, REQUEST_REFUSAL_MAX);
        if (one == 0 || step != REQUEST_ENDS)
            return 0;
        request_refused(stream);
        said += one;
        bytes += taken;
        length -= taken;
    }
    return length ? 0 : said;
}

/* Refused alone, the request that opens a transaction would leave those behind it to run outside of
 * one: all of it is refused, or none. */
static enum refusal answer_transaction(int fd, struct request *request, size_t length)
{
    char bytes[LOOK_AHEAD_MAX], text[TRANSACTION_TEXT];
    struct request_stream stream = request->stream;
    if (length == 0 || kernel_call(SYS_recvfrom, fd, bytes, length, MSG_PEEK | MSG_DONTWAIT, NULL,
                                   NULL) != (long)length)
        return REFUSAL_NOT;
    size_t said = compose_all(&stream, bytes, length, text);
    enum refusal refusal = say(fd, request, text, said, false);
    if (refusal != REFUSAL_GIVEN)
        return refusal;
    drop(fd, length);
    request->stream = stream;
    return REFUSAL_GIVEN;
}

/* Whether the program has nothing of the request, and all of it is there, or need not be. */
static bool can_be_taken(int fd, const struct request *request, struct ahead *ahead)
{
    if (!request_between(&request->stream))
        return false;
    if (ahead->ends_at || request_refused_early(&ahead->stream))
        return true;
    look_ahead_further(fd, ahead);
    return ahead->ends_at > 0;
}

static enum refusal answer(int fd, struct request *request, struct ahead *ahead)
{
    if (ahead->stream.flags & REQUEST_OPENS)
        return request_between(&request->stream)
                   ? answer_transaction(fd, request, ahead->transaction)
                   : REFUSAL_NOT;
    bool closes = !can_be_taken(fd, request, ahead) || ahead->stream.flags & REQUEST_CLOSES;
    bool followed = ahead->ends_at && (size_t)ahead->there > ahead->ends_at;
    if (followed && ahead->stream.flags & REQUEST_LEADS)
        return REFUSAL_NOT;
    enum refusal refusal = say_refusal(fd, request, &ahead->stream, closes);
    if (refusal != REFUSAL_GIVEN)
        return refusal;
    drop(fd, ahead->ends_at ? ahead->ends_at : (size_t)ahead->there);
    request->stream = ahead->stream;
    request->passes_over = ahead->ends_at == 0;
    request_refused(&request->stream);
    return REFUSAL_GIVEN;
}

/* In pieces of what is looked at, so that nothing behind its end is taken. */
bool refusals_pass_over(int fd, struct request *request)
{
    int saved = errno;
    while (request->passes_over) {
        struct ahead ahead;
        look_ahead(fd, request, &ahead);
        if (ahead.nothing)
            break;
        if (ahead.there > 0)
            drop(fd, ahead.ends_at ? ahead.ends_at : (size_t)ahead.there);
        request->stream = ahead.stream;
        request->passes_over = ahead.there > 0 && ahead.step == REQUEST_GOES_ON;
    }
    errno = saved;
    return !request->passes_over;
}

enum refusal refuse_ahead(int fd, struct request *request, struct ahead *ahead, enum when_full how,
                          enum refusal_reason reason)
{
    int saved = errno;
    enum refusal refusal = how == WHEN_FULL_RESET ? reset(fd, request) : answer(fd, request, ahead);
    if (refusal != REFUSAL_NOT)
        count(fd, request, how, reason);
    errno = saved;
    return refusal;
}

enum refusal refuse_in_hand(int fd, struct request *request, enum when_full how,
                            enum refusal_reason reason)
{
    int saved = errno;
    bool closes = request->stream.flags & REQUEST_CLOSES;
    enum refusal refusal = how == WHEN_FULL_RESET
                               ? reset(fd, request)
                               : say_refusal(fd, request, &request->stream, closes);
    if (refusal == REFUSAL_GIVEN)
        request_refused(&request->stream);
    if (refusal != REFUSAL_NOT)
        count(fd, request, how, reason);
    errno = saved;
    return refusal;
}

void refuse_at_close(int fd, struct request *request)
{
    struct ahead ahead;
    int saved = errno;
    look_ahead(fd, request, &ahead);
    if (ahead.there > 0 && say_refusal(fd, request, &ahead.stream, true) != REFUSAL_NOT)
        count(fd, request, WHEN_FULL_BUSY, REFUSED_FULL);
    errno = saved;
}

void refuse_broken(int fd, struct request *request, size_t unread)
{
    int saved = errno;
    drop(fd, unread);
    request->was_reset = true;
    count(fd, request, WHEN_FULL_BUSY, REFUSED_LATE);
    errno = saved;
}
