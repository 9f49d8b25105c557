/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * 'Server busy' in the client's own protocol: recognising it, and composing the answer.
 */
#ifndef BACKPRESSURE_BUSY_H
#define BACKPRESSURE_BUSY_H

#include "limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BUSY_REPLY_MAX 512

enum busy_protocol {
    BUSY_IN_HTTP,
    BUSY_IN_HTTP2,
    BUSY_IN_TLS,
    BUSY_IN_REDIS,
    BUSY_IN_MEMCACHED,
    BUSY_IN_MEMCACHED_BINARY,
    BUSY_IN_SMTP,
    BUSY_IN_FTP,
    BUSY_IN_MYSQL,
    BUSY_IN_POSTGRES,
    BUSY_IN_POSTGRES_NEGOTIATION, /* not the last word: the client goes on, and is answered then */
    BUSY_IN_TEXT,
    BUSY_PROTOCOLS
};

enum busy_recognition { BUSY_RECOGNISED, BUSY_UNDECIDED, BUSY_UNKNOWN };

/* What is known of a client that is to be refused. */
struct busy_client {
    const char *sent; /* the first bytes that it sent */
    size_t length;
    uint16_t port;       /* that it connected to; 0 for AF_UNIX */
    const char *program; /* that listens there */
    bool out_of_time;    /* it will not say more */
};

/*
 * The protocol to answer in: the operator's choice, or for `auto` what the client's first bytes
 * are, or, in protocols where the server speaks first, what the program or the port is known for.
 */
enum busy_recognition busy_recognise(enum busy_reply chosen, const struct busy_client *client,
                                     enum busy_protocol *protocol);

/* Whether the client has said all it will say before it reads: then no answer can be lost by
 * closing at once. */
bool busy_has_all(enum busy_protocol protocol, const struct busy_client *client);

/*
 * Writes the answer, at most `size` (BUSY_REPLY_MAX holds any), and returns its length. Retry-After
 * is drawn anew, uniformly, for every answer, so that the refused do not come back together.
 */
size_t busy_compose(enum busy_protocol protocol, const struct limits *limits,
                    const struct busy_client *client, char *out, size_t size);

#endif
