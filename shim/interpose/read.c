/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/libc.h"
#include "base/real.h"
#include "fd/passing.h"
#include "interpose/interpose.h"
#include "output/reading.h"
#include "process/descriptors.h"

#include <limits.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

ssize_t __read(int fd, void *buffer, size_t count);
ssize_t __read_chk(int fd, void *buffer, size_t count, size_t size);
ssize_t __recv_chk(int fd, void *buffer, size_t count, size_t size, int flags);
ssize_t __recvfrom_chk(int fd, void *buffer, size_t count, size_t size, int flags,
                       struct sockaddr *from, socklen_t *length);

/* What limits concern is handled apart, so that the rest pays for no registers to be saved. */
static __attribute__((noinline)) ssize_t read_tracked(int fd, void *buffer, size_t count)
{
    struct reading reading = reading_begin(fd, count, 0);
    if (reading.refused)
        return -1;
    return reading_end(&reading, reading.requests ? reading_make(&reading, buffer, 0)
                                                  : REAL(read)(fd, buffer, reading.allowed));
}

INTERPOSE ssize_t read(int fd, void *buffer, size_t count)
{
    if (flows_leave_alone(fd))
        return REAL(read)(fd, buffer, count);
    return read_tracked(fd, buffer, count);
}

INTERPOSE ssize_t __read(int fd, void *buffer, size_t count)
{
    return read(fd, buffer, count);
}

/* The forms that _FORTIFY_SOURCE calls; libc's own reports a buffer that is too short. */
INTERPOSE ssize_t __read_chk(int fd, void *buffer, size_t count, size_t size)
{
    return count > size ? REAL(__read_chk)(fd, buffer, count, size) : read(fd, buffer, count);
}

static ssize_t make_vector(const struct reading *reading, const struct reading_vector *cut,
                           int flags)
{
    struct msghdr message = {.msg_iov = cut->vector, .msg_iovlen = cut->count};
    return reading_make_message(reading, &message, flags);
}

static __attribute__((noinline)) ssize_t readv_tracked(int fd, const struct iovec *vector,
                                                       int count)
{
    struct reading_vector cut;
    struct reading reading = reading_begin_vector(fd, vector, count, 0, &cut);
    if (reading.refused)
        return -1;
    return reading_end(&reading, reading.requests ? make_vector(&reading, &cut, 0)
                                                  : REAL(readv)(fd, cut.vector, (int)cut.count));
}

INTERPOSE ssize_t readv(int fd, const struct iovec *vector, int count)
{
    if (flows_leave_alone(fd))
        return REAL(readv)(fd, vector, count);
    return readv_tracked(fd, vector, count);
}

/* preadv2(2): with an offset of -1 this is readv, and only that works on a socket. */
static ssize_t read_at(int fd, const struct iovec *vector, int count, off64_t offset, int flags)
{
    struct reading_vector cut;
    if (offset != -1)
        return REAL(preadv64v2)(fd, vector, count, offset, flags);
    struct reading reading = reading_begin_vector(fd, vector, count, 0, &cut);
    if (reading.refused)
        return -1;
    if (reading.requests && (flags & ~RWF_NOWAIT) == 0)
        return reading_end(&reading,
                           make_vector(&reading, &cut, flags & RWF_NOWAIT ? MSG_DONTWAIT : 0));
    return reading_end(&reading, REAL(preadv64v2)(fd, cut.vector, (int)cut.count, offset, flags));
}

INTERPOSE ssize_t preadv2(int fd, const struct iovec *vector, int count, off_t offset, int flags)
{
    return read_at(fd, vector, count, offset, flags);
}

INTERPOSE ssize_t preadv64v2(int fd, const struct iovec *vector, int count, off64_t offset,
                             int flags)
{
    return read_at(fd, vector, count, offset, flags);
}

static __attribute__((noinline)) ssize_t recv_tracked(int fd, void *buffer, size_t count, int flags)
{
    struct reading reading = reading_begin(fd, count, flags);
    if (reading.refused)
        return -1;
    return reading_end(&reading, reading.requests ? reading_make(&reading, buffer, flags)
                                                  : REAL(recv)(fd, buffer, reading.allowed, flags));
}

INTERPOSE ssize_t recv(int fd, void *buffer, size_t count, int flags)
{
    if (flows_leave_alone(fd))
        return REAL(recv)(fd, buffer, count, flags);
    return recv_tracked(fd, buffer, count, flags);
}

INTERPOSE ssize_t __recv_chk(int fd, void *buffer, size_t count, size_t size, int flags)
{
    return count > size ? REAL(__recv_chk)(fd, buffer, count, size, flags)
                        : recv(fd, buffer, count, flags);
}

/* A connection of TCP has no address to tell with what it brings: recvmsg leaves it as it is. */
static ssize_t make_from(const struct reading *reading, void *buffer, int flags,
                         struct sockaddr *from, socklen_t *length)
{
    struct iovec part = {.iov_base = buffer, .iov_len = reading->allowed};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (length && memory_there(MEMORY_ADDRESS, length, sizeof *length)) {
        message.msg_name = from;
        message.msg_namelen = *length;
    }
    ssize_t result = reading_make_message(reading, &message, flags);
    if (result >= 0 && message.msg_name)
        *length = message.msg_namelen;
    return result;
}

static __attribute__((noinline)) ssize_t recvfrom_tracked(int fd, void *buffer, size_t count,
                                                          int flags, struct sockaddr *from,
                                                          socklen_t *length)
{
    struct reading reading = reading_begin(fd, count, flags);
    if (reading.refused)
        return -1;
    if (reading.requests && !from)
        return reading_end(&reading, reading_make(&reading, buffer, flags));
    if (reading.requests)
        return reading_end(&reading, make_from(&reading, buffer, flags, from, length));
    return reading_end(&reading, REAL(recvfrom)(fd, buffer, reading.allowed, flags, from, length));
}

INTERPOSE ssize_t recvfrom(int fd, void *buffer, size_t count, int flags, struct sockaddr *from,
                           socklen_t *length)
{
    if (flows_leave_alone(fd))
        return REAL(recvfrom)(fd, buffer, count, flags, from, length);
    return recvfrom_tracked(fd, buffer, count, flags, from, length);
}

INTERPOSE ssize_t __recvfrom_chk(int fd, void *buffer, size_t count, size_t size, int flags,
                                 struct sockaddr *from, socklen_t *length)
{
    return count > size ? REAL(__recvfrom_chk)(fd, buffer, count, size, flags, from, length)
                        : recvfrom(fd, buffer, count, flags, from, length);
}

static __attribute__((noinline)) ssize_t recvmsg_with_care(int fd, struct msghdr *message,
                                                           int flags)
{
    struct reading_vector cut;
    struct reading reading = {.fd = fd, .flow = NULL};
    if (!memory_there(MEMORY_MESSAGE, message, sizeof *message))
        return REAL(recvmsg)(fd, message, flags);
    size_t count = libc_message_length(message->msg_iovlen);
    if (count <= IOV_MAX)
        reading = reading_begin_message(fd, message, flags, &cut);
    if (reading.refused)
        return -1;
    if (!reading.flow || cut.vector == message->msg_iov ||
        !memory_there(MEMORY_RESULT, message, sizeof *message)) {
        ssize_t result = reading_end(
            &reading, reading.requests && memory_there(MEMORY_RESULT, message, sizeof *message)
                          ? reading_make_message(&reading, message, flags)
                          : REAL(recvmsg)(fd, message, flags));
        if (result >= 0)
            passing_received(message);
        return result;
    }
    struct iovec *vector = message->msg_iov;
    message->msg_iov = cut.vector;
    message->msg_iovlen = cut.count;
    ssize_t result =
        reading_end(&reading, reading.requests ? reading_make_message(&reading, message, flags)
                                               : REAL(recvmsg)(fd, message, flags));
    message->msg_iov = vector;
    message->msg_iovlen = count;
    if (result >= 0)
        passing_received(message);
    return result;
}

INTERPOSE ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    if (flows_leave_alone(fd) && memory_is_last(MEMORY_MESSAGE, message) &&
        passing_nothing(message) && BOUND(recvmsg))
        return real_functions.recvmsg(fd, message, flags);
    return recvmsg_with_care(fd, message, flags);
}

INTERPOSE int recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags,
                       struct timespec *timeout)
{
    /* On a stream one message at a time is as good, and can be cut. */
    if (count > 0 && reading_metered(fd) &&
        memory_there(MEMORY_RESULT, messages, sizeof *messages)) {
        ssize_t result = recvmsg(fd, &messages[0].msg_hdr, flags & ~MSG_WAITFORONE);
        if (result >= 0)
            messages[0].msg_len = (unsigned)result;
        return result < 0 ? -1 : 1;
    }
    reading_unseen(fd);
    int result = REAL(recvmmsg)(fd, messages, count, flags, timeout);
    for (int i = 0; i < result; i++)
        passing_received(&messages[i].msg_hdr);
    return result;
}
