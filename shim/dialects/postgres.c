/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * PostgreSQL: what a connection begins with, and how its requests follow one another, after its
 * documentation's "Message Flow" and "Message Formats".
 */
#include "dialects/request.h"

#include <string.h>

#define STARTUP_LEAST 8
#define STARTUP_MOST 10000
#define HEADER 5 /* of each later message: its type, and a length that counts itself */
#define LENGTH_COUNTED 4

/* What follows a first message's length. */
enum { CANCEL_REQUEST = 80877102, SSL_REQUEST = 80877103, GSS_REQUEST = 80877104, MAJOR = 3 };

static uint32_t big_endian(const char *bytes, size_t width)
{
    uint32_t value = 0;
    for (size_t i = 0; i < width; i++)
        value = value << 8 | (uint8_t)bytes[i];
    return value;
}

static enum busy_recognition first_message(const struct busy_client *client, bool negotiation)
{
    if (client->sent[0] != 0)
        return BUSY_UNKNOWN;
    if (client->length < STARTUP_LEAST)
        return BUSY_UNDECIDED;
    uint32_t length = big_endian(client->sent, 4), code = big_endian(client->sent + 4, 4);
    if (length < STARTUP_LEAST || length > STARTUP_MOST)
        return BUSY_UNKNOWN;
    bool matches = negotiation ? code == SSL_REQUEST || code == GSS_REQUEST : code >> 16 == MAJOR;
    return matches ? BUSY_RECOGNISED : BUSY_UNKNOWN;
}

static enum busy_recognition recognise(const struct busy_client *client)
{
    return first_message(client, false);
}

/* ErrorResponse: too_many_connections (53300). */
#define TOO_MANY_CLIENTS "SFATAL\0VFATAL\0C53300\0Msorry, too many clients already\0"
/* ErrorResponse: serialization_failure. */
#define TRY_AGAIN                                                                                  \
    "SERROR\0VERROR\0C40001\0Mthe server is busy: nothing of this was done, try again later\0"

/* A message of the server; its fields are shorter than a length of one byte can say. */
static size_t put_error(char *out, size_t size, const char *fields, size_t length)
{
    char head[] = {'E', 0, 0, 0, (char)(length + 4)};
    if (size < sizeof head + length)
        return 0;
    memcpy(out, head, sizeof head);
    memcpy(out + sizeof head, fields, length);
    return sizeof head + length;
}

static size_t refuse(const struct busy_answer *answer)
{
    return put_error(answer->out, answer->size, TOO_MANY_CLIENTS, sizeof TOO_MANY_CLIENTS);
}

static enum busy_recognition recognise_negotiation(const struct busy_client *client)
{
    return first_message(client, true);
}

/* No encryption here: the client goes on in clear, as its sslmode allows. */
static size_t answer_negotiation(const struct busy_answer *answer)
{
    return dialect_put(answer, "N", 1);
}

/* --- requests --- */

enum {
    /* Of the session. */
    STARTED = 1 << 24,     /* the startup packet is over: messages have types */
    READY = 1 << 25,       /* the server was ready for a query: the log-in is over */
    NEGOTIATING = 1 << 26, /* the server's next byte says whether they go on encrypted */
    /* Of a request. */
    IN_A_SERIES = 1 << 8, /* of messages of the extended protocol, which a Sync will end */
    WORKED = 1 << 9, /* something in it is planned or executed, or was to be answered at once */
};

/* phase: what the client's next byte is in. */
enum {
    BETWEEN,
    IN_STARTUP, /* its length and code */
    IN_NAME,    /* the startup packet's parameters: a name and a value in turn, each ended by 0 */
    IN_OTHER_NAME, /* not the one that is looked for */
    IN_VALUE,
    IN_REPLICATION, /* the value of `replication` */
    IN_HEADER,
    IN_STATEMENT, /* the name that Parse gives to its text */
    IN_TEXT,      /* of a query; its first word is looked at */
    IN_BODY,
    IN_SERIES, /* between two of its messages */
};

/* What a message of the client means. */
enum {
    ENDS = 1,    /* the server answers with ReadyForQuery */
    WORKS = 2,   /* the server plans or executes */
    WAITS = 4,   /* the client may wait for an answer before it ends the same request */
    BELONGS = 8, /* to what was asked before; by itself it is not answered */
    CLOSES = 16,
    SERIES = 32, /* more follows */
};

/* "Message Formats": those with (F). */
static const struct message {
    uint8_t meaning, phase; /* that the body begins with */
} messages[128] = {
    ['Q'] = {ENDS | WORKS, IN_TEXT},   ['F'] = {ENDS | WORKS, IN_BODY},
    ['P'] = {SERIES, IN_STATEMENT},    ['B'] = {SERIES | WORKS, IN_BODY},
    ['E'] = {SERIES | WORKS, IN_BODY}, ['D'] = {SERIES, IN_BODY},
    ['C'] = {SERIES, IN_BODY},         ['H'] = {SERIES | WAITS, IN_BODY},
    ['S'] = {ENDS, IN_BODY},           ['d'] = {BELONGS, IN_BODY},
    ['c'] = {BELONGS, IN_BODY},        ['f'] = {BELONGS, IN_BODY},
    ['p'] = {BELONGS, IN_BODY},        ['X'] = {BELONGS | CLOSES, IN_BODY},
};

/* Gathers the first `wanted` bytes of something in `kept`; whether they are all there. */
static bool gathered(struct request_stream *stream, size_t wanted, const char *bytes, size_t length,
                     size_t *taken)
{
    size_t more = wanted - stream->kept_length;
    *taken = more < length ? more : length;
    memcpy(stream->kept + stream->kept_length, bytes, *taken);
    stream->kept_length = (uint8_t)(stream->kept_length + *taken);
    if (stream->kept_length < wanted)
        return false;
    stream->kept_length = 0;
    return true;
}

static enum request_step request_ends(struct request_stream *stream)
{
    stream->phase = BETWEEN;
    return REQUEST_ENDS;
}

/*
 * Only what plans or executes is a request with a place of its own. What prepares or closes
 * statements, describes them, or only synchronises, is quick, and refusing it would harm: who was
 * told that a statement cannot be prepared may never try it again.
 */
static enum request_step message_ends(struct request_stream *stream)
{
    bool goes_on = stream->small & SERIES;
    if (stream->small & BELONGS)
        goes_on = stream->flags & IN_A_SERIES;
    if (goes_on) {
        stream->flags |= IN_A_SERIES;
        stream->phase = IN_SERIES;
        return REQUEST_GOES_ON;
    }
    if (!(stream->flags & WORKED))
        stream->flags |= REQUEST_HEAD_WHOLE | REQUEST_SILENT;
    return request_ends(stream);
}

static enum request_step in_header(struct request_stream *stream, const char *bytes, size_t length,
                                   size_t *taken)
{
    if (!gathered(stream, HEADER, bytes, length, taken))
        return REQUEST_GOES_ON;
    uint8_t type = (uint8_t)stream->kept[0];
    uint32_t counted = big_endian(stream->kept + 1, 4);
    const struct message *message = type < 128 ? &messages[type] : NULL;
    if (!message || !message->meaning || counted < LENGTH_COUNTED || counted > INT32_MAX)
        return REQUEST_LEAVES;
    if (message->meaning & BELONGS && !(stream->flags & IN_A_SERIES))
        stream->flags |= REQUEST_HEAD_WHOLE | REQUEST_SILENT;
    if (message->meaning & (WORKS | WAITS))
        stream->flags |= WORKED;
    if (message->meaning & (WORKS | SERIES))
        stream->flags |= REQUEST_HEAD_WHOLE | REQUEST_LEADS;
    if (message->meaning & CLOSES)
        stream->flags |= REQUEST_CLOSES;
    stream->small = message->meaning;
    stream->left = counted - LENGTH_COUNTED;
    stream->phase = message->phase;
    return stream->left ? REQUEST_GOES_ON : message_ends(stream);
}

static enum request_step in_statement(struct request_stream *stream, const char *bytes,
                                      size_t length, size_t *taken)
{
    *taken = length < stream->left ? length : stream->left;
    const char *end = memchr(bytes, 0, *taken);
    if (end) {
        *taken = (size_t)(end - bytes) + 1;
        stream->phase = IN_TEXT;
    }
    stream->left -= *taken;
    return stream->left ? REQUEST_GOES_ON : message_ends(stream);
}

/*
 * What was prepared for two-phase commit stands outside of its session's transactions, and holds
 * its locks until a COMMIT PREPARED or ROLLBACK PREPARED. A request that begins so ends something.
 */
static enum request_step in_text(struct request_stream *stream, const char *bytes, size_t length,
                                 size_t *taken)
{
    static const char *const endings[] = {"COMMIT", "ROLLBACK", NULL};
    const size_t longest = sizeof "ROLLBACK" - 1;
    uint64_t whole = stream->left + stream->kept_length;
    size_t wanted = whole < longest ? whole : longest;
    bool known = gathered(stream, wanted, bytes, length, taken);
    stream->left -= *taken;
    if (!known)
        return REQUEST_GOES_ON;
    struct busy_client client = {.sent = stream->kept, .length = wanted};
    bool first = !(stream->flags & IN_A_SERIES);
    if (first && dialect_begins_with_one(&client, endings, true) == BUSY_RECOGNISED)
        stream->flags |= SESSION_TRANSACTION;
    stream->phase = IN_BODY;
    return stream->left ? REQUEST_GOES_ON : message_ends(stream);
}

static enum request_step in_body(struct request_stream *stream, size_t length, size_t *taken)
{
    *taken = length < stream->left ? length : stream->left;
    stream->left -= *taken;
    return stream->left ? REQUEST_GOES_ON : message_ends(stream);
}

static enum request_step in_startup(struct request_stream *stream, const char *bytes, size_t length,
                                    size_t *taken)
{
    if (!gathered(stream, STARTUP_LEAST, bytes, length, taken))
        return REQUEST_GOES_ON;
    uint32_t counted = big_endian(stream->kept, 4), code = big_endian(stream->kept + 4, 4);
    if (counted < STARTUP_LEAST || counted > STARTUP_MOST)
        return REQUEST_LEAVES;
    stream->left = counted - STARTUP_LEAST;
    if (code == SSL_REQUEST || code == GSS_REQUEST) {
        stream->flags |= NEGOTIATING;
        return stream->left ? REQUEST_LEAVES : request_ends(stream);
    }
    /* Nothing follows a cancellation, and so it may as well be left alone. */
    if (code >> 16 != MAJOR || stream->left == 0)
        return REQUEST_LEAVES;
    stream->phase = IN_NAME;
    stream->small = 0;
    return REQUEST_GOES_ON;
}

/* A walsender's connection is a stream. Its values are those of a Boolean, and `database`. */
static enum request_step in_parameter(struct request_stream *stream, char byte)
{
    static const char wanted[] = "replication";
    switch (stream->phase) {
    case IN_REPLICATION:
        if (byte != 0 && !strchr("fFnN0", byte))
            return REQUEST_LEAVES;
        stream->phase = IN_VALUE;
        break;
    case IN_NAME:
        if (byte != 0 && byte == wanted[stream->small])
            stream->small++;
        else if (byte != 0)
            stream->phase = IN_OTHER_NAME;
        break;
    default:
        break;
    }
    if (byte == 0 && stream->phase == IN_VALUE) {
        stream->phase = IN_NAME;
        stream->small = 0;
    } else if (byte == 0) {
        bool found = stream->phase == IN_NAME && stream->small == sizeof wanted - 1;
        stream->phase = found ? IN_REPLICATION : IN_VALUE;
    }
    if (--stream->left)
        return REQUEST_GOES_ON;
    stream->flags |= STARTED;
    return request_ends(stream);
}

static void request_begins(struct request_stream *stream)
{
    stream->flags &= ~(uint32_t)REQUEST_BITS;
    stream->phase = stream->flags & STARTED ? IN_HEADER : IN_STARTUP;
    if (!(stream->flags & READY))
        stream->flags |= REQUEST_HEAD_WHOLE | REQUEST_SILENT;
}

static enum request_step ask_part(struct request_stream *stream, const char *bytes, size_t length,
                                  size_t *taken)
{
    switch (stream->phase) {
    case IN_STARTUP:
        return in_startup(stream, bytes, length, taken);
    case IN_HEADER:
        return in_header(stream, bytes, length, taken);
    case IN_STATEMENT:
        return in_statement(stream, bytes, length, taken);
    case IN_TEXT:
        return in_text(stream, bytes, length, taken);
    case IN_BODY:
        return in_body(stream, length, taken);
    default:
        *taken = 1;
        return in_parameter(stream, *bytes);
    }
}

static size_t ask(struct request_stream *stream, const struct limits *limits, const char *bytes,
                  size_t length, enum request_step *step)
{
    size_t taken = 0;
    (void)limits;
    *step = REQUEST_GOES_ON;
    while (taken < length && *step == REQUEST_GOES_ON) {
        size_t more = 0;
        if (stream->phase == BETWEEN)
            request_begins(stream);
        else if (stream->phase == IN_SERIES)
            stream->phase = IN_HEADER;
        *step = ask_part(stream, bytes + taken, length - taken, &more);
        taken += more;
    }
    return *step == REQUEST_LEAVES ? length : taken;
}

/* answer_phase: how much of a message's header is kept, and then that its body goes by. */
enum { ANSWER_BODY = HEADER };

/* Whether a message with this type answers something, or may come at any time. */
static enum answer_step answers(char type)
{
    return type && strchr("NSA", type) ? ANSWER_NOTHING : ANSWER_BEGUN;
}

/*
 * The status is the byte that ReadyForQuery consists of: I, T or E. Until it is seen, the
 * transaction may be there.
 */
static void status_seen(struct request_stream *stream, char status)
{
    stream->flags &= ~(uint32_t)ANSWER_UNFINISHED;
    if (status == 'I')
        stream->flags &= ~(uint32_t)SESSION_TRANSACTION;
}

/* An answer goes on until ReadyForQuery, unless the server wants the data of a COPY before. What is
 * answered before its Sync was sent has begun a transaction. */
static void answer_goes_on(struct request_stream *stream, char type)
{
    stream->flags |= ANSWER_UNFINISHED;
    if (type == 'G')
        stream->flags &= ~(uint32_t)ANSWER_UNFINISHED;
    if (type == 'Z')
        stream->flags |= READY;
    if (type == 'Z' || stream->flags & IN_A_SERIES)
        stream->flags |= SESSION_TRANSACTION;
}

static enum answer_step answer_header(struct request_stream *stream)
{
    uint32_t counted = big_endian(stream->answer_kept + 1, 4);
    char type = stream->answer_kept[0];
    /* CopyBoth: whatever its name, replication. */
    if (counted < LENGTH_COUNTED || counted > INT32_MAX || type == 'W')
        return ANSWER_LEAVES;
    stream->answer_left = counted - LENGTH_COUNTED;
    stream->answer_phase = stream->answer_left ? ANSWER_BODY : 0;
    if (answers(type) == ANSWER_BEGUN)
        answer_goes_on(stream, type);
    return answers(type);
}

static enum answer_step negotiated(struct request_stream *stream, char byte, size_t *taken)
{
    stream->flags &= ~(uint32_t)NEGOTIATING;
    *taken = byte == 'N';
    /* An error's message comes from a server that knows no such request. */
    return byte == 'N' || byte == 'E' ? ANSWER_BEGUN : ANSWER_LEAVES;
}

static enum answer_step answer_part(struct request_stream *stream, const char *bytes, size_t length,
                                    size_t *taken)
{
    if (stream->flags & NEGOTIATING)
        return negotiated(stream, *bytes, taken);
    if (stream->answer_phase == ANSWER_BODY) {
        *taken = length < stream->answer_left ? length : stream->answer_left;
        if (*taken && *taken == stream->answer_left && stream->answer_kept[0] == 'Z')
            status_seen(stream, bytes[*taken - 1]);
        stream->answer_left -= *taken;
        if (stream->answer_left == 0)
            stream->answer_phase = 0;
        return *taken ? answers(stream->answer_kept[0]) : ANSWER_NOTHING;
    }
    stream->answer_kept[stream->answer_phase++] = *bytes;
    *taken = 1;
    return stream->answer_phase == HEADER ? answer_header(stream) : answers(stream->answer_kept[0]);
}

static enum answer_step answer(struct request_stream *stream, const char *bytes, size_t length,
                               bool first)
{
    enum answer_step step = ANSWER_NOTHING;
    (void)first;
    for (size_t done = 0, taken = 0; done < length; done += taken, taken = 0) {
        enum answer_step part = answer_part(stream, bytes + done, length - done, &taken);
        if (part == ANSWER_LEAVES)
            return part;
        if (part == ANSWER_BEGUN)
            step = part;
    }
    return step;
}

/*
 * 40001, since that is true (nothing was done, and the same may succeed if it is tried again) and
 * heeded: pgbench tries again after it, as frameworks do, and no pool throws a connection away for
 * it. 53300 and 57P03 are errors of connecting, after which pools make new ones. A request in
 * the extended protocol is refused at its Sync, as one whose first message failed. Rather than that
 * the connection ends, with all that its session has, a request waits; and so does one with others
 * behind it: they may rest on a BEGIN, or on a SET.
 */
static size_t refuse_request(const struct request_stream *stream, const struct limits *limits,
                             bool closes, char *out, size_t size)
{
    static const char ready[] = {'Z', 0, 0, 0, 5, 'I'};
    (void)limits;
    if (!(stream->flags & READY) || stream->flags & (SESSION_TRANSACTION | REQUEST_SILENT) ||
        closes)
        return 0;
    size_t length = put_error(out, size, TRY_AGAIN, sizeof TRY_AGAIN);
    if (length == 0 || size - length < sizeof ready)
        return 0;
    memcpy(out + length, ready, sizeof ready);
    return length + sizeof ready;
}

static const struct request_rules requests = {
    .ask = ask, .answer = answer, .refuse = refuse_request};

const struct dialect dialect_postgres = {.recognise = recognise,
                                         .refuse = refuse,
                                         .variant = &dialect_postgres_negotiation,
                                         .requests = &requests};
const struct dialect dialect_postgres_negotiation = {
    .recognise = recognise_negotiation, .refuse = answer_negotiation, .requests = &requests};
