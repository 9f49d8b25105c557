/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Makes the same call many times, for callgrind to count:
 * `calls CALL untracked|tracked|listener TIMES`.
 *
 * Untracked is a descriptor that the shim has nothing to do with; tracked is a connection that was
 * accepted; at the listener nobody waits. What a run costs besides its calls falls out when two
 * runs of different length are subtracted.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static int fd, set;
static char byte;

static void call_read(void)
{
    if (read(fd, &byte, 1) > 0)
        abort();
}

static void call_recv(void)
{
    if (recv(fd, &byte, 1, 0) > 0)
        abort();
}

static void call_write(void)
{
    if (write(fd, "", 0) > 0)
        abort();
}

static void call_send(void)
{
    if (send(fd, "", 0, 0) > 0)
        abort();
}

static void call_writev(void)
{
    struct iovec nothing = {.iov_base = &byte, .iov_len = 0};
    if (writev(fd, &nothing, 1) > 0)
        abort();
}

static void call_poll(void)
{
    struct pollfd one = {.fd = fd, .events = POLLIN};
    if (poll(&one, 1, 0) < 0)
        abort();
}

static void call_select(void)
{
    fd_set readable;
    struct timeval now = {0, 0};
    FD_ZERO(&readable);
    FD_SET(fd, &readable);
    if (select(fd + 1, &readable, NULL, NULL, &now) < 0)
        abort();
}

static void call_epoll_wait(void)
{
    struct epoll_event event;
    if (epoll_wait(set, &event, 1, 0) < 0)
        abort();
}

static void call_fcntl(void)
{
    if (fcntl(fd, F_GETFD) < 0)
        abort();
}

static void call_readv(void)
{
    struct iovec one = {.iov_base = &byte, .iov_len = 1};
    if (readv(fd, &one, 1) > 0)
        abort();
}

static void call_recvfrom(void)
{
    if (recvfrom(fd, &byte, 1, 0, NULL, NULL) > 0)
        abort();
}

static void call_recvmsg(void)
{
    struct iovec one = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1};
    if (recvmsg(fd, &message, 0) > 0)
        abort();
}

static void call_sendto(void)
{
    if (sendto(fd, "", 0, 0, NULL, 0) > 0)
        abort();
}

static void call_sendmsg(void)
{
    struct iovec nothing = {.iov_base = &byte, .iov_len = 0};
    struct msghdr message = {.msg_iov = &nothing, .msg_iovlen = 1};
    if (sendmsg(fd, &message, 0) > 0)
        abort();
}

static void call_ppoll(void)
{
    struct pollfd one = {.fd = fd, .events = POLLIN};
    struct timespec now = {0, 0};
    if (ppoll(&one, 1, &now, NULL) < 0)
        abort();
}

static void call_pselect(void)
{
    fd_set readable;
    struct timespec now = {0, 0};
    FD_ZERO(&readable);
    FD_SET(fd, &readable);
    if (pselect(fd + 1, &readable, NULL, NULL, &now, NULL) < 0)
        abort();
}

static void call_epoll_pwait(void)
{
    struct epoll_event event;
    if (epoll_pwait(set, &event, 1, 0, NULL) < 0)
        abort();
}

static void call_epoll_ctl(void)
{
    struct epoll_event event = {.events = EPOLLIN, .data = {.fd = fd}};
    if (epoll_ctl(set, EPOLL_CTL_MOD, fd, &event) < 0)
        abort();
}

static void call_ioctl(void)
{
    int waiting;
    if (ioctl(fd, FIONREAD, &waiting) < 0)
        abort();
}

static void call_getsockopt(void)
{
    int value;
    socklen_t length = sizeof value;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &length) < 0)
        abort();
}

static void call_setsockopt(void)
{
    int on = 1;
    if (setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) < 0)
        abort();
}

static void call_accept4(void)
{
    if (accept4(fd, NULL, NULL, 0) >= 0)
        abort();
}

/* A number that is not open: what is counted is the call, not the kernel's work. */
static void call_close(void)
{
    if (close(1000) == 0)
        abort();
}

static const struct {
    const char *name;
    void (*make)(void);
} calls[] = {
    {"read", call_read},
    {"recv", call_recv},
    {"readv", call_readv},
    {"recvfrom", call_recvfrom},
    {"recvmsg", call_recvmsg},
    {"write", call_write},
    {"send", call_send},
    {"writev", call_writev},
    {"sendto", call_sendto},
    {"sendmsg", call_sendmsg},
    {"poll", call_poll},
    {"ppoll", call_ppoll},
    {"select", call_select},
    {"pselect", call_pselect},
    {"epoll_wait", call_epoll_wait},
    {"epoll_pwait", call_epoll_pwait},
    {"epoll_ctl", call_epoll_ctl},
    {"fcntl", call_fcntl},
    {"ioctl", call_ioctl},
    {"getsockopt", call_getsockopt},
    {"setsockopt", call_setsockopt},
    {"close", call_close},
    {"accept4", call_accept4},
};

static int listening(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 1) < 0)
        abort();
    return listener;
}

static int accepted(void)
{
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    int listener = listening(), client = socket(AF_INET, SOCK_STREAM, 0);
    if (getsockname(listener, (struct sockaddr *)&address, &length) < 0 ||
        connect(client, (struct sockaddr *)&address, length) < 0)
        abort();
    return accept4(listener, NULL, NULL, SOCK_NONBLOCK);
}

static int untracked(void)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) < 0)
        abort();
    return pair[0];
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: calls CALL untracked|tracked|listener TIMES\n");
        return 2;
    }
    fd = strcmp(argv[2], "tracked") == 0    ? accepted()
         : strcmp(argv[2], "listener") == 0 ? listening()
                                            : untracked();
    struct epoll_event nothing = {.events = EPOLLPRI};
    set = epoll_create1(0);
    if (fd < 0 || set < 0 || epoll_ctl(set, EPOLL_CTL_ADD, fd, &nothing) < 0)
        return 1;
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        for (long times = strcmp(calls[i].name, argv[1]) == 0 ? atol(argv[3]) : 0; times > 0;
             times--)
            calls[i].make();
    return 0;
}
