/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "requests/look_ahead.h"

#include "base/libc.h"
#include "base/real.h"
#include "base/tcp_state.h"

#include <errno.h>
#include <linux/sockios.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

void look_ahead_stamp(int fd, struct request *request)
{
    int on = 1, saved = errno;
    if (request->stamped || request_flow(request)->family == AF_UNIX)
        return;
    kernel_call(SYS_setsockopt, fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
    request->stamped = true;
    errno = saved;
}

uint64_t look_ahead_arrival(struct msghdr *message)
{
    if (libc_message_length(message->msg_controllen) < sizeof(struct cmsghdr))
        return 0;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part)) {
        struct timespec time;
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_TIMESTAMPNS)
            continue;
        memcpy(&time, CMSG_DATA(part), sizeof time);
        uint64_t arrived = (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
        uint64_t now = realtime_ns(), here = monotonic_ns();
        uint64_t ago = now > arrived ? now - arrived : 0; /* the clock may have been set back */
        return ago < here ? here - ago : 0;
    }
    return 0;
}

/* The last that came, to a millisecond; AF_UNIX has no clock. */
static uint64_t last_arrival(int fd, const struct request *request)
{
    if (request_flow(request)->family == AF_UNIX)
        return 0;
    struct tcp_state state = tcp_state_of(fd);
    uint64_t now = monotonic_ns();
    return state.known && state.input_ago < now ? now - state.input_ago : 0;
}

const struct limits *look_ahead_limits(struct limits *room)
{
    static const struct limits nobody_exempt;
    if (segment_limit(service.segment, LIMIT_EXEMPT_REQUEST) == 0)
        return &nobody_exempt;
    segment_read_limits(service.segment, room);
    return room;
}

void look_ahead(int fd, const struct request *request, struct ahead *ahead)
{
    char bytes[LOOK_AHEAD_MAX];
    union arrival_control control;
    struct iovec part = {.iov_base = bytes, .iov_len = sizeof bytes};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    struct limits room;
    int saved = errno;
    ahead->there = kernel_call(SYS_recvmsg, fd, &message, MSG_PEEK | MSG_DONTWAIT);
    ahead->nothing = ahead->there < 0 && errno == EAGAIN;
    ahead->arrived_ns = 0;
    ahead->ends_at = 0;
    ahead->transaction = 0;
    ahead->step = REQUEST_GOES_ON;
    ahead->stream = request->stream;
    errno = saved;
    if (ahead->there <= 0)
        return;
    ahead->arrived_ns = look_ahead_arrival(&message);
    if (ahead->arrived_ns == 0)
        ahead->arrived_ns = last_arrival(fd, request);
    const struct limits *limits = look_ahead_limits(&room);
    size_t taken = request_ask(&ahead->stream, limits, bytes, (size_t)ahead->there, &ahead->step);
    if (ahead->step == REQUEST_ENDS)
        ahead->ends_at = taken;
    if (ahead->ends_at && ahead->stream.flags & REQUEST_OPENS)
        ahead->transaction =
            request_transaction(&request->stream, limits, bytes, (size_t)ahead->there);
}

/* The bytes behind the first `behind`: a peek begins with those, and so they go where the others
 * will. */
static ssize_t peek_behind(int fd, size_t behind, char *bytes)
{
    struct iovec parts[LOOK_AHEAD_FURTHEST / LOOK_AHEAD_MAX + 1];
    size_t count = behind / LOOK_AHEAD_MAX + 1;
    for (size_t i = 0; i < count; i++)
        parts[i] = (struct iovec){.iov_base = bytes, .iov_len = LOOK_AHEAD_MAX};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
    long there = kernel_call(SYS_recvmsg, fd, &message, MSG_PEEK | MSG_DONTWAIT);
    return there > (long)behind ? there - (long)behind : 0;
}

void look_ahead_further(int fd, struct ahead *ahead)
{
    char bytes[LOOK_AHEAD_MAX];
    struct limits room;
    const struct limits *limits = look_ahead_limits(&room);
    int saved = errno;
    ssize_t more = LOOK_AHEAD_MAX;
    while (ahead->step == REQUEST_GOES_ON && more == LOOK_AHEAD_MAX &&
           ahead->there % LOOK_AHEAD_MAX == 0 && ahead->there < LOOK_AHEAD_FURTHEST) {
        more = peek_behind(fd, (size_t)ahead->there, bytes);
        size_t taken = request_ask(&ahead->stream, limits, bytes, (size_t)more, &ahead->step);
        if (ahead->step == REQUEST_ENDS)
            ahead->ends_at = (size_t)ahead->there + taken;
        ahead->there += more;
    }
    errno = saved;
}

size_t look_ahead_unread(int fd)
{
    int unread = 0, saved = errno;
    kernel_call(SYS_ioctl, fd, SIOCINQ, &unread);
    errno = saved;
    return unread > 0 ? (size_t)unread : 0;
}
