/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * memcached's text protocol, with its meta commands.
 *
 * Source: doc/protocol.txt of memcached, and how its server takes a line (1.6.18 and later).
 */
#include "dialects/dialect.h"
#include "dialects/request.h"

#include <limits.h>
#include <string.h>

static enum busy_recognition recognise(const struct busy_client *client)
{
    static const char *const commands[] = {
        "get ",      "gets ",   "set ",         "add ",
        "replace ",  "append ", "prepend ",     "cas ",
        "delete ",   "incr ",   "decr ",        "gat ",
        "gats ",     "touch ",  "stats",        "version",
        "mg ",       "ms ",     "md ",          "mn\r",
        "mn\n",      "ma ",     "me ",          "watch ",
        "slabs ",    "lru ",    "flush_all",    "verbosity ",
        "extstore ", "bget ",   "lru_crawler ", "cache_memlimit ",
        NULL,
    };
    return dialect_begins_with_one(client, commands, false);
}

/* protocol.txt, "Error strings": the server closes the connection after such an error. */
static size_t refuse(const struct busy_answer *answer)
{
    static const char error[] = "SERVER_ERROR out of connections, try again later\r\n";
    return dialect_put(answer, error, sizeof error - 1);
}

/* --- requests --- */

#define LINE_MOST 2048 /* a longer one without an end must ask for many keys */
#define KEY_MOST 250
#define TOKEN_KEPT 32 /* more than every word and number that means something has */
#define VALUE_MOST (INT_MAX - 2)

/* What a line asks for; in its REQUEST_OF_OWN bits, below the marks. */
enum kind { OTHER, GETS, WATCHES, CHANGES, ORDERS, STORES, COMPARES, META_STORES, META_GETS, META };

#define KIND_SHIFT 8
#define KIND_BITS 0xf00
enum {
    MALFORMED = 1 << 12, /* the line is not as its command wants it */
    QUIET = 1 << 13,     /* it asks for no answer, or for none unless there is something to tell */
    BATCH = 1 << 14,     /* lines of this request before it were quiet gets */
};

/* How many tokens a line has, and what they are; counted from 0, which is the command. */
static const struct shape {
    uint8_t least, most;  /* how many there are, where a value follows */
    uint8_t value;        /* the one that says how long it is */
    uint8_t compared;     /* the one that is a number to compare with */
    uint8_t noreply_from; /* the first one that may be "noreply" */
    uint8_t flags_from;   /* the first one that is a flag of meta commands */
} shapes[] = {
    [CHANGES] = {.noreply_from = 2},
    [ORDERS] = {.noreply_from = 1},
    [STORES] = {.least = 5, .most = 6, .value = 4, .noreply_from = 5},
    [COMPARES] = {.least = 6, .most = 7, .value = 4, .compared = 5, .noreply_from = 6},
    [META_STORES] = {.least = 3, .most = 19, .value = 2, .flags_from = 3},
    [META_GETS] = {.flags_from = 2},
    [META] = {.flags_from = 2},
};

/* Never refused are those that ask whether the server lives, or end what was asked before. */
static const struct command {
    char name[12];
    enum kind kind;
    uint32_t flags;
} commands[] = {
    {"get", GETS, 0},
    {"gets", GETS, 0},
    {"gat", GETS, 0},
    {"gats", GETS, 0},
    {"set", STORES, 0},
    {"add", STORES, 0},
    {"replace", STORES, 0},
    {"append", STORES, 0},
    {"prepend", STORES, 0},
    {"cas", COMPARES, 0},
    {"incr", CHANGES, 0},
    {"decr", CHANGES, 0},
    {"delete", CHANGES, 0},
    {"touch", CHANGES, 0},
    {"flush_all", ORDERS, 0},
    {"verbosity", ORDERS, 0},
    {"ms", META_STORES, 0},
    {"mg", META_GETS, 0},
    {"md", META, 0},
    {"ma", META, 0},
    {"mn", OTHER, REQUEST_SILENT},
    {"version", OTHER, REQUEST_SILENT},
    {"shutdown", OTHER, REQUEST_SILENT},
    {"quit", OTHER, REQUEST_SILENT | REQUEST_CLOSES},
    {"watch", WATCHES, 0},
};

static enum kind kind_of(const struct request_stream *stream)
{
    return (enum kind)((stream->flags & KIND_BITS) >> KIND_SHIFT);
}

static const struct shape *shape_of(const struct request_stream *stream)
{
    return &shapes[kind_of(stream)];
}

static bool token_is(const struct request_stream *stream, const char *word)
{
    return strlen(word) == stream->kept_length && memcmp(stream->kept, word, strlen(word)) == 0;
}

/* Decimal digits of a number up to `most`; stricter than the server, whose versions differ. */
static bool token_number(const struct request_stream *stream, size_t from, uint64_t most,
                         uint64_t *number)
{
    uint64_t value = 0;
    for (size_t i = from; i < stream->kept_length; i++) {
        char digit = stream->kept[i];
        if (digit < '0' || digit > '9' || value > (most - (uint64_t)(digit - '0')) / 10)
            return false;
        value = value * 10 + (uint64_t)(digit - '0');
    }
    *number = value;
    return stream->kept_length > from;
}

/* Behind what is kept of a token: how many bytes follow the line. */
static void set_value_length(struct request_stream *stream, uint32_t length)
{
    memcpy(stream->kept + TOKEN_KEPT, &length, sizeof length);
}

static uint32_t value_length(const struct request_stream *stream)
{
    uint32_t length;
    memcpy(&length, stream->kept + TOKEN_KEPT, sizeof length);
    return length;
}

/* Of a command that a value follows: key, flags, time, length; key and length of a meta command. */
static bool stores_well(struct request_stream *stream, const struct shape *shape, size_t length)
{
    uint64_t number;
    if (stream->small == 1)
        return length <= KEY_MOST;
    if (stream->small == shape->value) {
        bool well = token_number(stream, 0, VALUE_MOST, &number);
        set_value_length(stream, well ? (uint32_t)number + 2 : 0);
        return well;
    }
    if (stream->small == shape->compared)
        return token_number(stream, 0, UINT64_MAX - 9, &number);
    if (stream->small > shape->value)
        return true;
    return stream->small == 2 ? token_number(stream, 0, UINT32_MAX, &number)
                              : token_number(stream, stream->kept[0] == '-', INT_MAX, &number);
}

static void begin_line(struct request_stream *stream)
{
    stream->flags &= ~(uint32_t)(KIND_BITS | MALFORMED | QUIET);
    stream->kept_length = 0;
    stream->small = 0;
    stream->number = 0;
    set_value_length(stream, 0);
}

static void know_command(struct request_stream *stream)
{
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (!token_is(stream, commands[i].name))
            continue;
        stream->flags |= (uint32_t)commands[i].kind << KIND_SHIFT;
        if (!(stream->flags & BATCH))
            stream->flags |= commands[i].flags;
        stream->flags |= commands[i].flags & REQUEST_CLOSES;
        return;
    }
}

/* number is how long the line was so far, and in its upper half how long the token is. */
#define LENGTH_SHIFT 16

static void end_token(struct request_stream *stream)
{
    const struct shape *shape = shape_of(stream);
    uint32_t length = stream->number >> LENGTH_SHIFT;
    if (stream->small == 0)
        know_command(stream);
    else if (shape->value && !stores_well(stream, shape, length))
        stream->flags |= MALFORMED;
    if (shape->noreply_from) {
        bool quiet = stream->small >= shape->noreply_from && token_is(stream, "noreply");
        stream->flags = (stream->flags & ~(uint32_t)QUIET) | (quiet ? QUIET : 0);
    }
    if (shape->flags_from && stream->small >= shape->flags_from && stream->kept[0] == 'q')
        stream->flags |= QUIET;
    if (stream->small < UINT16_MAX)
        stream->small++;
    stream->number &= (1 << LENGTH_SHIFT) - 1;
    stream->kept_length = 0;
}

enum phase { BETWEEN, IN_LINE, IN_KEYS, IN_VALUE, PHASES };

typedef size_t take(struct request_stream *, const char *, size_t, enum request_step *);

/*
 * Quiet gets are of one request with what comes behind them, up to the first that is not quiet:
 * only from its answer their client knows which of them found nothing.
 */
static void end_command(struct request_stream *stream, enum request_step *step)
{
    bool goes_on = (stream->flags & BATCH) && (stream->flags & QUIET);
    if (goes_on)
        begin_line(stream);
    stream->phase = goes_on ? IN_LINE : BETWEEN;
    *step = goes_on ? REQUEST_GOES_ON : REQUEST_ENDS;
}

/*
 * Behind a line that says badly what it stores the server takes the value for commands or does not,
 * as its version has it: where the next request begins cannot be known.
 */
static void end_line(struct request_stream *stream, enum request_step *step)
{
    uint32_t token_length = stream->number >> LENGTH_SHIFT;
    if (token_length && token_length == stream->kept_length &&
        stream->kept[token_length - 1] == '\r') {
        stream->kept_length--;
        token_length--;
    }
    if (token_length)
        end_token(stream);
    const struct shape *shape = shape_of(stream);
    bool miscounted = shape->value && (stream->small < shape->least || stream->small > shape->most);
    if ((stream->flags & MALFORMED) || miscounted || kind_of(stream) == WATCHES) {
        *step = REQUEST_LEAVES;
        return;
    }
    if (stream->flags & QUIET)
        stream->flags |= kind_of(stream) == META_GETS ? BATCH : REQUEST_SILENT;
    stream->flags |= REQUEST_HEAD_WHOLE;
    stream->kept_length = 0;
    stream->phase = IN_VALUE;
    stream->left = value_length(stream);
    if (stream->left == 0)
        end_command(stream, step);
}

static void keep(struct request_stream *stream, char byte)
{
    if (stream->kept_length < TOKEN_KEPT)
        stream->kept[stream->kept_length++] = byte;
    if (stream->number < UINT32_MAX - (1 << LENGTH_SHIFT))
        stream->number += 1 << LENGTH_SHIFT;
    /* Some versions take the line to end there. */
    if (byte == 0)
        stream->flags |= MALFORMED;
}

static size_t take_line(struct request_stream *stream, const char *bytes, size_t length,
                        enum request_step *step)
{
    size_t taken = 0;
    while (taken < length && *step == REQUEST_GOES_ON && stream->phase == IN_LINE) {
        char byte = bytes[taken++];
        if (byte == '\n') {
            end_line(stream, step);
            break;
        }
        if (byte != ' ')
            keep(stream, byte);
        else if (stream->number >> LENGTH_SHIFT)
            end_token(stream);
        if (kind_of(stream) == GETS) {
            stream->phase = IN_KEYS;
            stream->flags |= REQUEST_HEAD_WHOLE;
        } else if (kind_of(stream) == WATCHES || (++stream->number & 0xffff) > LINE_MOST) {
            *step = REQUEST_LEAVES;
        }
    }
    return taken;
}

/* However many there are, and whatever they look like. */
static size_t take_keys(struct request_stream *stream, const char *bytes, size_t length,
                        enum request_step *step)
{
    const char *end = memchr(bytes, '\n', length);
    if (!end)
        return length;
    end_command(stream, step);
    return (size_t)(end - bytes) + 1;
}

static size_t take_value(struct request_stream *stream, const char *bytes, size_t length,
                         enum request_step *step)
{
    size_t taken = stream->left < length ? (size_t)stream->left : length;
    (void)bytes;
    stream->left -= taken;
    if (stream->left == 0)
        end_command(stream, step);
    return taken;
}

static size_t begin(struct request_stream *stream, const char *bytes, size_t length,
                    enum request_step *step)
{
    (void)bytes;
    (void)length;
    (void)step;
    stream->flags &= ~(uint32_t)REQUEST_BITS;
    begin_line(stream);
    stream->phase = IN_LINE;
    return 0;
}

static size_t ask(struct request_stream *stream, const struct limits *limits, const char *bytes,
                  size_t length, enum request_step *step)
{
    static take *const takes[PHASES] = {
        [BETWEEN] = begin,
        [IN_LINE] = take_line,
        [IN_KEYS] = take_keys,
        [IN_VALUE] = take_value,
    };
    size_t taken = 0;
    (void)limits;
    *step = REQUEST_GOES_ON;
    while (taken < length && *step == REQUEST_GOES_ON)
        taken += takes[stream->phase](stream, bytes + taken, length - taken, step);
    return *step == REQUEST_LEAVES ? length : taken;
}

static enum answer_step answer(struct request_stream *stream, const char *bytes, size_t length,
                               bool first)
{
    (void)stream;
    (void)bytes;
    (void)length;
    (void)first;
    return ANSWER_BEGUN;
}

/* protocol.txt, "Error strings": such an error is of one command, and leaves the connection. */
static size_t refuse_request(const struct request_stream *stream, const struct limits *limits,
                             bool closes, char *out, size_t size)
{
    static const char error[] = "SERVER_ERROR busy, try again later\r\n";
    const struct busy_answer refusal = {limits, NULL, out, size};
    /* What will end a batch, and is to be answered, may be one that is never refused. */
    if (stream->flags & REQUEST_SILENT || closes ||
        (stream->flags & BATCH && stream->phase != BETWEEN))
        return 0;
    return dialect_put(&refusal, error, sizeof error - 1);
}

static const struct request_rules rules = {
    .ask = ask, .answer = answer, .refuse = refuse_request, .early = true};

const struct dialect dialect_memcached = {.recognise = recognise,
                                          .refuse = refuse,
                                          .variant = &dialect_memcached_binary,
                                          .requests = &rules};
