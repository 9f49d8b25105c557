/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "output/reading.h"

#include "base/libc.h"
#include "base/memory.h"
#include "base/real.h"
#include "output/backstop.h"
#include "output/metering.h"
#include "output/pausing.h"
#include "output/sojourn.h"
#include "output/writing.h"

#include <errno.h>
#include <limits.h>
#include <sys/socket.h>
#include <sys/syscall.h>

/* Wants all of it, or is about something else than the stream's bytes. */
#define LEFT_ALONE (MSG_WAITALL | MSG_OOB | MSG_ERRQUEUE)

static void (*hear_of_reset)(int fd);

void reading_on_reset(void (*hear)(int fd))
{
    hear_of_reset = hear;
}

static void tell_reset(int fd)
{
    if (hear_of_reset)
        hear_of_reset(fd);
}

static struct reading refuse(struct reading reading, int error)
{
    reading.refused = true;
    errno = error;
    return reading;
}

static uint32_t low_water(int fd, struct flow *flow)
{
    uint32_t mark = atomic_load_explicit(&flow->low_water, memory_order_relaxed);
    if (mark)
        return mark;
    int value = 1, saved = errno;
    socklen_t length = sizeof value;
    kernel_call(SYS_getsockopt, fd, SOL_SOCKET, SO_RCVLOWAT, &value, &length);
    errno = saved;
    mark = value > 0 ? (uint32_t)value : 1;
    atomic_store_explicit(&flow->low_water, mark, memory_order_relaxed);
    return mark;
}

/* What a read that is to be cut must be allowed all the same. */
static size_t at_least(const struct reading *reading, size_t told_of)
{
    size_t least = told_of > reading->allowed ? told_of : reading->allowed;
    uint32_t mark = least ? low_water(reading->fd, reading->flow) : 0;
    if (mark > 1 && least < mark)
        least = mark;
    return least < reading->asked ? least : reading->asked;
}

struct reading reading_begin(int fd, size_t count, int flags)
{
    struct reading reading = {.fd = fd, .asked = count, .allowed = count};
    struct flow *flow = flow_of(fd);
    if (!flow)
        return reading;
    reading.requests = flows_mode_seen() & FLOWS_REQUESTS && (count > 0 || flags & MSG_ERRQUEUE);
    if (count == 0 || flags & LEFT_ALONE) {
        reading.flow = reading.requests ? flow : NULL;
        return reading;
    }
    reading.flow = flow;
    reading.peeks = flags & MSG_PEEK;
    if (reading.peeks)
        return reading;
    if (flow_signs(flow) & FLOW_UNGUARDED)
        backstop_set(fd, flow);
    int late = writing_late_error(flow);
    if (late)
        return refuse(reading, late);
    if (!(flows_mode_seen() & FLOWS_PAUSE))
        return reading;
    uint32_t told_of = atomic_load_explicit(&flow->told_of, memory_order_relaxed);
    if (flow_signs(flow) & FLOW_SIGNS && !told_of && pausing_withholds(fd, flow))
        return refuse(reading, EAGAIN);
    reading.allowed = metering_allowance(flow, count);
    if (__builtin_expect(reading.allowed < count, 0))
        reading.allowed = at_least(&reading, told_of);
    return reading.allowed ? reading : refuse(reading, EAGAIN);
}

ssize_t reading_make_message(const struct reading *reading, struct msghdr *message, int flags)
{
    return flow_requests->read(reading->fd, reading->flow, message, flags);
}

ssize_t reading_make(const struct reading *reading, void *buffer, int flags)
{
    struct iovec part = {.iov_base = buffer, .iov_len = reading->allowed};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    return reading_make_message(reading, &message, flags);
}

void reading_unseen(int fd)
{
    struct flow *flow = flow_of(fd);
    if (flow && flows_mode_seen() & FLOWS_REQUESTS)
        flow_requests->read_unseen(flow);
}

void reading_told(int fd, int bytes)
{
    struct flow *flow = flow_of(fd);
    if (flow && bytes >= 0)
        atomic_store_explicit(&flow->told_of, (uint32_t)bytes, memory_order_relaxed);
}

static void forget_told(struct flow *flow, size_t taken)
{
    uint32_t told_of = atomic_load_explicit(&flow->told_of, memory_order_relaxed);
    if (__builtin_expect(told_of != 0, 0))
        atomic_store_explicit(&flow->told_of, told_of > taken ? told_of - (uint32_t)taken : 0,
                              memory_order_relaxed);
}

void reading_low_water_set(int fd)
{
    struct flow *flow = flow_of(fd);
    if (flow)
        atomic_store_explicit(&flow->low_water, 0, memory_order_relaxed);
}

static ssize_t failed(const struct reading *reading)
{
    if (errno == ECONNRESET)
        tell_reset(reading->fd);
    else if (errno == ETIMEDOUT && reading->flow)
        backstop_ended(reading->fd, reading->flow);
    return -1;
}

ssize_t reading_end(const struct reading *reading, ssize_t result)
{
    if (__builtin_expect(result < 0, 0))
        return failed(reading);
    if (!reading->flow || result == 0)
        return result;
    if (__builtin_expect(reading->peeks, 0)) {
        reading_told(reading->fd, (int)(result < INT_MAX ? result : INT_MAX));
        return result;
    }
    forget_told(reading->flow, (size_t)result);
    if (flows_mode_seen() & FLOWS_TIME)
        sojourn_read(reading->fd, reading->flow);
    metering_took(reading->flow, reading->asked, reading->allowed, (size_t)result);
    return result;
}

struct reading reading_begin_vector(int fd, const struct iovec *vector, int count, int flags,
                                    struct reading_vector *out)
{
    size_t total = 0, left;
    out->vector = (struct iovec *)vector;
    out->count = count > 0 ? (size_t)count : 0;
    if (count < 0 || count > IOV_MAX || !flow_of(fd) ||
        !memory_holds(MEMORY_VECTOR, vector, (size_t)count, sizeof *vector))
        return (struct reading){.fd = fd, .flow = NULL};
    for (int i = 0; i < count; i++)
        total += vector[i].iov_len;
    struct reading reading = reading_begin(fd, total, flags);
    if (reading.refused || reading.allowed == total)
        return reading;
    out->vector = out->cut;
    out->count = 0;
    left = reading.allowed;
    for (int i = 0; i < count && left && out->count < READING_VECTORS; i++) {
        struct iovec *part = &out->cut[out->count++];
        *part = vector[i];
        part->iov_len = part->iov_len < left ? part->iov_len : left;
        left -= part->iov_len;
    }
    reading.allowed -= left;
    return reading;
}

struct reading reading_begin_message(int fd, const struct msghdr *message, int flags,
                                     struct reading_vector *out)
{
    size_t count = libc_message_length(message->msg_iovlen);
    struct reading reading = reading_begin_vector(fd, message->msg_iov, (int)count, flags, out);
    if (!reading.refused && message->msg_control && libc_message_length(message->msg_controllen)) {
        reading.allowed = reading.asked;
        out->vector = message->msg_iov;
        out->count = count;
    }
    return reading;
}

bool reading_metered(int fd)
{
    const struct flow *flow = flow_of(fd);
    return flow && flows_mode_seen() & (FLOWS_PAUSE | FLOWS_REQUESTS) &&
           flow_signs(flow) & FLOW_NONBLOCKING;
}
