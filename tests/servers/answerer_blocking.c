/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who serves one connection at a time, and waits in its reads. */
#include "answerer.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static bool write_all(int fd, const char *bytes, size_t length)
{
    while (length) {
        ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return false;
        bytes += sent;
        length -= (size_t)sent;
    }
    return true;
}

static void answer(struct conn *conn)
{
    struct exchange *exchange = conn->exchange;
    char tag[TAG_MOST];
    exchange_begins(exchange);
    work(exchange);
    act(exchange);
    memcpy(tag, exchange->tag, sizeof tag);
    conn->out_length = exchange_answers(exchange, conn->out, sizeof conn->out);
    /* Before the client knows, who may then ask for something to be done to it. */
    pthread_mutex_lock(&conn->lock);
    memcpy(conn->tag, tag, sizeof tag);
    pthread_mutex_unlock(&conn->lock);
}

/* The next request; false at the end. */
static bool ask(struct conn *conn)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    struct exchange *exchange = conn->exchange;
    while (!exchange_take(exchange)) {
        if (exchange->part != PART_HEAD && exchange->expects) {
            exchange->expects = false;
            if (!write_all(conn->fd, go_on, sizeof go_on - 1))
                return false;
        }
        ssize_t got =
            read_once(conn->fd, exchange->input + exchange->length, INPUT_MOST - exchange->length);
        if (got < 0 && errno == EINTR)
            atomic_fetch_add(&shared->interrupted, 1);
        else if (got < 0 && errno == EAGAIN && options.timeout_ms)
            atomic_fetch_add(&shared->timed_out, 1);
        else if (got <= 0)
            return false;
        else
            exchange->length += (size_t)got;
    }
    return true;
}

static void end(void *argument)
{
    struct conn *conn = argument;
    pthread_mutex_lock(&conn->lock);
    conn->has_thread = false;
    conn_end(conn);
    pthread_mutex_unlock(&conn->lock);
}

static void end_cancelled(void *argument)
{
    atomic_fetch_add(&shared->cancelled, 1);
    end(argument);
}

static void *serve(void *argument)
{
    struct conn *conn = argument;
    pthread_mutex_lock(&conn->lock);
    conn->thread = pthread_self();
    conn->has_thread = true;
    pthread_mutex_unlock(&conn->lock);
    pthread_cleanup_push(end_cancelled, conn);
    while (ask(conn)) {
        bool closes = conn->exchange->closes;
        answer(conn);
        if (!write_all(conn->fd, conn->out, conn->out_length) || closes)
            break;
    }
    pthread_cleanup_pop(0);
    end(conn);
    return NULL;
}

static struct conn *take_blocking(void)
{
    for (;;) {
        int fd = take();
        if (fd >= 0)
            return conn_begin(fd);
        if (errno != EINTR && errno != EAGAIN && errno != ECONNABORTED)
            die("accept");
    }
}

void run_blocking(void)
{
    pthread_t thread;
    for (;;)
        start_thread(&thread, serve, take_blocking());
}

void run_prefork(void)
{
    for (;;)
        serve(take_blocking());
}

void run_forking(void)
{
    for (;;) {
        struct conn *conn = take_blocking();
        if (fork() == 0) {
            close(listener);
            serve(conn);
            _exit(0);
        }
        close(conn->fd);
    }
}
