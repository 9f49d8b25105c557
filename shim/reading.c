/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "reading.h"

#include "backstop.h"
#include "metering.h"
#include "pausing.h"
#include "sojourn.h"
#include "writing.h"

#include <errno.h>
#include <limits.h>
#include <sys/socket.h>

/* Looks only, wants all of it, or is about something else than the stream's bytes. */
#define LEFT_ALONE (MSG_PEEK | MSG_WAITALL | MSG_OOB | MSG_ERRQUEUE)

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

struct reading reading_begin(int fd, size_t count, int flags)
{
    struct reading reading = {.fd = fd, .asked = count, .allowed = count};
    struct flow *flow = flow_of(fd);
    if (!flow || count == 0 || flags & LEFT_ALONE)
        return reading;
    reading.flow = flow;
    if (flow_signs(flow) & FLOW_UNGUARDED)
        backstop_set(fd, flow);
    int late = writing_late_error(flow);
    if (late)
        return refuse(reading, late);
    if (!(flows_mode() & FLOWS_PAUSE))
        return reading;
    if (flow_signs(flow) & FLOW_SIGNS && pausing_withholds(fd, flow))
        return refuse(reading, EAGAIN);
    reading.allowed = metering_allowance(flow, count);
    return reading.allowed ? reading : refuse(reading, EAGAIN);
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
    if (flows_mode() & FLOWS_TIME)
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
    if (count < 0 || count > IOV_MAX || !flow_of(fd))
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

bool reading_metered(int fd)
{
    return flow_of(fd) && flows_mode() & FLOWS_PAUSE;
}
