/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "dialects/request.h"

#include <string.h>

#define DIALECT(id, symbol, choice) [BUSY_IN_##id] = &(symbol),
static const struct dialect *const dialects[BUSY_PROTOCOLS] = {
#include "limits/dialects.def"
};
#undef DIALECT

static const struct request_rules *rules_of(const struct request_stream *stream)
{
    return stream->state == STREAM_REQUESTS && stream->protocol < BUSY_PROTOCOLS
               ? dialects[stream->protocol]->requests
               : NULL;
}

size_t request_timed_out(const struct request_stream *stream, char *out, size_t size)
{
    const struct request_rules *rules = rules_of(stream);
    return rules && rules->timed_out ? rules->timed_out(out, size) : 0;
}

void request_leave(struct request_stream *stream)
{
    stream->state = STREAM_ALONE;
    stream->kept_length = 0;
}

static void recognised(struct request_stream *stream, enum busy_protocol protocol)
{
    stream->kept_length = 0;
    stream->protocol = (uint8_t)protocol;
    stream->state = dialects[protocol]->requests ? STREAM_REQUESTS : STREAM_ALONE;
}

static bool is_empty_line(char byte)
{
    return byte == '\r' || byte == '\n';
}

static enum busy_recognition looks_like(const struct dialect *dialect, const char *bytes,
                                        size_t length)
{
    bool passed_over = dialect->requests && dialect->requests->empty_lines;
    while (passed_over && length && is_empty_line(*bytes))
        bytes++, length--;
    struct busy_client client = {.sent = bytes, .length = length, .port = 0, .program = ""};
    return length == 0          ? BUSY_UNDECIDED
           : dialect->recognise ? dialect->recognise(&client)
                                : BUSY_UNKNOWN;
}

/* Whose first bytes these are. Somebody may yet turn out to be it: then the state stays UNKNOWN. */
static void recognise(struct request_stream *stream, const char *bytes, size_t length)
{
    bool undecided = false;
    for (unsigned i = 0; i < BUSY_PROTOCOLS; i++) {
        enum busy_recognition recognition = looks_like(dialects[i], bytes, length);
        undecided |= recognition == BUSY_UNDECIDED;
        if (recognition != BUSY_RECOGNISED)
            continue;
        recognised(stream, (enum busy_protocol)i);
        return;
    }
    if (!undecided || length >= REQUEST_KEPT)
        request_leave(stream);
}

/*
 * The first bytes may be too few to tell whose they are: they are kept, and shown to the dialect
 * when the others have come. No request ends within them, since a dialect that could end one knows
 * it.
 */
static size_t ask_unknown(struct request_stream *stream, const struct limits *limits,
                          const char *bytes, size_t length, enum request_step *step)
{
    char first[REQUEST_KEPT];
    size_t before = stream->kept_length, more = sizeof first - before;
    more = more < length ? more : length;
    memcpy(first, stream->kept, before);
    memcpy(first + before, bytes, more);
    recognise(stream, first, before + more);
    if (stream->state == STREAM_UNKNOWN) {
        memcpy(stream->kept, first, before + more);
        stream->kept_length = (uint8_t)(before + more);
        *step = REQUEST_GOES_ON;
        return length;
    }
    if (stream->state == STREAM_ALONE) {
        *step = REQUEST_LEAVES;
        return length;
    }
    if (before)
        rules_of(stream)->ask(stream, limits, first, before, step);
    if (*step == REQUEST_LEAVES) {
        request_leave(stream);
        return length;
    }
    return request_ask(stream, limits, bytes, length, step);
}

size_t request_ask(struct request_stream *stream, const struct limits *limits, const char *bytes,
                   size_t length, enum request_step *step)
{
    *step = REQUEST_GOES_ON;
    if (length == 0)
        return 0;
    if (stream->state == STREAM_UNKNOWN)
        return ask_unknown(stream, limits, bytes, length, step);
    const struct request_rules *rules = rules_of(stream);
    if (!rules) {
        *step = REQUEST_LEAVES;
        return length;
    }
    size_t taken = rules->ask(stream, limits, bytes, length, step);
    if (*step == REQUEST_LEAVES)
        request_leave(stream);
    return taken;
}

size_t request_transaction(const struct request_stream *stream, const struct limits *limits,
                           const char *bytes, size_t length)
{
    struct request_stream ahead = *stream;
    enum request_step step;
    size_t taken = 0;
    while (taken < length) {
        taken += request_ask(&ahead, limits, bytes + taken, length - taken, &step);
        if (step != REQUEST_ENDS)
            return 0;
        if (!(ahead.flags & SESSION_TRANSACTION))
            return taken;
    }
    return 0;
}

/* The program speaks before the client did: only a protocol whose servers greet does that. */
static void greeted(struct request_stream *stream, const char *bytes, size_t length)
{
    for (unsigned i = 0; i < BUSY_PROTOCOLS; i++) {
        const struct request_rules *rules = dialects[i]->requests;
        if (!rules || !rules->greets || !rules->greets(bytes, length))
            continue;
        recognised(stream, (enum busy_protocol)i);
        return;
    }
    request_leave(stream);
}

enum answer_step request_answer(struct request_stream *stream, const char *bytes, size_t length,
                                bool first)
{
    if (length == 0)
        return ANSWER_NOTHING;
    if (stream->state == STREAM_UNKNOWN)
        greeted(stream, bytes, length);
    const struct request_rules *rules = rules_of(stream);
    if (!rules)
        return ANSWER_LEAVES;
    enum answer_step step = rules->answer(stream, bytes, length, first);
    if (step == ANSWER_LEAVES)
        request_leave(stream);
    return step;
}

enum answer_step request_answer_unseen(struct request_stream *stream, size_t length, bool first)
{
    (void)first;
    if (length == 0 || stream->state != STREAM_REQUESTS)
        return ANSWER_NOTHING;
    const struct request_rules *rules = rules_of(stream);
    if (rules && rules->unseen)
        rules->unseen(stream, length);
    else /* what the dialect passes over anyhow it may have passed over so */
        stream->answer_left = stream->answer_left > length ? stream->answer_left - length : 0;
    return ANSWER_BEGUN;
}

bool request_may_be_inside(const struct request_stream *stream)
{
    const struct request_rules *rules = rules_of(stream);
    return rules && rules->transactions;
}

bool request_refused_early(const struct request_stream *stream)
{
    const struct request_rules *rules = rules_of(stream);
    return rules && rules->early && !(stream->flags & REQUEST_UNBOUNDED);
}

void request_refused(struct request_stream *stream)
{
    const struct request_rules *rules = rules_of(stream);
    if (rules && rules->refused)
        rules->refused(stream);
}

size_t request_refuse(const struct request_stream *stream, const struct limits *limits, bool closes,
                      char *out, size_t size)
{
    const struct request_rules *rules = rules_of(stream);
    return rules && rules->refuse ? rules->refuse(stream, limits, closes, out, size) : 0;
}

enum busy_recognition request_exempt(const struct limits *limits, const char *bytes, size_t length)
{
    struct request_stream stream = {.state = STREAM_UNKNOWN};
    enum request_step step;
    request_ask(&stream, limits, bytes, length, &step);
    if (stream.state == STREAM_UNKNOWN)
        return BUSY_UNDECIDED;
    if (stream.state == STREAM_REQUESTS && stream.flags & REQUEST_EXEMPT)
        return BUSY_RECOGNISED;
    return stream.state == STREAM_REQUESTS && !(stream.flags & REQUEST_HEAD_WHOLE) ? BUSY_UNDECIDED
                                                                                   : BUSY_UNKNOWN;
}
