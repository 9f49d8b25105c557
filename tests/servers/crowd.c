/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "crowd.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void start(struct client *client, const struct sockaddr *address, socklen_t length,
                  const struct sockaddr *from, socklen_t from_length)
{
    client->fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    client->state = CLIENT_CONNECTING;
    if (client->fd < 0 || (from && bind(client->fd, from, from_length) < 0) ||
        (connect(client->fd, address, length) < 0 && errno != EINPROGRESS))
        client->state = CLIENT_FAILED;
}

void crowd_start(struct crowd *crowd, size_t count, const struct sockaddr *address,
                 socklen_t length, const struct sockaddr *from, socklen_t from_length,
                 const char *request, size_t request_length)
{
    crowd->client = calloc(count, sizeof *crowd->client);
    crowd->count = crowd->client ? count : 0;
    crowd->request = request;
    crowd->request_length = request_length;
    for (size_t i = 0; i < crowd->count; i++)
        start(&crowd->client[i], address, length, from, from_length);
}

void crowd_end(struct crowd *crowd)
{
    for (size_t i = 0; i < crowd->count; i++)
        if (crowd->client[i].fd >= 0)
            close(crowd->client[i].fd);
    free(crowd->client);
    crowd->client = NULL;
    crowd->count = 0;
}

static void fail(struct client *client, int error)
{
    if (error != EAGAIN && error != EINTR)
        client->state = error == ECONNRESET || error == EPIPE ? CLIENT_RESET : CLIENT_FAILED;
}

static void ask(struct client *client, const struct crowd *crowd)
{
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(client->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error) {
        fail(client, error);
        return;
    }
    if (crowd->request_length && send(client->fd, crowd->request, crowd->request_length,
                                      MSG_NOSIGNAL) != (ssize_t)crowd->request_length) {
        fail(client, errno);
        return;
    }
    client->asked = true;
    client->state = CLIENT_WAITING;
}

static void listen_to(struct client *client)
{
    char dropped[4096];
    size_t room = sizeof client->answer - 1 - client->length;
    ssize_t got = recv(client->fd, room ? client->answer + client->length : dropped,
                       room ? room : sizeof dropped, 0);
    if (got > 0) {
        client->length += room ? (size_t)got : 0;
        client->state = CLIENT_SERVED;
    } else if (got == 0) {
        client->state = CLIENT_ENDED;
    } else {
        fail(client, errno);
    }
}

static bool lives(const struct client *client)
{
    return client->state == CLIENT_CONNECTING || client->state == CLIENT_WAITING ||
           client->state == CLIENT_SERVED;
}

void crowd_step(struct crowd *crowd, int timeout_ms)
{
    struct pollfd *fds = calloc(crowd->count, sizeof *fds);
    for (size_t i = 0; fds && i < crowd->count; i++) {
        struct client *client = &crowd->client[i];
        fds[i].fd = lives(client) ? client->fd : -1;
        fds[i].events = client->state == CLIENT_CONNECTING ? POLLOUT : POLLIN;
    }
    if (fds && poll(fds, crowd->count, timeout_ms) > 0) {
        for (size_t i = 0; i < crowd->count; i++) {
            if (fds[i].revents == 0)
                continue;
            if (!crowd->client[i].asked)
                ask(&crowd->client[i], crowd);
            else
                listen_to(&crowd->client[i]);
        }
    }
    free(fds);
}

size_t crowd_count(const struct crowd *crowd, enum client_state state)
{
    size_t count = 0;
    for (size_t i = 0; i < crowd->count; i++)
        count += crowd->client[i].state == state;
    return count;
}

bool crowd_until(struct crowd *crowd, enum client_state state, size_t count, int timeout_ms)
{
    double deadline = seconds_now() + timeout_ms / 1000.0;
    while (crowd_count(crowd, state) < count && seconds_now() < deadline)
        crowd_step(crowd, 20);
    return crowd_count(crowd, state) >= count;
}

size_t crowd_leave(struct crowd *crowd)
{
    size_t left = 0;
    for (size_t i = 0; i < crowd->count; i++) {
        struct client *client = &crowd->client[i];
        if (client->state != CLIENT_SERVED)
            continue;
        close(client->fd);
        client->fd = -1;
        client->state = CLIENT_LEFT;
        left++;
    }
    return left;
}
