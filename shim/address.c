/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "address.h"

#include "real.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

void address_of(int fd, bool peer, char *out, size_t size)
{
    union {
        struct sockaddr_storage any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
    } address = {0};
    socklen_t length = sizeof address;
    char text[INET6_ADDRSTRLEN] = "?";

    memset(out, 0, size);
    if (kernel_call(peer ? SYS_getpeername : SYS_getsockname, fd, &address, &length) < 0)
        return;
    if (address.any.ss_family == AF_INET) {
        inet_ntop(AF_INET, &address.in.sin_addr, text, sizeof text);
        snprintf(out, size, "%s:%u", text, ntohs(address.in.sin_port));
    } else if (address.any.ss_family == AF_INET6) {
        inet_ntop(AF_INET6, &address.in6.sin6_addr, text, sizeof text);
        snprintf(out, size, "[%s]:%u", text, ntohs(address.in6.sin6_port));
    } else if (!peer) { /* clients of AF_UNIX have no name */
        bool abstract = address.un.sun_path[0] == '\0';
        snprintf(out, size, "unix:%s%.100s", abstract ? "@" : "", address.un.sun_path + abstract);
    }
}
