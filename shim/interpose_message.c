/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "interpose.h"
#include "passing.h"
#include "real.h"

INTERPOSE ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    passing_sends(message);
    return REAL(sendmsg)(fd, message, flags);
}

INTERPOSE int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
    for (unsigned i = 0; i < count; i++)
        passing_sends(&messages[i].msg_hdr);
    return REAL(sendmmsg)(fd, messages, count, flags);
}

INTERPOSE ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    ssize_t result = REAL(recvmsg)(fd, message, flags);
    if (result >= 0)
        passing_received(message);
    return result;
}

INTERPOSE int recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags,
                       struct timespec *timeout)
{
    int result = REAL(recvmmsg)(fd, messages, count, flags, timeout);
    for (int i = 0; i < result; i++)
        passing_received(&messages[i].msg_hdr);
    return result;
}
