/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A crowd of clients: all connect at once, each asks one thing, and stays until it is sent away.
 */
#ifndef TESTS_CROWD_H
#define TESTS_CROWD_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

enum client_state {
    CLIENT_CONNECTING,
    CLIENT_WAITING, /* connected, and its request is sent */
    CLIENT_SERVED,  /* something came back */
    CLIENT_ENDED,   /* the server closed after what it said */
    CLIENT_RESET,   /* ECONNRESET */
    CLIENT_FAILED,  /* any other error */
    CLIENT_LEFT,    /* closed by us */
};

#define CLIENT_ANSWER_MAX 1024

struct client {
    int fd;
    enum client_state state;
    bool asked;
    size_t length;
    char answer[CLIENT_ANSWER_MAX];
};

struct crowd {
    struct client *client;
    size_t count;
    const char *request;
    size_t request_length;
};

/* Starts `count` non-blocking connects to `address`, from `from` unless NULL. Freed by crowd_end.
 */
void crowd_start(struct crowd *crowd, size_t count, const struct sockaddr *address,
                 socklen_t length, const struct sockaddr *from, socklen_t from_length,
                 const char *request, size_t request_length);
void crowd_end(struct crowd *crowd);

/* Lets everybody get on, waiting at most `timeout_ms` for something to happen. */
void crowd_step(struct crowd *crowd, int timeout_ms);

size_t crowd_count(const struct crowd *crowd, enum client_state state);

/* Steps until at least `count` are in `state`, at most `timeout_ms`; whether they are. */
bool crowd_until(struct crowd *crowd, enum client_state state, size_t count, int timeout_ms);

/* Those served close their connections; returns how many did. */
size_t crowd_leave(struct crowd *crowd);

double seconds_now(void);

#endif
