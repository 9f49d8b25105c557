/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "fd/passing.h"

#include "base/libc.h"
#include "base/memory.h"
#include "process/descriptors.h"
#include "process/service.h"

#include <string.h>

static void each_number(const unsigned char *numbers, size_t count, void (*visit)(int fd))
{
    for (size_t i = 0; i < count; i++) {
        int fd;
        memcpy(&fd, numbers + i * sizeof fd, sizeof fd);
        visit(fd);
    }
}

/* cmsg(3), by the lengths that the program's libc means. */
static void each_descriptor(const struct msghdr *message, void (*visit)(int fd))
{
    size_t left = libc_message_length(message->msg_controllen), length;
    unsigned char *at = message->msg_control;
    for (; left >= sizeof(struct cmsghdr); at += CMSG_ALIGN(length), left -= CMSG_ALIGN(length)) {
        struct cmsghdr header;
        memcpy(&header, at, sizeof header);
        length = libc_message_length(header.cmsg_len);
        if (length < CMSG_LEN(0) || length > left)
            return;
        if (header.cmsg_level == SOL_SOCKET && header.cmsg_type == SCM_RIGHTS)
            each_number(at + CMSG_LEN(0), (length - CMSG_LEN(0)) / sizeof(int), visit);
        if (left - length < CMSG_ALIGN(length) - length)
            return;
    }
}

static bool control_there(const struct msghdr *message)
{
    return memory_holds(MEMORY_VECTOR, message->msg_control,
                        libc_message_length(message->msg_controllen), 1);
}

void passing_sends(const struct msghdr *message)
{
    if (message && message->msg_control && !passing_nothing(message) && service_active() &&
        !in_vfork_child && control_there(message))
        each_descriptor(message, descriptor_passed);
}

void passing_received(struct msghdr *message)
{
    if (message && message->msg_control && !passing_nothing(message) && service_active() &&
        !in_vfork_child)
        each_descriptor(message, descriptor_adopt);
}
