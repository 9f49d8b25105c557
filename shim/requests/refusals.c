/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "requests/refusals.h"

#include "accept/shedding.h"
#include "base/real.h"
#include "base/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

static void count(int fd, enum when_full how, enum refusal_reason reason)
{
    static const struct {
        enum counter counter;
        enum event_kind event;
    } by[] = {
        [REFUSED_LATE] = {COUNTER_REQUESTS_SHED_LATE, EVENT_REQUEST_SHED_LATE},
        [REFUSED_FULL] = {COUNTER_REQUESTS_SHED_BUSY, EVENT_REQUEST_SHED_BUSY},
    };
    trace(TRACE_ACCEPT, "refuse-request", fd, "late", reason == REFUSED_LATE, "reset",
          how == WHEN_FULL_RESET);
    if (how == WHEN_FULL_RESET && reason == REFUSED_FULL)
        service_count(COUNTER_REQUESTS_SHED_RESET, 1);
    else
        service_count(by[reason].counter, 1);
    flows_tell(fd, by[reason].event, 0);
}

/* connect(2) to AF_UNSPEC dissolves a TCP connection with a RST (tcp_disconnect): the program,
 * whose descriptor it stays, then reads ECONNRESET. AF_UNIX has no reset; both sides see the end.
 */
static enum refusal reset(int fd, const struct request *request)
{
    struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    if (request_flow(request)->family == AF_UNIX ||
        kernel_call(SYS_connect, fd, &nobody, sizeof nobody) < 0)
        kernel_call(SYS_shutdown, fd, SHUT_RDWR);
    return REFUSAL_CLOSES;
}

/* All of it or nothing: what waits to be sent before it may have filled the send buffer. */
static bool say(int fd, const struct request_stream *stream, bool closes)
{
    struct limits limits;
    char text[REQUEST_REFUSAL_MAX];
    segment_read_limits(service.segment, &limits);
    size_t length = request_refuse(stream, &limits, closes, text, sizeof text);
    return length > 0 && kernel_call(SYS_sendto, fd, text, length, MSG_DONTWAIT | MSG_NOSIGNAL,
                                     NULL, 0) == (long)length;
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

/* recv(2) with MSG_TRUNC drops a stream's bytes without copying them: tcp(7). */
static void drop(int fd, size_t length)
{
    char unused[1];
    kernel_call(SYS_recvfrom, fd, unused, length, MSG_TRUNC | MSG_DONTWAIT, NULL, NULL);
}

static enum refusal answer(int fd, struct request *request, const struct ahead *ahead)
{
    bool whole = ahead->ends_at > 0, closes = !whole || ahead->stream.flags & REQUEST_CLOSES;
    if (!say(fd, &ahead->stream, closes))
        return REFUSAL_NOT;
    if (closes)
        return close_behind(fd, request);
    drop(fd, ahead->ends_at);
    request->stream = ahead->stream;
    request_refused(&request->stream);
    return REFUSAL_GIVEN;
}

enum refusal refuse_ahead(int fd, struct request *request, const struct ahead *ahead,
                          enum when_full how, enum refusal_reason reason)
{
    int saved = errno;
    enum refusal refusal = how == WHEN_FULL_RESET ? reset(fd, request) : answer(fd, request, ahead);
    if (refusal != REFUSAL_NOT)
        count(fd, how, reason);
    errno = saved;
    return refusal;
}

enum refusal refuse_in_hand(int fd, struct request *request, enum refusal_reason reason)
{
    int saved = errno;
    bool closes = request->stream.flags & REQUEST_CLOSES;
    enum refusal refusal = REFUSAL_NOT;
    if (say(fd, &request->stream, closes)) {
        request_refused(&request->stream);
        refusal = closes ? close_behind(fd, request) : REFUSAL_GIVEN;
    }
    if (refusal != REFUSAL_NOT)
        count(fd, WHEN_FULL_BUSY, reason);
    errno = saved;
    return refusal;
}
