/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "passing.h"

#include "connections.h"
#include "descriptors.h"
#include "service.h"

#include <string.h>

static void each_descriptor(const struct msghdr *message, void (*visit)(int fd))
{
    struct msghdr copy = *message;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&copy); header;
         header = CMSG_NXTHDR(&copy, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS ||
            header->cmsg_len < CMSG_LEN(0))
            continue;
        size_t length = header->cmsg_len - CMSG_LEN(0);
        for (size_t at = 0; at + sizeof(int) <= length; at += sizeof(int)) {
            int fd;
            memcpy(&fd, CMSG_DATA(header) + at, sizeof fd);
            visit(fd);
        }
    }
}

static void leaves(int fd)
{
    descriptor what = descriptor_at(fd);
    if (descriptor_kind(what) == DESCRIPTOR_CONN)
        connections_passed(what);
}

void passing_sends(const struct msghdr *message)
{
    if (message && message->msg_control && message->msg_controllen && service_active() &&
        !in_vfork_child)
        each_descriptor(message, leaves);
}

void passing_received(struct msghdr *message)
{
    if (message && message->msg_control && message->msg_controllen && service_active() &&
        !in_vfork_child)
        each_descriptor(message, descriptor_adopt);
}
