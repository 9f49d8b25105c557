/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/real.h"
#include "fd/passing.h"
#include "interpose/interpose.h"
#include "output/reading.h"
#include "output/writing.h"
#include "process/descriptors.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <unistd.h>

ssize_t __write(int fd, const void *bytes, size_t count);
ssize_t __send(int fd, const void *bytes, size_t count, int flags);

/* One buffer, as a vector. */
static ssize_t send_bytes(int fd, struct flow *flow, const void *bytes, size_t count, int flags)
{
    struct iovec vector = {.iov_base = (void *)bytes, .iov_len = count};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    return writing_message(fd, flow, &message, flags);
}

static void passed_bytes(int fd, struct flow *flow, const void *bytes, size_t count, ssize_t result)
{
    struct iovec vector = {.iov_base = (void *)bytes, .iov_len = count};
    writing_passed(fd, flow, &vector, count, result);
}

/* What limits concern is handled apart, so that the rest pays for no registers to be saved. */
static __attribute__((noinline)) ssize_t write_tracked(int fd, const void *bytes, size_t count)
{
    struct flow *flow = flow_of(fd);
    if (!flow)
        return REAL(write)(fd, bytes, count);
    if (writing_carefully(flow))
        return send_bytes(fd, flow, bytes, count, 0);
    writing_passes(fd, flow);
    ssize_t result = REAL(write)(fd, bytes, count);
    passed_bytes(fd, flow, bytes, count, result);
    return result;
}

INTERPOSE ssize_t write(int fd, const void *bytes, size_t count)
{
    if (flows_leave_alone(fd))
        return REAL(write)(fd, bytes, count);
    return write_tracked(fd, bytes, count);
}

INTERPOSE ssize_t __write(int fd, const void *bytes, size_t count)
{
    return write(fd, bytes, count);
}

/* The flow of a call with this vector, if a limit concerns it: what cannot be read, or is too
 * long, is left to the kernel. */
static struct flow *flow_with(int fd, const struct iovec *vector, int count)
{
    return count > 0 && count <= IOV_MAX &&
                   memory_holds(MEMORY_VECTOR, vector, (size_t)count, sizeof *vector)
               ? flow_of(fd)
               : NULL;
}

static size_t total(const struct iovec *vector, int count)
{
    size_t bytes = 0;
    for (int i = 0; i < count; i++)
        bytes += vector[i].iov_len;
    return bytes;
}

static __attribute__((noinline)) ssize_t writev_tracked(int fd, const struct iovec *vector,
                                                        int count)
{
    struct flow *flow = flow_with(fd, vector, count);
    if (!flow)
        return REAL(writev)(fd, vector, count);
    if (writing_carefully(flow))
        return writing_vector(fd, flow, vector, count, 0);
    writing_passes(fd, flow);
    ssize_t result = REAL(writev)(fd, vector, count);
    writing_passed(fd, flow, vector, total(vector, count), result);
    return result;
}

INTERPOSE ssize_t writev(int fd, const struct iovec *vector, int count)
{
    if (flows_leave_alone(fd))
        return REAL(writev)(fd, vector, count);
    return writev_tracked(fd, vector, count);
}

/* preadv2(2): with an offset of -1 this is writev, and only that works on a socket. */
static ssize_t write_at(int fd, const struct iovec *vector, int count, off64_t offset, int flags)
{
    struct flow *flow = offset == -1 ? flow_with(fd, vector, count) : NULL;
    if (!flow)
        return REAL(pwritev64v2)(fd, vector, count, offset, flags);
    if (writing_carefully(flow) && (flags & ~RWF_NOWAIT) == 0)
        return writing_vector(fd, flow, vector, count, flags & RWF_NOWAIT ? MSG_DONTWAIT : 0);
    writing_passes(fd, flow);
    ssize_t result = REAL(pwritev64v2)(fd, vector, count, offset, flags);
    writing_passed(fd, flow, vector, total(vector, count), result);
    return result;
}

INTERPOSE ssize_t pwritev2(int fd, const struct iovec *vector, int count, off_t offset, int flags)
{
    return write_at(fd, vector, count, offset, flags);
}

INTERPOSE ssize_t pwritev64v2(int fd, const struct iovec *vector, int count, off64_t offset,
                              int flags)
{
    return write_at(fd, vector, count, offset, flags);
}

static __attribute__((noinline)) ssize_t send_tracked(int fd, const void *bytes, size_t count,
                                                      int flags)
{
    struct flow *flow = flow_of(fd);
    if (!flow)
        return REAL(send)(fd, bytes, count, flags);
    if (writing_carefully(flow))
        return send_bytes(fd, flow, bytes, count, flags);
    writing_passes(fd, flow);
    ssize_t result = REAL(send)(fd, bytes, count, flags);
    passed_bytes(fd, flow, bytes, count, result);
    return result;
}

INTERPOSE ssize_t send(int fd, const void *bytes, size_t count, int flags)
{
    if (flows_leave_alone(fd))
        return REAL(send)(fd, bytes, count, flags);
    return send_tracked(fd, bytes, count, flags);
}

INTERPOSE ssize_t __send(int fd, const void *bytes, size_t count, int flags)
{
    return send(fd, bytes, count, flags);
}

static __attribute__((noinline)) ssize_t sendto_with_care(int fd, const void *bytes, size_t count,
                                                          int flags, const struct sockaddr *to,
                                                          socklen_t length)
{
    if (to == NULL && length == 0)
        return send(fd, bytes, count, flags);
    struct flow *flow = flow_of(fd);
    if (flow)
        writing_passes(fd, flow);
    ssize_t result = REAL(sendto)(fd, bytes, count, flags, to, length);
    if (flow)
        passed_bytes(fd, flow, bytes, count, result);
    return result;
}

INTERPOSE ssize_t sendto(int fd, const void *bytes, size_t count, int flags,
                         const struct sockaddr *to, socklen_t length)
{
    if (flows_leave_alone(fd) && BOUND(sendto))
        return real_functions.sendto(fd, bytes, count, flags, to, length);
    return sendto_with_care(fd, bytes, count, flags, to, length);
}

static __attribute__((noinline)) ssize_t sendmsg_with_care(int fd, const struct msghdr *message,
                                                           int flags)
{
    if (!memory_there(MEMORY_MESSAGE, message, sizeof *message))
        return REAL(sendmsg)(fd, message, flags);
    struct flow *flow = flow_of(fd);
    if (!passing_nothing(message))
        passing_sends(message);
    return flow ? writing_message(fd, flow, message, flags) : REAL(sendmsg)(fd, message, flags);
}

INTERPOSE ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    if (flows_leave_alone(fd) && memory_is_last(MEMORY_MESSAGE, message) &&
        passing_nothing(message) && BOUND(sendmsg))
        return real_functions.sendmsg(fd, message, flags);
    return sendmsg_with_care(fd, message, flags);
}

/* sendmmsg(2): stops at the first that fails, which counts only if it is the first of all, and
 * after one that was taken in part: what follows would come before its rest. */
static int send_each(int fd, struct flow *flow, struct mmsghdr *messages, unsigned count, int flags)
{
    unsigned sent = 0;
    while (sent < count) {
        ssize_t result = writing_message(fd, flow, &messages[sent].msg_hdr, flags);
        if (result < 0)
            return sent ? (int)sent : -1;
        messages[sent++].msg_len = (unsigned)result;
        if ((size_t)result < writing_length(&messages[sent - 1].msg_hdr))
            break;
    }
    return (int)sent;
}

INTERPOSE int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
    unsigned most = count < IOV_MAX ? count : IOV_MAX; /* so many does the kernel send, too */
    if (!memory_holds(MEMORY_RESULT, messages, most, sizeof *messages))
        return REAL(sendmmsg)(fd, messages, count, flags);
    struct flow *flow = flow_of(fd);
    for (unsigned i = 0; i < most; i++)
        passing_sends(&messages[i].msg_hdr);
    if (!flow)
        return REAL(sendmmsg)(fd, messages, count, flags);
    return send_each(fd, flow, messages, most, flags);
}

struct file {
    int to, from;
    off64_t *offset;
};

static ssize_t send_piece(size_t count, void *context)
{
    const struct file *file = context;
    return REAL(sendfile64)(file->to, file->from, file->offset, count);
}

INTERPOSE ssize_t sendfile64(int to, int from, off64_t *offset, size_t count)
{
    struct flow *flow = flow_of(to);
    struct file file = {to, from, offset};
    if (!flow)
        return REAL(sendfile64)(to, from, offset, count);
    return writing_pieces(to, flow, count, send_piece, &file);
}

INTERPOSE ssize_t sendfile(int to, int from, off_t *offset, size_t count)
{
    _Static_assert(sizeof(off_t) == sizeof(off64_t), "one is as good as the other");
    if (!flow_of(to))
        return REAL(sendfile)(to, from, offset, count);
    return sendfile64(to, from, offset, count);
}

/* Of splice, tee and vmsplice only splice can end in a socket: the others want pipes. */
INTERPOSE ssize_t splice(int from, off64_t *from_offset, int to, off64_t *to_offset, size_t count,
                         unsigned flags)
{
    struct flow *flow = flow_of(to);
    reading_unseen(from);
    if (flow)
        writing_passes(to, flow);
    ssize_t result = REAL(splice)(from, from_offset, to, to_offset, count, flags);
    if (flow)
        writing_passed(to, flow, NULL, count, result);
    return result;
}
