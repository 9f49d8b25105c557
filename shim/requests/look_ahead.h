/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A look at the request that waits in a connection's socket, before the program reads it: where it
 * ends, whether it may wait or be refused, and when it arrived. One system call, or two where the
 * kernel puts no time on what it received; made only where somebody may have to wait.
 */
#ifndef BACKPRESSURE_LOOK_AHEAD_H
#define BACKPRESSURE_LOOK_AHEAD_H

#include "requests/entries.h"

#include <sys/socket.h>
#include <sys/types.h>

#define LOOK_AHEAD_MAX 4096 /* bytes that are looked at */
/* How much of a longer request may be refused; what is longer still waits, or its connection ends.
 */
#define LOOK_AHEAD_FURTHEST 65536

struct ahead {
    ssize_t there;  /* bytes that were looked at, or shown to be there; 0 at the end of input; -1:
                       none, or an error */
    bool nothing;   /* no input, and not at its end either */
    size_t ends_at; /* how many of them are the request's when it ends among them, else 0 */
    size_t transaction; /* how many of them are of the transaction that it opens, with its end; 0
                           when that is not there */
    enum request_step step;
    uint64_t arrived_ns;          /* CLOCK_MONOTONIC; 0 when nobody tells */
    struct request_stream stream; /* behind the request, or behind all that is there */
};

/* Looks at what waits in the connection `fd`. errno is kept. */
void look_ahead(int fd, const struct request *request, struct ahead *ahead);

/* Looks for the end of a request that goes on behind what was looked at. One system call for each
 * LOOK_AHEAD_MAX bytes; errno is kept. */
void look_ahead_further(int fd, struct ahead *ahead);

/* How many bytes wait: SIOCINQ, tcp(7), unix(7). errno is kept. */
size_t look_ahead_unread(int fd);

/* The limits for request_ask, in `room` where they are read: only exempt-request counts there, and
 * without it nobody copies them for each read. */
const struct limits *look_ahead_limits(struct limits *room);

/* Room for the control message in which recvmsg(2) says when what it read arrived. */
union arrival_control {
    char bytes[CMSG_SPACE(sizeof(struct timespec))];
    struct cmsghdr alignment;
};

/* Has the kernel put the time on all that it receives for the connection from now on:
 * SO_TIMESTAMPNS, socket(7). Once a connection. */
void look_ahead_stamp(int fd, struct request *request);

/* When what `message` brought had arrived: CLOCK_MONOTONIC; 0 when it does not tell. */
uint64_t look_ahead_arrival(struct msghdr *message);

#endif
