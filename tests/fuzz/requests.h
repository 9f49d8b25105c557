/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What every dialect's rules for requests must hold to under hostile bytes: the same verdicts
 * however they are cut, nothing read beyond them, and time that grows no faster than they do, by
 * libFuzzer's -timeout.
 *
 * Input: how it is used, a seed for the cuts, then what the client sends.
 */
#ifndef BACKPRESSURE_FUZZ_REQUESTS_H
#define BACKPRESSURE_FUZZ_REQUESTS_H

#include "../unit/dialects/request_walk.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk_fails(const char *what)
{
    fprintf(stderr, "%s\n", what);
    abort();
}

#define FUZZ_HEAD 2
#define FUZZ_REPEATED (1 << 15)

/* A request that is repeated often, or never ends. */
static inline void fuzz_repeated(const struct limits *limits, enum busy_protocol protocol,
                                 const char *bytes, size_t length)
{
    static char repeated[FUZZ_REPEATED];
    struct walk walk;
    if (length == 0 || length > FUZZ_REPEATED)
        return;
    for (size_t at = 0; at + length <= FUZZ_REPEATED; at += length)
        memcpy(repeated + at, bytes, length);
    walk_begin(&walk, limits, protocol);
    walk_show(&walk, repeated, FUZZ_REPEATED / length * length);
    walk_end(&walk);
}

/* What the program wrote, too: it must not matter whether its bytes come singly. */
static inline void fuzz_answers(const struct walk *asked, const char *bytes, size_t length)
{
    struct request_stream whole = asked->stream, single = asked->stream;
    char *piece = malloc(length ? length : 1);
    enum answer_step all, most = ANSWER_NOTHING;
    if (!piece)
        abort();
    memcpy(piece, bytes, length);
    all = request_answer(&whole, piece, length, true);
    for (size_t i = 0; i < length && most != ANSWER_LEAVES; i++) {
        enum answer_step one = request_answer(&single, piece + i, 1, most == ANSWER_NOTHING);
        most = one > most ? one : most;
    }
    walk_check(all == most, "an answer says something else when it comes byte by byte");
    walk_check(whole.flags == single.flags && whole.state == single.state,
               "another place in an answer");
    free(piece);
}

/* The first bit of how it is used: whether the protocol is known; the second: repeated. `protocol`
 * may go by the others. */
static inline int fuzz_requests(enum busy_protocol protocol, const uint8_t *data, size_t size)
{
    static const char hello[] = "HELLO 3\r\n";
    struct limits limits;
    struct walk whole;
    if (size < FUZZ_HEAD)
        return 0;
    const char *bytes = (const char *)data + FUZZ_HEAD;
    size_t length = size - FUZZ_HEAD;
    enum busy_protocol known = data[0] & 1 ? protocol : BUSY_PROTOCOLS;
    limits_defaults(&limits);
    walk_all_cuts(&whole, &limits, known, bytes, length, data[1]);
    request_transaction(&whole.stream, &limits, bytes, length);
    walk_end(&whole);
    if (data[0] & 2)
        fuzz_repeated(&limits, known, bytes, length);
    walk_begin(&whole, &limits, protocol);
    if (protocol == BUSY_IN_REDIS)
        walk_show(&whole, hello, sizeof hello - 1);
    fuzz_answers(&whole, bytes, length);
    walk_end(&whole);
    return 0;
}

#endif
