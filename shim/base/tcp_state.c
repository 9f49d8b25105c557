/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/tcp_state.h"

#include "base/real.h"

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define MILLISECOND UINT64_C(1000000)
/* States of tcpi_state, which only <netinet/tcp.h> has for programs. */
enum { STATE_CLOSED = 7, STATE_CLOSE_WAIT = 8 };

#define REACHES(length, field)                                                                     \
    ((length) >= offsetof(struct tcp_info, field) + sizeof((struct tcp_info *)0)->field)

struct tcp_state tcp_state_of(int fd)
{
    struct tcp_info info = {0};
    socklen_t length = sizeof info;
    int saved = errno;
    bool known = kernel_call(SYS_getsockopt, fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0;
    errno = saved;
    if (!known)
        return (struct tcp_state){0};
    return (struct tcp_state){
        .known = true,
        .is_closed = info.tcpi_state == STATE_CLOSED,
        .peer_ended = info.tcpi_state == STATE_CLOSE_WAIT,
        .tells_acked = REACHES(length, tcpi_bytes_acked),
        .waiting = info.tcpi_unacked,
        .backlog = info.tcpi_sacked,
        .acked_ago = info.tcpi_last_ack_recv * MILLISECOND,
        .input_ago = info.tcpi_last_data_recv * MILLISECOND,
        .bytes_acked = info.tcpi_bytes_acked,
        .bytes_received = info.tcpi_bytes_received,
    };
}

bool tcp_dissolve(int fd)
{
    struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    return kernel_call(SYS_connect, fd, &nobody, sizeof nobody) == 0;
}
