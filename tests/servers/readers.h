/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Clients that ask for much and read when they are told to: each checks every byte that arrives.
 */
#ifndef TESTS_READERS_H
#define TESTS_READERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What is to arrive: a unit, so many times; behind an HTTP header, if there is one. */
struct expected {
    const uint8_t *unit;
    size_t unit_length;
    size_t times;
    bool http;
};

struct reader {
    int fd;
    const char *request;
    size_t request_left;
    bool in_header;
    unsigned header_match;
    char status[32]; /* how the header began */
    uint64_t got;    /* bytes behind the header */
    bool wrong, ended;
};

struct readers {
    struct reader *reader;
    size_t count;
    struct expected expected;
    char *requests;
};

/*
 * Connects `count` clients with a small receive buffer; each will send `request` `times` times.
 * Freed by readers_end.
 */
void readers_start(struct readers *readers, size_t count, uint16_t port, const char *request,
                   size_t times, const struct expected *expected);
void readers_end(struct readers *readers);

/* Sends what can be sent of the requests, and reads if `read` says so; waits at most `timeout_ms`.
 */
void readers_step(struct readers *readers, bool read, int timeout_ms);

/* How many have everything, and how many got something wrong or too little. */
size_t readers_complete(const struct readers *readers);
size_t readers_wrong(const struct readers *readers);

/* Reads until all have everything, or one is wrong, or `seconds` are over; whether all have. */
bool readers_read_all(struct readers *readers, double seconds);

/* Bytes in the send queues of the sockets on `port`, as `ss` has them; and how many those are. */
uint64_t queued_by_ss(uint16_t port, unsigned *sockets);

/* Bytes that look random, the same every time. */
void pattern_fill(uint8_t *out, size_t length);

#endif
