/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * HTTP/1.x: where requests begin and end (RFC 9112), and what the program's answers make of the
 * connection.
 *
 *     BETWEEN -> BLANK -> METHOD -> TARGET_... -> VERSION -> FIELD_... -+--------------> BETWEEN
 *                  |         |                      |           |      +-> BODY -------> BETWEEN
 *                  +---------+----------------------+           |      +-> CHUNK_... -> FIELD_...
 *                        it is not HTTP: STREAM                 |         of the trailer -> BETWEEN
 *                                                               +-> LOST: nobody knows the end
 *
 * Servers differ in what they make of heads and chunks that break the rules, and differences about
 * where a request ends are what request smuggling lives on. So an end is only ever given where
 * every server finds it there or closes the connection; anything else is UNBOUNDED.
 */
#include "dialects/http1_message.h"
#include "limits/exempt_path.h"

#include <string.h>

/* RFC 9112, 3 and 5 bound neither; no server in use takes more. */
#define HEAD_MOST UINT16_MAX
#define METHOD_MOST 32

/* Bits of the request for this dialect's own use. */
enum {
    ASKS_HEAD = 0x100,
    ASKS_CONNECT = 0x200,
    IN_HTTP_1_0 = 0x400,
    ON_EXEMPT_PATH = 0x800,
};

static const char *const methods[] = {"HEAD", "CONNECT", "PRI", NULL};

static bool is_letter(char byte)
{
    return http1_lower(byte) >= 'a' && http1_lower(byte) <= 'z';
}

/* --- the first line of a request: RFC 9112, 3 --- */

static size_t on_blank(struct message *message, const char *bytes, size_t length)
{
    (void)length;
    if (*bytes == '\n' || (*bytes == '\r' && message->kept.at == 0)) {
        message->kept.at = *bytes == '\r';
        return 1;
    }
    if (message->kept.at) {
        message->phase = STREAM;
        return 0;
    }
    http1_word_begins(message);
    message->phase = METHOD;
    return 0;
}

static size_t on_method(struct message *message, const char *bytes, size_t length)
{
    enum { HEAD, CONNECT, PRI };
    (void)length;
    if (http1_is_token(*bytes) && message->kept.at < METHOD_MOST) {
        http1_word_goes_on(message, methods, *bytes);
        return 1;
    }
    int method = http1_word_ends(message, methods);
    if (*bytes != ' ' || message->kept.at == 0 || method == PRI) {
        message->phase = STREAM; /* PRI: RFC 9113, 3.4 */
        return 0;
    }
    message->stream->flags |= method == HEAD ? ASKS_HEAD : method == CONNECT ? ASKS_CONNECT : 0U;
    message->phase = TARGET_START;
    return 1;
}

/* HTTP/0.9, or what may be taken for it: some servers answer at once, others wait for a head. */
static void simple_request(struct message *message)
{
    message->kept.found |= FOUND_FAULT;
    message->phase = HEAD_ENDED;
}

/* In `kept` there is what is known of the path. */
static void path_begins(struct message *message)
{
    struct exempt_path path;
    exempt_path_begins(&path, message->limits);
    memcpy(message->stream->kept, &path, sizeof path);
    message->phase = TARGET_PATH;
}

static size_t on_target_start(struct message *message, const char *bytes, size_t length)
{
    (void)length;
    message->kept.at = 0;
    message->phase = is_letter(*bytes) ? TARGET_SCHEME : TARGET_REST;
    if (*bytes == '/')
        path_begins(message);
    else if (*bytes == ' ')
        http1_fault(message);
    return 0;
}

/* Absolute form: RFC 9112, 3.2.2. `at` counts what has come of "://", behind which is the host. */
static size_t on_target_scheme(struct message *message, const char *bytes, size_t length)
{
    static const char behind[] = "://";
    uint8_t *at = &message->kept.at;
    unsigned char byte = (unsigned char)*bytes;
    bool goes_on;
    (void)length;
    if (*at == 3)
        goes_on = byte > ' ' && !strchr("/?#", byte);
    else if (byte == behind[*at])
        goes_on = ++*at;
    else
        goes_on = *at == 0 && http1_is_token(*bytes);
    if (goes_on)
        return 1;
    message->phase = TARGET_REST;
    if (*at == 3 && byte == '/')
        path_begins(message);
    *at = 0;
    return 0;
}

static size_t on_target_path(struct message *message, const char *bytes, size_t length)
{
    struct exempt_path path;
    size_t taken = 0;
    memcpy(&path, message->stream->kept, sizeof path);
    for (; taken < length && (unsigned char)bytes[taken] > ' ' && bytes[taken] != '?' &&
           bytes[taken] != '#';
         taken++)
        exempt_path_goes_on(&path, message->limits, bytes[taken]);
    memcpy(message->stream->kept, &path, sizeof path);
    if (taken == length)
        return taken;
    if (exempt_path_ends(&path, message->limits))
        message->stream->flags |= ON_EXEMPT_PATH;
    message->phase = TARGET_REST;
    return taken;
}

static size_t on_target_rest(struct message *message, const char *bytes, size_t length)
{
    size_t taken = 0;
    while (taken < length && (unsigned char)bytes[taken] > ' ')
        taken++;
    if (taken == length)
        return taken;
    if (http1_ends_line(bytes[taken])) {
        simple_request(message);
    } else if (bytes[taken] == ' ') {
        message->kept.at = 0;
        message->phase = VERSION;
    } else {
        http1_fault(message);
        return taken;
    }
    return taken + 1;
}

/* Another protocol has another word here: RTSP, SIP. */
static size_t on_version(struct message *message, const char *bytes, size_t length)
{
    enum { NAME = 5, MINOR = 7, BEHIND };
    static const char version[] = "HTTP/1.";
    struct request_stream *stream = message->stream;
    uint8_t *at = &message->kept.at;
    (void)length;
    if ((*at < MINOR && *bytes == version[*at]) || (*at == MINOR && http1_is_digit(*bytes))) {
        if (*at == MINOR && *bytes == '0')
            stream->flags |= IN_HTTP_1_0;
        ++*at;
        return 1;
    }
    if (*at == BEHIND && http1_ends_line(*bytes)) {
        if (stream->flags & ON_EXEMPT_PATH)
            stream->flags |= REQUEST_EXEMPT;
        http1_line_ends(message, *bytes);
        return 1;
    }
    if (*at == 0 && http1_ends_line(*bytes))
        simple_request(message);
    else if (*at < NAME)
        message->phase = STREAM;
    else
        http1_fault(message);
    return message->phase == HEAD_ENDED;
}

/* --- the first line of an answer: RFC 9112, 4 --- */

static size_t on_status_version(struct message *message, const char *bytes, size_t length)
{
    static const char version[] = "HTTP/1.";
    enum { MINOR = sizeof version - 1, BLANK_BEHIND };
    uint8_t *at = &message->kept.at;
    (void)length;
    bool fits = *at < MINOR    ? *bytes == version[*at]
                : *at == MINOR ? http1_is_digit(*bytes)
                               : *bytes == ' ';
    message->phase = !fits ? LOST : *at == BLANK_BEHIND ? STATUS_CODE : STATUS_VERSION;
    *at = message->phase == STATUS_VERSION ? *at + 1 : 0;
    return fits;
}

static size_t on_status_code(struct message *message, const char *bytes, size_t length)
{
    (void)length;
    if (message->kept.at == 3) {
        message->phase = VALUE_OTHER;
        return 0;
    }
    if (!http1_is_digit(*bytes)) {
        message->phase = LOST;
        return 0;
    }
    message->kept.at++;
    message->status = (uint16_t)(message->status * 10 + (*bytes - '0'));
    return 1;
}

static http1_taker *const first_line[FIELD_START] = {
    [BLANK] = on_blank,
    [METHOD] = on_method,
    [TARGET_START] = on_target_start,
    [TARGET_SCHEME] = on_target_scheme,
    [TARGET_PATH] = on_target_path,
    [TARGET_REST] = on_target_rest,
    [VERSION] = on_version,
    [STATUS_VERSION] = on_status_version,
    [STATUS_CODE] = on_status_code,
};

/* Takes bytes until something has come about: the phase is one of an outcome, or LOST. */
static size_t go_on(struct message *message, const char *bytes, size_t length)
{
    size_t taken = 0;
    while (taken < length && message->phase < HEAD_ENDED) {
        bool head = message->phase < HEAD_PHASES;
        size_t most = length - taken, room = HEAD_MOST - (size_t)message->head;
        if (head && room == 0) {
            message->kept.found |= FOUND_FAULT;
            message->phase = HEAD_ENDED;
            break;
        }
        http1_taker *take =
            message->phase < FIELD_START ? first_line[message->phase] : http1_message_take;
        size_t one = take(message, bytes + taken, head && room < most ? room : most);
        message->head += head ? (uint16_t)one : 0;
        taken += one;
    }
    return taken;
}

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

static void asks_one_more(struct request_stream *stream)
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

static void refused(struct request_stream *stream)
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

/* --- requests --- */

/* Where the body ends follows from the head: RFC 9112, 6.3; 6.1 for Transfer-Encoding. */
static enum phase body_of_request(struct message *message)
{
    uint8_t found = message->kept.found;
    uint32_t flags = message->stream->flags;
    bool coded = found & FOUND_CODING, sized = found & FOUND_LENGTH && message->left > 0;
    if (found & FOUND_FAULT || (coded && !(found & FOUND_CHUNKED)) ||
        (coded && (found & FOUND_LENGTH || flags & IN_HTTP_1_0)) ||
        (flags & ASKS_CONNECT && (coded || sized)))
        return LOST;
    if (coded) {
        message->kept.at = 0;
        return CHUNK_SIZE;
    }
    return sized ? BODY : ENDED;
}

static void request_head_ends(struct message *message)
{
    uint8_t found = message->kept.found;
    uint32_t *flags = &message->stream->flags;
    if (found & IN_TRAILER) {
        message->phase = found & FOUND_FAULT ? LOST : ENDED;
        return;
    }
    *flags |= REQUEST_HEAD_WHOLE;
    asks_one_more(message->stream);
    if (found & FOUND_CLOSE || (*flags & IN_HTTP_1_0 && !(found & FOUND_KEEP_ALIVE)))
        *flags |= REQUEST_CLOSES;
    message->phase = body_of_request(message);
}

static size_t ask(struct request_stream *stream, const struct limits *limits, const char *bytes,
                  size_t length, enum request_step *step)
{
    struct message message = {.phase = (enum phase)stream->phase,
                              .head = stream->small,
                              .left = stream->left,
                              .stream = stream,
                              .limits = limits};
    memcpy(&message.kept, &stream->number, sizeof message.kept);
    if (message.phase == BETWEEN) {
        stream->flags &= ~(uint32_t)REQUEST_BITS;
        message = (struct message){.phase = BLANK, .stream = stream, .limits = limits};
    }
    size_t taken = 0;
    while (taken < length && message.phase < ENDED) {
        taken += go_on(&message, bytes + taken, length - taken);
        if (message.phase == HEAD_ENDED)
            request_head_ends(&message);
    }
    if (message.phase == LOST || message.kept.found & FOUND_FAULT)
        stream->flags |= REQUEST_UNBOUNDED | REQUEST_CLOSES;
    *step = message.phase == ENDED    ? REQUEST_ENDS
            : message.phase == STREAM ? REQUEST_LEAVES
                                      : REQUEST_GOES_ON;
    if (message.phase == LOST)
        message.left = 0;
    stream->phase = message.phase < HEAD_ENDED ? (uint8_t)message.phase : BETWEEN;
    stream->small = message.head;
    stream->left = message.phase < HEAD_ENDED ? message.left : 0;
    memcpy(&stream->number, &message.kept, sizeof message.kept);
    return *step == REQUEST_LEAVES ? length : taken;
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
    size_t taken = go_on(message, bytes, length);
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

static enum answer_step answer(struct request_stream *stream, const char *bytes, size_t length,
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
static void unseen(struct request_stream *stream, size_t length)
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

static size_t refuse(const struct request_stream *stream, const struct limits *limits, bool closes,
                     char *out, size_t size)
{
    closes |= (stream->flags & (REQUEST_CLOSES | REQUEST_UNBOUNDED)) != 0;
    const char *connection = closes ? "close" : stream->flags & IN_HTTP_1_0 ? "keep-alive" : NULL;
    return http1_unavailable(limits, connection, !(stream->flags & ASKS_HEAD), out, size);
}

/* RFC 9110, 15.5.9. */
static size_t timed_out(char *out, size_t size)
{
    static const char answer[] = "HTTP/1.1 408 Request Timeout\r\n"
                                 "Content-Length: 0\r\n"
                                 "Connection: close\r\n\r\n";
    if (size < sizeof answer - 1)
        return 0;
    memcpy(out, answer, sizeof answer - 1);
    return sizeof answer - 1;
}

const struct request_rules http1_requests = {.ask = ask,
                                             .answer = answer,
                                             .refuse = refuse,
                                             .timed_out = timed_out,
                                             .unseen = unseen,
                                             .refused = refused};
