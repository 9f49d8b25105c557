/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows a client's bytes to a dialect in pieces, and keeps where its requests ended: how the bytes
 * were cut must make no difference.
 *
 * A header, as tests and fuzzers have no objects in common. A check that fails calls walk_fails,
 * which its includer has.
 */
#ifndef BACKPRESSURE_TEST_REQUEST_WALK_H
#define BACKPRESSURE_TEST_REQUEST_WALK_H

#include "dialects/request.h"

#include <stdlib.h>
#include <string.h>

static void walk_fails(const char *what);

struct walk_end {
    size_t at; /* bytes from the beginning */
    uint32_t flags;
};

struct walk {
    struct request_stream stream;
    const struct limits *limits;
    struct walk_end *ends;
    size_t count, room, taken;
};

static inline void walk_begin(struct walk *walk, const struct limits *limits,
                              enum busy_protocol protocol)
{
    memset(walk, 0, sizeof *walk);
    walk->limits = limits;
    if (protocol >= BUSY_PROTOCOLS)
        return;
    walk->stream.state = STREAM_REQUESTS;
    walk->stream.protocol = (uint8_t)protocol;
}

static inline void walk_end(struct walk *walk)
{
    free(walk->ends);
    walk->ends = NULL;
}

static inline void walk_check(bool holds, const char *what)
{
    if (!holds)
        walk_fails(what);
}

static inline void walk_keep(struct walk *walk)
{
    if (walk->count == walk->room) {
        walk->room = walk->room ? walk->room * 2 : 64;
        walk->ends = realloc(walk->ends, walk->room * sizeof *walk->ends);
        if (!walk->ends)
            abort();
    }
    walk->ends[walk->count++] = (struct walk_end){walk->taken, walk->stream.flags};
    walk_check(request_between(&walk->stream), "a request ended, and another is under way");
}

/* One piece, in memory of its own size, so that a sanitizer sees what is read beyond it. */
static inline void walk_show(struct walk *walk, const char *bytes, size_t length)
{
    char *piece = malloc(length ? length : 1), refusal[REQUEST_REFUSAL_MAX];
    if (!piece)
        abort();
    memcpy(piece, bytes, length);
    for (size_t shown = 0; shown < length && walk->stream.state != STREAM_ALONE;) {
        enum request_step step;
        size_t took =
            request_ask(&walk->stream, walk->limits, piece + shown, length - shown, &step);
        walk_check(took <= length - shown, "more was taken than there is");
        walk_check(step == REQUEST_ENDS || took == length - shown, "bytes were left over");
        shown += took;
        walk->taken += took;
        walk_check((step == REQUEST_LEAVES) == (walk->stream.state == STREAM_ALONE),
                   "left, and not alone");
        if (step != REQUEST_ENDS)
            continue;
        walk_keep(walk);
        size_t said = request_refuse(&walk->stream, walk->limits, false, refusal, sizeof refusal);
        walk_check(said <= sizeof refusal, "a refusal longer than its room");
    }
    free(piece);
}

/* In pieces of `width` bytes, which is not 0, or of 1 to `width`, drawn from `chance`. */
static inline void walk_pieces(struct walk *walk, const char *bytes, size_t length, size_t width,
                               bool drawn, uint32_t chance)
{
    for (size_t shown = 0, piece; shown < length; shown += piece) {
        chance = chance * 1664525 + 1013904223;
        piece = drawn ? 1 + (chance >> 8) % width : width;
        piece = piece < length - shown ? piece : length - shown;
        walk_show(walk, bytes + shown, piece);
    }
}

/* Where one had all at once, and another in pieces. */
static inline void walk_same(const struct walk *one, const struct walk *other)
{
    walk_check(one->count == other->count, "another number of requests");
    walk_check(one->stream.state == other->stream.state, "another state");
    for (size_t i = 0; i < one->count; i++) {
        walk_check(one->ends[i].at == other->ends[i].at, "a request ends elsewhere");
        walk_check(one->ends[i].flags == other->ends[i].flags, "a request has other flags");
    }
    if (one->stream.state == STREAM_REQUESTS)
        walk_check(one->stream.flags == other->stream.flags &&
                       one->stream.phase == other->stream.phase &&
                       one->stream.left == other->stream.left,
                   "another place in a request");
}

/* Whether all of these cuts say the same; `whole` is left as it is when all came at once. */
static inline void walk_all_cuts(struct walk *whole, const struct limits *limits,
                                 enum busy_protocol protocol, const char *bytes, size_t length,
                                 uint32_t chance)
{
    static const size_t widths[] = {1, 2, 3, 7, 24, 1000};
    walk_begin(whole, limits, protocol);
    walk_show(whole, bytes, length);
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        struct walk cut;
        walk_begin(&cut, limits, protocol);
        walk_pieces(&cut, bytes, length, widths[i], i >= 3 && (chance & 1), chance);
        walk_same(whole, &cut);
        walk_end(&cut);
    }
}

#endif
