/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "requests/receiving.h"

#include "base/libc.h"
#include "base/real.h"
#include "requests/look_ahead.h"

#include <string.h>

#define VECTOR_MOST 16

/* The program did not ask for the time of arrival: it is taken out of the control data again. */
static void hide_arrival(struct msghdr *message)
{
    size_t length = libc_message_length(message->msg_controllen),
           whole = CMSG_SPACE(sizeof(struct timespec));
    struct cmsghdr *part = length >= whole ? CMSG_FIRSTHDR(message) : NULL;
    if (!part || part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_TIMESTAMPNS)
        return;
    memmove(part, (char *)part + whole, length - whole);
    message->msg_controllen = length - whole;
}

ssize_t receiving_unseen(int fd, const struct request *request, struct msghdr *message, int flags)
{
    ssize_t result = REAL(recvmsg)(fd, message, flags);
    if (result >= 0 && request && request->stamped && message->msg_control)
        hide_arrival(message);
    return result;
}

/* The message, cut to `most` bytes, in `parts` of the caller's. */
static struct msghdr cut(const struct msghdr *message, size_t most, struct iovec *parts)
{
    struct msghdr shorter = *message;
    size_t count = libc_message_length(message->msg_iovlen), i = 0;
    if (most == SIZE_MAX)
        return shorter;
    for (; i < count && i < VECTOR_MOST && most; i++) {
        parts[i] = message->msg_iov[i];
        parts[i].iov_len = parts[i].iov_len < most ? parts[i].iov_len : most;
        most -= parts[i].iov_len;
    }
    shorter.msg_iov = parts;
    shorter.msg_iovlen = i;
    return shorter;
}

ssize_t receiving_most(int fd, const struct request *request, struct msghdr *message, int flags,
                       size_t most, uint64_t *arrived_ns)
{
    union arrival_control control;
    struct iovec parts[VECTOR_MOST];
    struct msghdr shorter = cut(message, most, parts);
    bool own = !message->msg_control && request->stamped;
    *arrived_ns = 0;
    if (own) {
        shorter.msg_control = control.bytes;
        shorter.msg_controllen = sizeof control.bytes;
    }
    ssize_t result = REAL(recvmsg)(fd, &shorter, flags);
    if (result >= 0)
        *arrived_ns = look_ahead_arrival(&shorter);
    message->msg_flags = shorter.msg_flags & ~(own ? MSG_CTRUNC : 0);
    message->msg_namelen = shorter.msg_namelen;
    if (own)
        return result;
    message->msg_controllen = shorter.msg_controllen;
    if (result >= 0 && request->stamped && message->msg_control)
        hide_arrival(message);
    return result;
}
