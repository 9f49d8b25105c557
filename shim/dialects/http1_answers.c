/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * HTTP/1.x: which answer belongs to which request, where answers end (RFC 9112, 6.3), and those
 * behind which the connection is a stream.
 */
#include "dialects/http1_message.h"
#include "limits/exempt_path.h"

#include <string.h>

/* --- requests that are not answered --- */

#define ASKED_KNOWN 64 /* of so many it is kept what they were, each a bit */

/* What is kept of answers, in `answer_kept`, and of the requests that await one. */
struct answer_kept {
    struct kept kept;
    uint16_t head, status;
    uint16_t asked; /* and not answered */
};

/* In the stream's `kept`, behind a path. */
struct asked {
    uint64_t heads, connects; /* the lowest bit is the one that is answered next */
};

#define ASKED_AT 16

_Static_assert(sizeof(struct answer_kept) <= sizeof((struct request_stream){0}.answer_kept),
               "fits");
_Static_assert(sizeof(struct exempt_path) <= ASKED_AT &&
                   ASKED_AT + sizeof(struct asked) <= REQUEST_KEPT,
               "fit");

static struct asked asked_of(const struct request_stream *stream)
{
    struct asked asked;
    memcpy(&asked, stream->kept + ASKED_AT, sizeof asked);
    return asked;
}

static void keep_asked(struct request_stream *stream, struct asked asked)
{
    memcpy(stream->kept + ASKED_AT, &asked, sizeof asked);
}

static struct answer_kept answers_of(const struct request_stream *stream)
{
    struct answer_kept kept;
    memcpy(&kept, stream->answer_kept, sizeof kept);
    return kept;
}

static void keep_answers(struct request_stream *stream, struct answer_kept kept)
{
    memcpy(stream->answer_kept, &kept, sizeof kept);
}

void http1_asked(struct request_stream *stream)
{
    struct answer_kept kept = answers_of(stream);
    struct asked asked = asked_of(stream);
    if (kept.asked < ASKED_KNOWN) {
        uint64_t bit = UINT64_C(1) << kept.asked;
        asked.heads = stream->flags & ASKS_HEAD ? asked.heads | bit : asked.heads & ~bit;
        asked.connects =
            stream->flags & ASKS_CONNECT ? asked.connects | bit : asked.connects & ~bit;
    }
    kept.asked += kept.asked < UINT16_MAX;
    keep_asked(stream, asked);
    keep_answers(stream, kept);
}

void http1_refused(struct request_stream *stream)
{
    struct answer_kept kept = answers_of(stream);
    kept.asked -= kept.asked > 0 && stream->flags & REQUEST_HEAD_WHOLE;
    keep_answers(stream, kept);
}

/* The bits of the request that is answered: ASKS_HEAD, ASKS_CONNECT. */
static uint32_t answers_one(struct request_stream *stream, struct answer_kept *kept)
{
    struct asked asked = asked_of(stream);
    uint32_t bits = (asked.heads & 1 ? ASKS_HEAD : 0U) | (asked.connects & 1 ? ASKS_CONNECT : 0U);
    if (kept->asked == 0)
        return 0;
    kept->asked--;
    keep_asked(stream, (struct asked){asked.heads >> 1, asked.connects >> 1});
    return bits;
}

/* What is answered now is the last one that was asked, whatever became of those before. */
static void answers_the_last(struct request_stream *stream, struct answer_kept *kept)
{
    while (kept->asked > 1)
        answers_one(stream, kept);
}

/* --- answers --- */

/* What follows the head: RFC 9112, 6.3. BETWEEN: as many bytes as are left, and then another. */
static enum phase body_of_answer(struct message *message, struct answer_kept *answers)
{
    uint8_t found = message->kept.found;
    uint64_t said = message->left;
    unsigned status = message->status;
    message->left = 0;
    if (found & IN_TRAILER)
        return found & FOUND_FAULT ? LOST : BETWEEN;
    if (status == 101)
        return STREAM;
    if (status < 200)
        return BETWEEN;
    uint32_t asked = answers_one(message->stream, answers);
    if ((asked & ASKS_CONNECT && status / 100 == 2) || found & FOUND_EVENTS)
        return STREAM;
    if (status == 204 || status == 304 || asked & ASKS_HEAD)
        return BETWEEN;
    if (found & FOUND_FAULT || (found & FOUND_LENGTH && found & FOUND_CODING))
        return LOST;
    if (found & FOUND_CHUNKED) {
        message->kept.at = 0;
        return CHUNK_SIZE;
    }
    message->left = said;
    return found & FOUND_LENGTH ? BETWEEN : UNTIL_CLOSE;
}

static size_t answer_goes_on(struct message *message, struct answer_kept *answers,
                             const char *bytes, size_t length)
{
    if (message->phase == BETWEEN && message->left)
        return http1_pass_over(message, length);
    if (message->phase == BETWEEN) {
        message->phase = STATUS_VERSION;
        message->kept = (struct kept){0};
        message->head = message->status = 0;
    }
    size_t taken = http1_go_on(message, NULL, bytes, length);
    if (message->phase == HEAD_ENDED)
        message->phase = body_of_answer(message, answers);
    return taken;
}

static struct message answer_so_far(struct request_stream *stream, struct answer_kept *answers)
{
    *answers = answers_of(stream);
    return (struct message){.phase = (enum phase)stream->answer_phase,
                            .kept = answers->kept,
                            .head = answers->head,
                            .status = answers->status,
                            .left = stream->answer_left,
                            .stream = stream};
}

static void keep_answer(struct message *message, struct answer_kept *answers)
{
    struct request_stream *stream = message->stream;
    bool ended = message->phase == BETWEEN && message->left == 0 && answers->asked == 0;
    keep_answers(stream, (struct answer_kept){message->kept, message->head, message->status,
                                              answers->asked});
    stream->answer_phase = (uint8_t)message->phase;
    stream->answer_left = message->left;
    if (ended || message->phase == LOST)
        stream->flags &= ~(uint32_t)ANSWER_UNFINISHED;
    else
        stream->flags |= ANSWER_UNFINISHED;
}

enum answer_step http1_answer(struct request_stream *stream, const char *bytes, size_t length,
                              bool first)
{
    struct answer_kept answers;
    enum answer_step step = ANSWER_NOTHING;
    struct message message = answer_so_far(stream, &answers);
    if (first && (message.phase == LOST || message.phase == UNTIL_CLOSE)) {
        answers_the_last(stream, &answers);
        message.phase = BETWEEN;
    }
    for (size_t taken = 0; taken < length;) {
        bool body = message.phase == BETWEEN && message.left;
        taken += answer_goes_on(&message, &answers, bytes + taken, length - taken);
        if (message.phase == STREAM)
            return ANSWER_LEAVES;
        if (body || message.phase == LOST || message.status >= 200)
            step = ANSWER_BEGUN;
    }
    keep_answer(&message, &answers);
    return step;
}

/* Only bodies may go by so: what is no part of one is a sign that they are not understood. */
void http1_unseen(struct request_stream *stream, size_t length)
{
    struct answer_kept answers;
    struct message message = answer_so_far(stream, &answers);
    bool within =
        (message.phase == BETWEEN || message.phase == CHUNK_DATA) && length <= message.left;
    if (within) {
        message.left -= length;
    } else if (message.phase != UNTIL_CLOSE) {
        message.phase = LOST;
        message.left = 0;
    }
    keep_answer(&message, &answers);
}
