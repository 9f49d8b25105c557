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

#define METHOD_MOST 32

/* Bits of the request for this dialect's own use. */
enum {
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

static http1_taker *const request_line[STATUS_VERSION] = {
    [BLANK] = on_blank,
    [METHOD] = on_method,
    [TARGET_START] = on_target_start,
    [TARGET_SCHEME] = on_target_scheme,
    [TARGET_PATH] = on_target_path,
    [TARGET_REST] = on_target_rest,
    [VERSION] = on_version,
};

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
    http1_asked(message->stream);
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
        taken += http1_go_on(&message, request_line, bytes + taken, length - taken);
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
                                             .answer = http1_answer,
                                             .refuse = refuse,
                                             .timed_out = timed_out,
                                             .unseen = http1_unseen,
                                             .refused = http1_refused,
                                             .empty_lines = true};
