/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/address.h"

#include "base/real.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

static void write_address(const void *address, bool named, char *out, size_t size)
{
    const union {
        struct sockaddr_storage any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
    } *of = address;
    char text[INET6_ADDRSTRLEN] = "?";

    if (of->any.ss_family == AF_INET) {
        inet_ntop(AF_INET, &of->in.sin_addr, text, sizeof text);
        snprintf(out, size, "%s:%u", text, ntohs(of->in.sin_port));
    } else if (of->any.ss_family == AF_INET6) {
        inet_ntop(AF_INET6, &of->in6.sin6_addr, text, sizeof text);
        snprintf(out, size, "[%s]:%u", text, ntohs(of->in6.sin6_port));
    } else if (named) {
        bool abstract = of->un.sun_path[0] == '\0';
        snprintf(out, size, "unix:%s%.100s", abstract ? "@" : "", of->un.sun_path + abstract);
    }
}

void address_of(int fd, bool peer, char *out, size_t size)
{
    struct sockaddr_storage address = {0};
    socklen_t length = sizeof address;

    memset(out, 0, size);
    if (kernel_call(peer ? SYS_getpeername : SYS_getsockname, fd, &address, &length) >= 0)
        write_address(&address, !peer, out, size); /* clients of AF_UNIX have no name */
}

void address_text(const struct sockaddr *address, socklen_t length, char *out, size_t size)
{
    struct sockaddr_storage copy = {0};

    memset(out, 0, size);
    memcpy(&copy, address, length < sizeof copy ? length : sizeof copy - 1);
    write_address(&copy, true, out, size);
}
