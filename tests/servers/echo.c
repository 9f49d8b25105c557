/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * An echo server in every style of waiting, which keeps what it cannot send in memory without
 * limit: a program with no back pressure of its own. `echo STYLE PORT`.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "rearming.h"

#define CONNECTIONS 1024
#define EVENTS 64
#define AT_ONCE 65536
#define THREADS 3

static struct connection {
    bool open, ended; /* ended: the client sent its last byte */
    atomic_bool busy; /* a thread serves it; with EPOLLONESHOT no other can be told of it */
    uint8_t *pending;
    size_t start, end, room;
} connections[CONNECTIONS];
static int listener, set = -1;

static void keep(struct connection *c, const uint8_t *bytes, size_t length)
{
    if (c->start == c->end)
        c->start = c->end = 0;
    if (c->end + length > c->room) {
        c->room = (c->end + length) * 2;
        c->pending = realloc(c->pending, c->room);
        if (!c->pending)
            abort();
    }
    memcpy(c->pending + c->end, bytes, length);
    c->end += length;
}

/* Sends what it can, in calls and sizes of all sorts. False when the connection broke. */
static bool flush(int fd, struct connection *c)
{
    static _Thread_local unsigned turn;
    while (c->start < c->end) {
        size_t left = c->end - c->start, part = left;
        ssize_t sent;
        struct iovec parts[2] = {{c->pending + c->start, left / 3},
                                 {c->pending + c->start + left / 3, left - left / 3}};
        switch (turn++ % 5) {
        case 0:
            sent = write(fd, c->pending + c->start, left);
            break;
        case 1:
            sent = writev(fd, parts, 2);
            break;
        case 2:
            part = left > 777 ? 777 : left;
            sent = send(fd, c->pending + c->start, part, MSG_NOSIGNAL);
            break;
        case 3:
            sent = sendmsg(fd, &(struct msghdr){.msg_iov = parts, .msg_iovlen = 2}, MSG_DONTWAIT);
            break;
        default:
            part = left > 40001 ? 40001 : left;
            sent = sendto(fd, c->pending + c->start, part, part < left ? MSG_MORE : 0, NULL, 0);
        }
        if (sent < 0)
            return errno == EAGAIN || errno == EINTR;
        c->start += (size_t)sent;
    }
    return true;
}

/* Reads what is there. False when the connection broke. */
static bool fill(int fd, struct connection *c, bool until_empty)
{
    static _Thread_local uint8_t buffer[AT_ONCE];
    do {
        ssize_t got = read(fd, buffer, sizeof buffer);
        if (got < 0)
            return errno == EAGAIN || errno == EINTR;
        if (got == 0) {
            c->ended = true;
            return true;
        }
        keep(c, buffer, (size_t)got);
    } while (until_empty);
    return true;
}

static void finish(int fd)
{
    struct connection *c = &connections[fd];
    free(c->pending);
    *c = (struct connection){.open = false};
    rearming_begin();
    close(fd);
    rearming_end();
}

static bool done(const struct connection *c)
{
    return c->ended && c->start == c->end;
}

static int take_one(bool nonblocking)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0));
    if (fd >= CONNECTIONS)
        abort();
    if (fd >= 0)
        connections[fd] = (struct connection){.open = true};
    return fd;
}

/* --- epoll --- */

static void watch(int operation, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events};
    event.data.fd = fd;
    if (epoll_ctl(set, operation, fd, &event) < 0 && errno != ENOENT)
        perror("epoll_ctl");
}

static uint32_t style_flags;

static uint32_t wishes(const struct connection *c)
{
    if (style_flags == EPOLLET)
        return EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    return (c->ended ? 0U : EPOLLIN) | (c->start < c->end ? EPOLLOUT : 0U) | style_flags;
}

static void serve(int fd, uint32_t events)
{
    struct connection *c = &connections[fd];
    bool fine = true;
    if (atomic_exchange(&c->busy, true)) {
        fputs("echo: two threads were told of the same connection\n", stderr);
        abort();
    }
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP) && !c->ended)
        fine = fill(fd, c, style_flags == EPOLLET);
    fine = fine && flush(fd, c);
    if (!fine || done(c)) {
        finish(fd);
        return;
    }
    uint32_t wanted = wishes(c);
    atomic_store(&c->busy, false);
    rearming_begin();
    if (style_flags != EPOLLET)
        watch(EPOLL_CTL_MOD, fd, wanted);
    rearming_end();
}

static void *epoll_loop(void *unused)
{
    struct epoll_event events[EVENTS];
    (void)unused;
    for (;;) {
        int ready = epoll_wait(set, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                serve(fd, events[i].events);
                continue;
            }
            while ((fd = take_one(true)) >= 0)
                watch(EPOLL_CTL_ADD, fd, wishes(&connections[fd]));
        }
    }
    return NULL;
}

static void run_epoll(uint32_t flags, int threads)
{
    pthread_t thread;
    style_flags = flags;
    set = epoll_create1(EPOLL_CLOEXEC);
    fcntl(listener, F_SETFL, O_NONBLOCK);
    watch(EPOLL_CTL_ADD, listener, EPOLLIN);
    for (int i = 1; i < threads; i++)
        pthread_create(&thread, NULL, epoll_loop, NULL);
    epoll_loop(NULL);
}

/* --- poll and select --- */

static void run_poll(void)
{
    static struct pollfd fds[CONNECTIONS];
    fcntl(listener, F_SETFL, O_NONBLOCK);
    for (;;) {
        nfds_t count = 0;
        fds[count++] = (struct pollfd){.fd = listener, .events = POLLIN};
        for (int fd = 0; fd < CONNECTIONS; fd++)
            if (connections[fd].open)
                fds[count++] = (struct pollfd){
                    .fd = fd,
                    .events = (short)((connections[fd].ended ? 0 : POLLIN) |
                                      (connections[fd].start < connections[fd].end ? POLLOUT : 0))};
        poll(fds, count, -1);
        for (nfds_t i = 1; i < count; i++)
            if (fds[i].revents)
                serve(fds[i].fd, fds[i].revents & (POLLIN | POLLHUP | POLLERR) ? EPOLLIN : 0);
        if (fds[0].revents)
            while (take_one(true) >= 0)
                ;
    }
}

static void run_select(void)
{
    fcntl(listener, F_SETFL, O_NONBLOCK);
    for (;;) {
        fd_set readable, writable;
        FD_ZERO(&readable);
        FD_ZERO(&writable);
        FD_SET(listener, &readable);
        for (int fd = 0; fd < CONNECTIONS; fd++) {
            if (connections[fd].open && !connections[fd].ended)
                FD_SET(fd, &readable);
            if (connections[fd].open && connections[fd].start < connections[fd].end)
                FD_SET(fd, &writable);
        }
        select(CONNECTIONS, &readable, &writable, NULL, NULL);
        for (int fd = 0; fd < CONNECTIONS; fd++)
            if (fd != listener && connections[fd].open &&
                (FD_ISSET(fd, &readable) || FD_ISSET(fd, &writable)))
                serve(fd, FD_ISSET(fd, &readable) ? EPOLLIN : 0);
        if (FD_ISSET(listener, &readable))
            while (take_one(true) >= 0)
                ;
    }
}

/* --- a thread for each connection, blocking --- */

static void *talk(void *argument)
{
    int fd = (int)(intptr_t)argument;
    struct connection *c = &connections[fd];
    while (fill(fd, c, false) && !c->ended)
        while (c->start < c->end)
            if (!flush(fd, c))
                break;
    finish(fd);
    return NULL;
}

static void run_threads(void)
{
    pthread_attr_t detached;
    pthread_t thread;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    for (;;) {
        int fd = take_one(false);
        if (fd >= 0)
            pthread_create(&thread, &detached, talk, (void *)(intptr_t)fd);
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const char *style = argc > 1 ? argv[1] : "";
    int on = 1;

    signal(SIGPIPE, SIG_IGN);
    address.sin_port = htons((uint16_t)(argc > 2 ? atoi(argv[2]) : 0));
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(listener, 128) < 0) {
        perror("echo");
        return 1;
    }
    if (strcmp(style, "level") == 0)
        run_epoll(0, 1);
    if (strcmp(style, "edge") == 0)
        run_epoll(EPOLLET, 1);
    if (strcmp(style, "oneshot") == 0)
        run_epoll(EPOLLONESHOT, THREADS);
    if (strcmp(style, "poll") == 0)
        run_poll();
    if (strcmp(style, "select") == 0)
        run_select();
    if (strcmp(style, "threads") == 0)
        run_threads();
    fprintf(stderr, "echo: %s: no such style\n", style);
    return 2;
}
