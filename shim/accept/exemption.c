/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "accept/exemption.h"

#include "base/real.h"
#include "dialects/request.h"
#include "process/service.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/syscall.h>

#define LOOK_MAX 2048

static bool paths_are_set(void)
{
    return segment_limit(service.segment, LIMIT_EXEMPT_REQUEST) != 0;
}

bool exemption_possible(void)
{
    return segment_limit(service.segment, LIMIT_EXEMPT) != 0 || paths_are_set();
}

bool exemption_by_address(const struct sockaddr_storage *from)
{
    uint8_t address[16] = {[10] = 0xff, [11] = 0xff};
    struct limits limits;
    if (segment_limit(service.segment, LIMIT_EXEMPT) == 0)
        return false;
    if (from->ss_family == AF_INET)
        memcpy(address + 12, &((const struct sockaddr_in *)from)->sin_addr, 4);
    else if (from->ss_family == AF_INET6)
        memcpy(address, &((const struct sockaddr_in6 *)from)->sin6_addr, 16);
    else
        return false;
    segment_read_limits(service.segment, &limits);
    return limits_exempt(&limits, address);
}

enum busy_recognition exemption_by_request(int fd)
{
    char sent[LOOK_MAX];
    struct limits limits;
    if (!paths_are_set())
        return BUSY_UNKNOWN;
    int saved = errno;
    long length =
        kernel_call(SYS_recvfrom, fd, sent, sizeof sent, MSG_PEEK | MSG_DONTWAIT, NULL, NULL);
    bool nothing = length < 0 && errno == EAGAIN;
    errno = saved;
    if (length <= 0)
        return nothing ? BUSY_UNDECIDED : BUSY_UNKNOWN;
    segment_read_limits(service.segment, &limits);
    return request_exempt(&limits, sent, (size_t)length);
}
