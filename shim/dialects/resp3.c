/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Source: "Redis serialization protocol specification", without streamed strings and aggregates,
 * which no server sends.
 */
#include "dialects/resp3.h"

#include <string.h>

enum answer_phase { ANSWER_FIRST, ANSWER_ELEMENT, ANSWER_LINE, ANSWER_NUMBER, ANSWER_DATA };

/* In answer_kept; bytes of a string to come, or a number as far as it was read, are answer_left. */
struct answer_kept {
    uint64_t elements; /* of the message under way, all levels of it together */
    char type;
    bool push;     /* the message is one */
    bool negative; /* the number is: nothing follows */
};

/* How many elements follow the number in the head of an aggregate, for each that it counts. */
static uint64_t elements_each(char type)
{
    switch (type) {
    case '*':
    case '~':
    case '>':
        return 1;
    case '%':
    case '|':
        return 2;
    default:
        return 0;
    }
}

static bool is_string(char type)
{
    return type == '$' || type == '!' || type == '=';
}

static void begin_element(struct request_stream *stream, struct answer_kept *kept, char type)
{
    bool first = stream->answer_phase == ANSWER_FIRST;
    kept->push = first ? type == '>' : kept->push;
    kept->elements = first ? 1 : kept->elements;
    kept->type = type;
    kept->negative = false;
    stream->answer_left = 0;
    stream->answer_phase = is_string(type) || elements_each(type) ? ANSWER_NUMBER : ANSWER_LINE;
}

static void end_element(struct request_stream *stream, struct answer_kept *kept)
{
    kept->elements--;
    stream->answer_phase = kept->elements ? ANSWER_ELEMENT : ANSWER_FIRST;
}

/* A byte of a number, up to the end of its line; whether it can be one. */
static bool take_answer_number(struct request_stream *stream, struct answer_kept *kept, char byte)
{
    uint64_t number = stream->answer_left;
    if (byte == '-')
        kept->negative = true;
    else if (byte >= '0' && byte <= '9')
        stream->answer_left = number * 10 + (uint64_t)(byte - '0');
    else if (byte != '\r' && byte != '\n')
        return false;
    if (stream->answer_left > UINT32_MAX)
        return false;
    if (byte != '\n')
        return true;
    number = kept->negative ? 0 : number;
    stream->answer_left = 0;
    if (is_string(kept->type) && !kept->negative) {
        stream->answer_left = number + 2;
        stream->answer_phase = ANSWER_DATA;
        return true;
    }
    /* Attributes stand before the element that they belong to. */
    kept->elements += number * elements_each(kept->type) + (kept->type == '|');
    end_element(stream, kept);
    return true;
}

/* Takes some of the answer's bytes; 0 when they cannot be one. */
static size_t take_answer(struct request_stream *stream, struct answer_kept *kept,
                          const char *bytes, size_t length)
{
    const char *end;
    size_t taken;
    switch (stream->answer_phase) {
    case ANSWER_NUMBER:
        return take_answer_number(stream, kept, bytes[0]);
    case ANSWER_LINE:
        end = memchr(bytes, '\n', length);
        if (end)
            end_element(stream, kept);
        return end ? (size_t)(end - bytes) + 1 : length;
    case ANSWER_DATA:
        taken = stream->answer_left < length ? (size_t)stream->answer_left : length;
        stream->answer_left -= taken;
        if (stream->answer_left == 0)
            end_element(stream, kept);
        return taken;
    default:
        begin_element(stream, kept, bytes[0]);
        return strchr("+-:$*_,#!=(%~>|", bytes[0]) && bytes[0] ? 1 : 0;
    }
}

void resp3_begin(struct request_stream *stream)
{
    stream->answer_phase = ANSWER_FIRST;
}

bool resp3_answer(struct request_stream *stream, const char *bytes, size_t length,
                  enum answer_step *step)
{
    struct answer_kept kept;
    _Static_assert(sizeof kept <= sizeof stream->answer_kept, "there is no room for it");
    memcpy(&kept, stream->answer_kept, sizeof kept);
    *step = ANSWER_NOTHING;
    for (size_t taken = 0, more; taken < length; taken += more) {
        more = take_answer(stream, &kept, bytes + taken, length - taken);
        if (!kept.push || more == 0)
            *step = ANSWER_BEGUN;
        if (more == 0)
            return false;
    }
    memcpy(stream->answer_kept, &kept, sizeof kept);
    return true;
}
