/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "accept/accepting.h"
#include "accept/admission.h"
#include "base/real.h"
#include "connect/outbound.h"
#include "fd/listeners.h"
#include "interpose/interpose.h"
#include "output/backstop.h"
#include "output/credit.h"
#include "output/reading.h"
#include "process/descriptors.h"

INTERPOSE int accept(int fd, struct sockaddr *restrict address, socklen_t *restrict length)
{
    return accepting_accept_plain(fd, address, length);
}

INTERPOSE int accept4(int fd, struct sockaddr *restrict address, socklen_t *restrict length,
                      int flags)
{
    return accepting_accept(fd, address, length, flags);
}

INTERPOSE int listen(int fd, int backlog)
{
    return listeners_listen(fd, backlog);
}

static __attribute__((noinline)) int setsockopt_tracked(int fd, int level, int name,
                                                        const void *value, socklen_t length)
{
    int result;
    if (flows_may_stall())
        backstop_option_set(fd, level, name);
    if (credit_option_set(fd, level, name, value, length, &result))
        return result;
    result = REAL(setsockopt)(fd, level, name, value, length);
    if (result == 0 && level == SOL_SOCKET) {
        listeners_option_set(fd, name);
        if (name == SO_RCVLOWAT)
            reading_low_water_set(fd);
    }
    return result;
}

INTERPOSE int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
    if (descriptor_untracked(fd) && BOUND(setsockopt))
        return real_functions.setsockopt(fd, level, name, value, length);
    return setsockopt_tracked(fd, level, name, value, length);
}

static __attribute__((noinline)) int
getsockopt_tracked(int fd, int level, int name, void *restrict value, socklen_t *restrict length)
{
    int result;
    if (credit_option_get(fd, level, name, value, length, &result) ||
        (flows_may_stall() && backstop_option_get(fd, level, name, value, length, &result)))
        return result;
    result = REAL(getsockopt)(fd, level, name, value, length);
    if (result == 0 && level == SOL_SOCKET && name == SO_ERROR && value && length &&
        *length == sizeof(int))
        outbound_error_read(fd, value);
    return result;
}

INTERPOSE int getsockopt(int fd, int level, int name, void *restrict value,
                         socklen_t *restrict length)
{
    if (descriptor_untracked(fd) && BOUND(getsockopt))
        return real_functions.getsockopt(fd, level, name, value, length);
    return getsockopt_tracked(fd, level, name, value, length);
}
