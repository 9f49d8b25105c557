/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What each protocol's file says of it, for a client that is to be told 'busy'. Everything here is
 * pure: it looks at bytes in memory, and is safe in signal handlers.
 */
#ifndef BACKPRESSURE_DIALECT_H
#define BACKPRESSURE_DIALECT_H

#include "limits/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum busy_recognition { BUSY_RECOGNISED, BUSY_UNDECIDED, BUSY_UNKNOWN };

/* What is known of a client that is to be refused. */
struct busy_client {
    const char *sent; /* the first bytes that it sent */
    size_t length;
    uint16_t port;       /* that it connected to; 0 for AF_UNIX */
    const char *program; /* that listens there */
    bool out_of_time;    /* it will not say more */
};

/* An answer under way: what it says follows from `limits` and `client`, and goes to `out`. */
struct busy_answer {
    const struct limits *limits;
    const struct busy_client *client; /* NULL when nothing is known */
    char *out;
    size_t size; /* of out, in bytes */
};

struct request_rules;

struct dialect {
    /* Whether these are a client's first bytes; there is at least one. NULL where the server speaks
     * first, so that nothing a client sends tells. */
    enum busy_recognition (*recognise)(const struct busy_client *client);
    /* Writes the answer and returns its length; 0 when there is no room for it. */
    size_t (*refuse)(const struct busy_answer *answer);
    /* Whether the client has said all that it says before it reads. NULL: that cannot be known. */
    bool (*has_all)(const struct busy_client *client);
    /* Another form of the protocol, which an operator's choice of this one stands for, too; the
     * client must have spoken before it is known which, and then has a place for the answer. */
    const struct dialect *variant;
    /* Where the server speaks first: what it is known by. Both end with 0 or NULL. */
    const uint16_t *ports;
    const char *const *programs;
    /* How its requests follow one another: request.h. NULL: its connections are left alone. */
    const struct request_rules *requests;
};

#define DIALECT(id, symbol, choice) extern const struct dialect symbol;
#include "limits/dialects.def"
#undef DIALECT

/* Whether what was sent begins with `words`, or might go on to. */
enum busy_recognition dialect_begins(const struct busy_client *client, const char *words,
                                     bool any_case);

/* Whether it begins with one of `words`, of which NULL is the last. */
enum busy_recognition dialect_begins_with_one(const struct busy_client *client,
                                              const char *const words[], bool any_case);

/* Copies as much of an answer as there is room for; returns its length. */
size_t dialect_put(const struct busy_answer *answer, const void *bytes, size_t length);

#endif
