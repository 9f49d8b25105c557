/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Does one thing so many times, alone and in order, so that its system calls can be counted:
 * `syscalls accept|connect|listen STYLE TIMES`. Before each time, and after the last, it makes a
 * call that stands for nothing else, getppid, so that a trace can be cut there. Both ends are this
 * process: clients wait in the listener's queue before the first is accepted, and the servers of
 * `connect` accept nobody.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

#define TIMES_MOST 100

static struct sockaddr_in server = {.sin_family = AF_INET};
static int set = -1;

__attribute__((noreturn)) static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int stream(int flags)
{
    int fd = socket(AF_INET, SOCK_STREAM | flags, 0);
    if (fd < 0)
        die("socket");
    return fd;
}

static int listener(int flags)
{
    struct sockaddr_in anywhere = {.sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = stream(flags);
    if (bind(fd, (struct sockaddr *)&anywhere, sizeof anywhere) < 0 || listen(fd, TIMES_MOST) < 0)
        die("listen");
    return fd;
}

static void know_server(int fd)
{
    socklen_t length = sizeof server;
    if (getsockname(fd, (struct sockaddr *)&server, &length) < 0)
        die("getsockname");
}

/* --- accept --- */

static void wait_nothing(int fd)
{
    (void)fd;
}

static void wait_poll(int fd)
{
    struct pollfd watched = {.fd = fd, .events = POLLIN};
    if (poll(&watched, 1, -1) != 1)
        die("poll");
}

static void wait_select(int fd)
{
    fd_set watched;
    FD_ZERO(&watched);
    FD_SET(fd, &watched);
    if (select(fd + 1, &watched, NULL, NULL, NULL) != 1)
        die("select");
}

static void wait_epoll(int fd)
{
    struct epoll_event event = {.events = EPOLLIN};
    if (set < 0) {
        set = epoll_create1(EPOLL_CLOEXEC);
        if (epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) < 0)
            die("epoll_ctl");
    }
    if (epoll_wait(set, &event, 1, -1) != 1)
        die("epoll_wait");
}

static void handle(int number)
{
    (void)number;
}

static const struct {
    const char *name;
    void (*wait)(int fd);
    int flags;
    bool handles;
} accepts[] = {
    {"blocking", wait_nothing, 0, false},
    {"blocking-with-handler", wait_nothing, 0, true},
    {"poll-blocking", wait_poll, 0, false},
    {"non-blocking", wait_nothing, SOCK_NONBLOCK, false},
    {"poll", wait_poll, SOCK_NONBLOCK, false},
    {"select", wait_select, SOCK_NONBLOCK, false},
    {"epoll", wait_epoll, SOCK_NONBLOCK, false},
};

static bool do_accept(const char *style, int times)
{
    size_t i = 0;
    while (i < sizeof accepts / sizeof *accepts && strcmp(accepts[i].name, style) != 0)
        i++;
    if (i == sizeof accepts / sizeof *accepts)
        return false;
    if (accepts[i].handles)
        signal(SIGUSR1, handle);
    int fd = listener(accepts[i].flags);
    know_server(fd);
    for (int client = 0; client < times; client++)
        if (connect(stream(0), (struct sockaddr *)&server, sizeof server) < 0)
            die("connect");
    for (int client = 0; client < times; client++) {
        getppid();
        accepts[i].wait(fd);
        int accepted = accept(fd, NULL, NULL);
        if (accepted < 0)
            die("accept");
        close(accepted);
    }
    return true;
}

/* --- connect --- */

static void connect_once(bool blocking)
{
    getppid();
    int fd = stream(blocking ? 0 : SOCK_NONBLOCK), error = 0;
    socklen_t length = sizeof error;
    struct pollfd watched = {.fd = fd, .events = POLLOUT};
    if (connect(fd, (struct sockaddr *)&server, sizeof server) < 0 &&
        (blocking || errno != EINPROGRESS))
        die("connect");
    if (!blocking && (poll(&watched, 1, -1) != 1 ||
                      getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0 || error))
        die("poll");
    close(fd);
}

static bool do_connect(const char *style, int times)
{
    bool blocking = strcmp(style, "blocking") == 0;
    if (!blocking && strcmp(style, "non-blocking") != 0)
        return false;
    know_server(listener(0));
    for (int i = 0; i < times; i++)
        connect_once(blocking);
    return true;
}

/* --- listen --- */

static bool do_listen(const char *style, int times)
{
    if (strcmp(style, "listen") != 0)
        return false;
    for (int i = 0; i < times; i++) {
        getppid();
        close(listener(0));
    }
    return true;
}

static const struct {
    const char *name;
    bool (*run)(const char *style, int times);
} things[] = {{"accept", do_accept}, {"connect", do_connect}, {"listen", do_listen}};

int main(int argc, char **argv)
{
    int times = argc == 4 ? atoi(argv[3]) : 0;
    for (size_t i = 0; times > 0 && times <= TIMES_MOST && i < sizeof things / sizeof *things; i++)
        if (strcmp(things[i].name, argv[1]) == 0 && things[i].run(argv[2], times)) {
            getppid();
            return 0;
        }
    fprintf(stderr, "usage: syscalls accept|connect|listen STYLE TIMES\n");
    return 2;
}
