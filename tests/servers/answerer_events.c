/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who serves many connections at once, and waits for all of them. A request's work is a time that
 * passes meanwhile; in the styles `oneshot` and `workers` a thread sleeps through it.
 */
#include "answerer.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 64

static const struct loop *loop; /* of this process */

/* How a loop waits. */
struct loop {
    void (*watch)(struct conn *conn, unsigned events, bool new);
    void (*wait)(int timeout_ms);
    bool edge;        /* is told once: reads until there is no more */
    bool both_always; /* asks for IN and OUT all the time */
    bool hands_out;   /* other threads work and answer */
};

/* --- one connection; its lock is held --- */

/* False when the connection has failed. */
static bool flush(struct conn *conn)
{
    while (conn->out_at < conn->out_length) {
        ssize_t sent =
            send(conn->fd, conn->out + conn->out_at, conn->out_length - conn->out_at, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN)
            return true;
        if (sent < 0)
            return false;
        conn->out_at += (size_t)sent;
    }
    conn->out_at = conn->out_length = 0;
    return true;
}

static bool read_some(struct conn *conn)
{
    struct exchange *exchange = conn->exchange;
    bool idle = !conn->working && !conn->out_length;
    if (!conn->readable || conn->ended || !(idle || options.eager) ||
        exchange->length == INPUT_MOST)
        return false;
    if (!loop->edge)
        conn->readable = false; /* one read for each time it was told */
    ssize_t got =
        read_once(conn->fd, exchange->input + exchange->length, INPUT_MOST - exchange->length);
    if (got < 0 && errno == EAGAIN) {
        conn->readable = false;
        return false;
    }
    if (got > 0)
        exchange->length += (size_t)got;
    else
        conn->ended = true;
    return true;
}

static void begin(struct conn *conn)
{
    exchange_begins(conn->exchange);
    conn->working = true;
    conn->due_ns = now_ns() + conn->exchange->work_us * UINT64_C(1000);
}

static void answer(struct conn *conn)
{
    char tag[TAG_MOST];
    conn->working = false;
    memcpy(tag, conn->exchange->tag, sizeof tag);
    act(conn->exchange);
    conn->ended |= conn->exchange->closes;
    conn->out_length = exchange_answers(conn->exchange, conn->out, sizeof conn->out);
    memcpy(conn->tag, tag, sizeof tag);
}

static void let_go_on(struct conn *conn)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (conn->exchange->part == PART_HEAD || !conn->exchange->expects)
        return;
    conn->exchange->expects = false;
    memcpy(conn->out, go_on, sizeof go_on - 1);
    conn->out_length = sizeof go_on - 1;
}

static void hand_out(struct conn *conn);

static bool done(const struct conn *conn)
{
    return conn->working && now_ns() >= conn->due_ns && exchange_released(conn->exchange);
}

/* Goes on with it as far as that is possible now. False when it is over. */
static bool go_on(struct conn *conn)
{
    for (;;) {
        if (!flush(conn))
            return false;
        bool idle = !conn->working && !conn->out_length;
        if (idle && exchange_take(conn->exchange)) {
            begin(conn);
            if (loop->hands_out)
                hand_out(conn);
        } else if (idle) {
            let_go_on(conn);
            if (conn->out_length)
                continue;
        }
        if (!loop->hands_out && done(conn)) {
            answer(conn);
            continue;
        }
        if (read_some(conn))
            continue;
        return !(conn->ended && !conn->working && !conn->out_length);
    }
}

static unsigned wanted(const struct conn *conn)
{
    bool idle = !conn->working && !conn->out_length;
    if (loop->edge)
        return EPOLLIN | EPOLLET | (loop->both_always ? EPOLLOUT : 0U);
    return ((idle || options.eager) && !conn->ended ? EPOLLIN : 0U) |
           (conn->out_length ? EPOLLOUT : 0U);
}

static void handle(struct conn *conn, bool readable)
{
    pthread_mutex_lock(&conn->lock);
    if (conn->open) {
        conn->readable |= readable;
        if (!go_on(conn))
            conn_end(conn);
        else if (wanted(conn) != conn->watched)
            loop->watch(conn, wanted(conn), false);
    }
    pthread_mutex_unlock(&conn->lock);
}

static void accept_one(void)
{
    int fd = take();
    if (fd < 0)
        return;
    struct conn *conn = conn_begin(fd);
    pthread_mutex_lock(&conn->lock);
    loop->watch(conn, wanted(conn), true);
    pthread_mutex_unlock(&conn->lock);
}

/* --- the loop --- */

static int till_next_ms(void)
{
    uint64_t least = UINT64_MAX, now = now_ns();
    for (int fd = 0; fd < CONNS_MOST && !loop->hands_out; fd++)
        if (conns[fd] && conns[fd]->open && conns[fd]->working && conns[fd]->due_ns < least)
            least = conns[fd]->due_ns;
    if (least == UINT64_MAX)
        return -1;
    if (least <= now) /* it waits to be released */
        return 1;
    return least > now ? (int)((least - now + 999999) / 1000000) : 0;
}

static void work_on(void)
{
    for (int fd = 0; fd < CONNS_MOST && !loop->hands_out; fd++)
        if (conns[fd] && conns[fd]->open && done(conns[fd]))
            handle(conns[fd], false);
}

static void run(const struct loop *how)
{
    loop = how;
    for (;;) {
        loop->wait(till_next_ms());
        work_on();
    }
}

/* --- epoll --- */

static int set = -1;

static void watch_by_epoll(struct conn *conn, unsigned events, bool new)
{
    struct epoll_event event = {.events = events, .data.fd = conn->fd};
    conn->set = set;
    conn->watched = events;
    if (epoll_ctl(set, new ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, conn->fd, &event) < 0)
        die("epoll_ctl");
}

static void make_set(unsigned events)
{
    struct epoll_event event = {.events = events, .data.fd = listener};
    set = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_ctl(set, EPOLL_CTL_ADD, listener, &event) < 0)
        die("epoll_ctl");
}

static void wait_by_epoll(int timeout_ms)
{
    struct epoll_event events[EVENTS];
    int ready = epoll_wait(set, events, EVENTS, timeout_ms);
    for (int i = 0; i < ready; i++) {
        if (events[i].data.fd == listener)
            accept_one();
        else
            handle(conns[events[i].data.fd], events[i].events & ~(unsigned)EPOLLOUT);
    }
}

void run_level(void)
{
    static const struct loop level = {watch_by_epoll, wait_by_epoll, false, false, false};
    make_set(EPOLLIN);
    run(&level);
}

void run_edge(void)
{
    static const struct loop edge = {watch_by_epoll, wait_by_epoll, true, false, false};
    make_set(EPOLLIN);
    run(&edge);
}

void run_edge_both(void)
{
    static const struct loop both = {watch_by_epoll, wait_by_epoll, true, true, false};
    make_set(EPOLLIN);
    run(&both);
}

/* --- poll and select --- */

static void watch_by_list(struct conn *conn, unsigned events, bool new)
{
    (void)new;
    conn->watched = events;
}

static void wait_by_poll(int timeout_ms)
{
    static struct pollfd fds[CONNS_MOST];
    nfds_t count = 1;
    fds[0] = (struct pollfd){.fd = listener, .events = POLLIN};
    for (int fd = 0; fd < CONNS_MOST; fd++)
        if (conns[fd] && conns[fd]->open && conns[fd]->watched)
            fds[count++] = (struct pollfd){.fd = fd, .events = (short)conns[fd]->watched};
    if (poll(fds, count, timeout_ms) <= 0)
        return;
    for (nfds_t i = 1; i < count; i++)
        if (fds[i].revents)
            handle(conns[fds[i].fd], fds[i].revents & ~POLLOUT);
    if (fds[0].revents)
        accept_one();
}

static void wait_by_select(int timeout_ms)
{
    fd_set in, out;
    int end = listener + 1;
    struct timeval time = {timeout_ms / 1000, timeout_ms % 1000 * 1000};
    FD_ZERO(&in);
    FD_ZERO(&out);
    FD_SET(listener, &in);
    for (int fd = 0; fd < FD_SETSIZE; fd++) {
        if (!conns[fd] || !conns[fd]->open)
            continue;
        if (conns[fd]->watched & EPOLLIN)
            FD_SET(fd, &in);
        if (conns[fd]->watched & EPOLLOUT)
            FD_SET(fd, &out);
        end = conns[fd]->watched && fd >= end ? fd + 1 : end;
    }
    if (select(end, &in, &out, NULL, timeout_ms < 0 ? NULL : &time) <= 0)
        return;
    for (int fd = 0; fd < end; fd++)
        if (fd != listener && (FD_ISSET(fd, &in) || FD_ISSET(fd, &out)))
            handle(conns[fd], FD_ISSET(fd, &in));
    if (FD_ISSET(listener, &in))
        accept_one();
}

void run_poll(void)
{
    static const struct loop poll_loop = {watch_by_list, wait_by_poll, false, false, false};
    run(&poll_loop);
}

void run_select(void)
{
    static const struct loop select_loop = {watch_by_list, wait_by_select, false, false, false};
    run(&select_loop);
}

/* --- EPOLLONESHOT: threads that each take what is next, and arm it again --- */

static void arm(int fd, unsigned events)
{
    struct epoll_event event = {.events = events | EPOLLONESHOT, .data.fd = fd};
    if (epoll_ctl(set, EPOLL_CTL_MOD, fd, &event) < 0)
        die("EPOLL_CTL_MOD");
}

static void accept_all(void)
{
    for (int fd; (fd = take()) >= 0;) {
        struct conn *conn = conn_begin(fd);
        pthread_mutex_lock(&conn->lock);
        watch_by_epoll(conn, EPOLLIN | EPOLLONESHOT, true);
        pthread_mutex_unlock(&conn->lock);
    }
    arm(listener, EPOLLIN);
}

/* Works where it stands, and answers, as often as there is something. */
static void serve_shot(struct conn *conn)
{
    pthread_mutex_lock(&conn->lock);
    conn->readable = true;
    bool goes_on = conn->open;
    while (goes_on && (goes_on = go_on(conn)) && conn->working)
        work(conn->exchange);
    if (goes_on)
        arm(conn->fd, EPOLLIN | (conn->out_length ? EPOLLOUT : 0U));
    else if (conn->open)
        conn_end(conn);
    pthread_mutex_unlock(&conn->lock);
}

static void *take_shots(void *argument)
{
    (void)argument;
    for (;;) {
        struct epoll_event event;
        if (epoll_wait(set, &event, 1, -1) != 1)
            continue;
        if (event.data.fd == listener)
            accept_all();
        else
            serve_shot(conns[event.data.fd]);
    }
    return NULL;
}

void run_oneshot(void)
{
    static const struct loop shots = {watch_by_epoll, NULL, true, false, false};
    pthread_t thread;
    loop = &shots;
    make_set(EPOLLIN | EPOLLONESHOT);
    for (int i = 1; i < options.threads; i++)
        start_thread(&thread, take_shots, NULL);
    take_shots(NULL);
}

/* --- a loop that reads, and workers that answer while it waits --- */

static pthread_mutex_t queue_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t queue_filled = PTHREAD_COND_INITIALIZER;
static int queue[CONNS_MOST];
static unsigned queue_first, queue_end;

static void hand_out(struct conn *conn)
{
    pthread_mutex_lock(&queue_lock);
    queue[queue_end++ % CONNS_MOST] = conn->fd;
    pthread_cond_signal(&queue_filled);
    pthread_mutex_unlock(&queue_lock);
}

static void *work_off(void *argument)
{
    (void)argument;
    for (;;) {
        pthread_mutex_lock(&queue_lock);
        while (queue_first == queue_end)
            pthread_cond_wait(&queue_filled, &queue_lock);
        struct conn *conn = conns[queue[queue_first++ % CONNS_MOST]];
        pthread_mutex_unlock(&queue_lock);
        work(conn->exchange); /* which the loop leaves alone meanwhile, but for its input */
        pthread_mutex_lock(&conn->lock);
        answer(conn);
        if (!go_on(conn))
            conn_end(conn);
        pthread_mutex_unlock(&conn->lock);
    }
    return NULL;
}

void run_workers(void)
{
    static const struct loop reads = {watch_by_epoll, wait_by_epoll, true, false, true};
    pthread_t thread;
    make_set(EPOLLIN);
    for (int i = 0; i < options.threads; i++)
        start_thread(&thread, work_off, NULL);
    run(&reads);
}
