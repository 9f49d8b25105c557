/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A conversation between a client and a server, and what shim/dialects/request makes of it however
 * its bytes are cut. For fuzzers and for unit tests; tests/fuzz/record.py writes such
 * conversations.
 *
 * Turns follow one another: a byte (its lowest bit: 0 the client, 1 the server), a length (two
 * bytes, the low one first) and so many bytes, or as many as there are.
 */
#ifndef TESTS_CONVERSATION_H
#define TESTS_CONVERSATION_H

#include "../../shim/dialects/request.h"

#include <stdlib.h>
#include <string.h>

struct turn {
    bool by_server;
    const uint8_t *bytes;
    size_t length;
};

/* Takes the next turn off `data`; false when none is left. */
static inline bool conversation_turn(const uint8_t **data, size_t *size, struct turn *turn)
{
    if (*size < 3)
        return false;
    size_t length = (size_t)((*data)[1] | (*data)[2] << 8), left = *size - 3;
    *turn = (struct turn){.by_server = **data & 1, .bytes = *data + 3};
    turn->length = length < left ? length : left;
    *data += 3 + turn->length;
    *size -= 3 + turn->length;
    return true;
}

/* What is told of a request that ended, for whoever looks on. */
typedef void conversation_ended(void *context, const struct request_stream *stream);

/* What was seen of a conversation. */
struct conversation {
    struct request_stream stream;
    const struct limits *limits;
    conversation_ended *ended; /* may be NULL */
    void *context;
    uint64_t asked, requests; /* bytes of the client, and how many requests ended */
    uint64_t verdicts;        /* a hash of all that was said of them */
    bool ran_away;            /* a rule broke request.h */
};

static inline void conversation_note(struct conversation *seen, uint64_t value)
{
    seen->verdicts = (seen->verdicts ^ value) * 0x9e3779b97f4a7c15u;
    seen->verdicts ^= seen->verdicts >> 29;
}

/* Of a state, what must not depend on how the bytes came. */
static inline void conversation_note_state(struct conversation *seen)
{
    const struct request_stream *stream = &seen->stream;
    conversation_note(seen, stream->state);
    if (stream->state != STREAM_REQUESTS)
        return;
    conversation_note(seen, stream->flags);
    conversation_note(seen, stream->protocol);
    conversation_note(seen, request_between(stream));
}

static inline void conversation_request_ended(struct conversation *seen)
{
    char refusal[REQUEST_REFUSAL_MAX];
    for (int closes = 0; closes < 2; closes++) {
        size_t length =
            request_refuse(&seen->stream, seen->limits, closes, refusal, sizeof refusal);
        seen->ran_away |= length > sizeof refusal;
        /* Where there is too little room nothing is written. */
        char small[8];
        seen->ran_away |=
            request_refuse(&seen->stream, seen->limits, closes, small, sizeof small) > sizeof small;
        conversation_note(seen, length > 0);
    }
    conversation_note(seen, seen->asked);
    seen->requests++;
    if (seen->ended)
        seen->ended(seen->context, &seen->stream);
}

/* Shows bytes of the client, from memory that ends where they do. */
static inline void conversation_ask(struct conversation *seen, const uint8_t *bytes, size_t length)
{
    char *copy = malloc(length);
    if (!copy)
        abort();
    memcpy(copy, bytes, length);
    for (size_t done = 0; done < length && seen->stream.state != STREAM_ALONE && !seen->ran_away;) {
        enum request_step step;
        size_t taken = request_ask(&seen->stream, seen->limits, copy + done, length - done, &step);
        seen->ran_away =
            taken == 0 || taken > length - done || (step != REQUEST_ENDS && taken != length - done);
        done += taken;
        seen->asked += taken;
        if (step != REQUEST_ENDS || seen->ran_away)
            continue;
        conversation_note_state(seen);
        conversation_request_ended(seen);
    }
    free(copy);
}

/* Shows bytes of the server likewise; whether some answered. */
static inline bool conversation_answer(struct conversation *seen, const uint8_t *bytes,
                                       size_t length, bool first)
{
    char *copy = malloc(length);
    if (!copy)
        abort();
    memcpy(copy, bytes, length);
    enum answer_step step = request_answer(&seen->stream, copy, length, first);
    free(copy);
    return step == ANSWER_BEGUN;
}

/*
 * Goes through a conversation. Each turn is cut into pieces of 1 to `longest` bytes, as `seed` has
 * it; 0: it is whole.
 */
static inline void conversation_run(struct conversation *seen, const uint8_t *data, size_t size,
                                    size_t longest, uint32_t seed)
{
    struct turn turn;
    while (!seen->ran_away && conversation_turn(&data, &size, &turn)) {
        bool begun = false;
        size_t piece;
        for (size_t at = 0; at < turn.length; at += piece) {
            seed = seed * 1103515245u + 12345u;
            piece = longest ? (seed >> 16) % longest + 1 : turn.length;
            piece = piece < turn.length - at ? piece : turn.length - at;
            if (!turn.by_server)
                conversation_ask(seen, turn.bytes + at, piece);
            else if (seen->stream.state != STREAM_ALONE)
                begun |= conversation_answer(seen, turn.bytes + at, piece, !begun);
        }
        if (turn.by_server)
            conversation_note(seen, seen->stream.state == STREAM_ALONE || begun);
        conversation_note_state(seen);
    }
}

/*
 * The verdicts on a conversation whose protocol is known (BUSY_PROTOCOLS: its first bytes tell) are
 * the same however it is cut. Whether that holds.
 */
static inline bool conversation_holds(enum busy_protocol protocol, const struct limits *limits,
                                      const uint8_t *data, size_t size)
{
    static const size_t pieces[] = {0, 1, 7, 61};
    uint64_t verdicts = 0;
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        struct conversation seen = {.limits = limits};
        if (protocol != BUSY_PROTOCOLS) {
            seen.stream.state = STREAM_REQUESTS;
            seen.stream.protocol = (uint8_t)protocol;
        }
        conversation_run(&seen, data, size, pieces[i], (uint32_t)size + (uint32_t)i);
        if (seen.ran_away || (i > 0 && seen.verdicts != verdicts))
            return false;
        verdicts = seen.verdicts;
    }
    return true;
}

#endif
