/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "connect/outbound.h"
#include "interpose/interpose.h"

int __connect(int fd, const struct sockaddr *address, socklen_t length);

INTERPOSE int connect(int fd, const struct sockaddr *address, socklen_t length)
{
    return outbound_connect(fd, address, length);
}

INTERPOSE int __connect(int fd, const struct sockaddr *address, socklen_t length)
{
    return connect(fd, address, length);
}
