/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The Redis serialization protocol, versions 2 and 3, and commands typed inline.
 *
 * Source: "Redis serialization protocol specification", and how Redis 7.0 takes a client's input.
 * What it answers with a protocol error ends the connection, so that such a one is left alone here.
 */
#include "dialects/dialect.h"
#include "dialects/request.h"
#include "dialects/resp3.h"

#include <limits.h>
#include <string.h>
#include <strings.h>

/*
 * What is typed by hand, or sent by health checks, comes as a line. Words that another protocol may
 * begin with, such as memcached's, must be in capitals, as Redis' documentation has them.
 */
static enum busy_recognition recognise_line(const struct busy_client *client)
{
    static const char *const any_case[] = {
        "PING",        "AUTH ",       "HELLO",     "INFO",    "SELECT ",  "DBSIZE", "MGET ",
        "MSET ",       "SETEX ",      "HGET ",     "HSET ",   "HGETALL ", "LPUSH ", "RPUSH ",
        "LPOP ",       "RPOP ",       "SADD ",     "LRANGE ", "BLPOP ",   "BRPOP ", "ZADD ",
        "ZRANGE ",     "XADD ",       "XREAD ",    "FCALL ",  "PSYNC ",   "LLEN ",  "EVALSHA ",
        "PSUBSCRIBE ", "SSUBSCRIBE ", "REPLCONF ", NULL,
    };
    static const char *const capitals[] = {
        "SET ",      "DEL ",   "INCR ",  "DECR ",   "APPEND ",  "TTL ",       "EXISTS ",
        "EXPIRE ",   "KEYS ",  "SCAN ",  "ECHO ",   "CLIENT ",  "CONFIG ",    "COMMAND",
        "MULTI",     "WATCH ", "EVAL ",  "MONITOR", "PUBLISH ", "SUBSCRIBE ", "CLUSTER ",
        "SENTINEL ", "ROLE\r", "ROLE\n", "SYNC\r",  "SYNC\n",   NULL,
    };
    enum busy_recognition one = dialect_begins_with_one(client, any_case, true);
    enum busy_recognition other = dialect_begins_with_one(client, capitals, false);
    return one < other ? one : other;
}

/* An array of bulk strings, or a command typed inline. */
static enum busy_recognition recognise(const struct busy_client *client)
{
    if (client->sent[0] != '*')
        return recognise_line(client);
    if (client->length == 1)
        return BUSY_UNDECIDED;
    return client->sent[1] >= '0' && client->sent[1] <= '9' ? BUSY_RECOGNISED : BUSY_UNKNOWN;
}

/* Redis's own words. */
static size_t refuse(const struct busy_answer *answer)
{
    static const char error[] = "-ERR max number of clients reached\r\n";
    return dialect_put(answer, error, sizeof error - 1);
}

/* --- requests --- */

#define LINE_MOST 65536 /* a longer one without an end is a protocol error */
#define NUMBER_MOST 24  /* of a count's or a length's line */
#define WORD_MOST 16    /* longer than every word that means something here */

/* What a request does beyond being answered; in its REQUEST_OF_OWN bits. */
enum meaning {
    PLAIN,
    STREAMS, /* the connection is a stream from here on */
    MULTI,
    EXEC,
    DISCARDS,
    RESETS,
    /* The next argument says more. */
    NAME,
    CLIENT,
    CLIENT_REPLY,
    HELLO,
    CONTAINS_KILL,
    /* Any argument to come may. */
    READS_GROUP,
    READS_STREAMS,
    /* What it said. */
    REPLY_ON,
    REPLY_OFF,
    REPLY_SKIP,
    HELLO_2,
    HELLO_3,
};

/* What a session keeps, in its SESSION_OF_OWN bits. */
enum {
    ANSWERS_OFF = 1 << 24,   /* after CLIENT REPLY OFF */
    ANSWER_SKIP = 1 << 25,   /* after CLIENT REPLY SKIP: the next request has no answer */
    ANSWERS_RESP3 = 1 << 26, /* answers may have push messages between them */
    SESSION_KNOWN = 1 << 27  /* whether it is inside a transaction */
};

/*
 * The words that mean something, by what was known before them. Blocking commands are those with
 * the flag `blocking` in the output of COMMAND, and what waits for replicas; never refused is what
 * Redis itself answers while a script keeps it busy (a flag there, too), what later requests depend
 * on, whose refusal would change their meaning (a SELECT: they would go to another database), and
 * the PING of those who ask whether the server lives.
 */
static const struct word {
    enum meaning before;
    char word[WORD_MOST];
    enum meaning meaning;
    uint32_t flags;
} words[] = {
    {NAME, "MULTI", MULTI, REQUEST_OPENS},
    {NAME, "EXEC", EXEC, 0},
    {NAME, "DISCARD", DISCARDS, 0},
    {NAME, "RESET", RESETS, REQUEST_SILENT},
    {NAME, "WATCH", PLAIN, REQUEST_SILENT},
    {NAME, "UNWATCH", PLAIN, REQUEST_SILENT},
    {NAME, "AUTH", PLAIN, REQUEST_SILENT},
    {NAME, "HELLO", HELLO, REQUEST_SILENT},
    {NAME, "SELECT", PLAIN, REQUEST_SILENT},
    {NAME, "CLIENT", CLIENT, REQUEST_SILENT},
    {NAME, "ASKING", PLAIN, REQUEST_SILENT},
    {NAME, "READONLY", PLAIN, REQUEST_SILENT},
    {NAME, "READWRITE", PLAIN, REQUEST_SILENT},
    {NAME, "PING", PLAIN, REQUEST_SILENT},
    {NAME, "SHUTDOWN", PLAIN, REQUEST_SILENT},
    {NAME, "SCRIPT", CONTAINS_KILL, 0},
    {NAME, "FUNCTION", CONTAINS_KILL, 0},
    {NAME, "QUIT", PLAIN, REQUEST_SILENT | REQUEST_CLOSES},
    {NAME, "SUBSCRIBE", STREAMS, 0},
    {NAME, "PSUBSCRIBE", STREAMS, 0},
    {NAME, "SSUBSCRIBE", STREAMS, 0},
    {NAME, "MONITOR", STREAMS, 0},
    {NAME, "SYNC", STREAMS, 0},
    {NAME, "PSYNC", STREAMS, 0},
    {NAME, "REPLCONF", STREAMS, 0},
    {NAME, "BLPOP", PLAIN, REQUEST_WAITS},
    {NAME, "BRPOP", PLAIN, REQUEST_WAITS},
    {NAME, "BRPOPLPUSH", PLAIN, REQUEST_WAITS},
    {NAME, "BLMOVE", PLAIN, REQUEST_WAITS},
    {NAME, "BLMPOP", PLAIN, REQUEST_WAITS},
    {NAME, "BZPOPMIN", PLAIN, REQUEST_WAITS},
    {NAME, "BZPOPMAX", PLAIN, REQUEST_WAITS},
    {NAME, "BZMPOP", PLAIN, REQUEST_WAITS},
    {NAME, "WAIT", PLAIN, REQUEST_WAITS},
    {NAME, "WAITAOF", PLAIN, REQUEST_WAITS},
    {NAME, "XREAD", READS_STREAMS, 0},
    {NAME, "XREADGROUP", READS_GROUP, 0},
    {READS_STREAMS, "BLOCK", PLAIN, REQUEST_WAITS},
    {READS_STREAMS, "STREAMS", PLAIN, 0},
    {CONTAINS_KILL, "KILL", PLAIN, REQUEST_SILENT},
    {HELLO, "2", HELLO_2, 0},
    {HELLO, "3", HELLO_3, 0},
    {CLIENT, "REPLY", CLIENT_REPLY, 0},
    {CLIENT_REPLY, "ON", REPLY_ON, 0},
    {CLIENT_REPLY, "OFF", REPLY_OFF, 0},
    {CLIENT_REPLY, "SKIP", REPLY_SKIP, 0},
};

#define MEANING_SHIFT 8
/* Arguments of XREADGROUP that are names: GROUP group consumer. */
#define GROUP_NAMES 3

static enum meaning meaning_of(const struct request_stream *stream)
{
    return (enum meaning)((stream->flags & REQUEST_OF_OWN) >> MEANING_SHIFT);
}

static void mean(struct request_stream *stream, enum meaning meaning)
{
    stream->flags = (stream->flags & ~(uint32_t)REQUEST_OF_OWN) | (uint32_t)meaning
                                                                      << MEANING_SHIFT;
}

static bool says_more(enum meaning meaning)
{
    return meaning >= NAME && meaning <= READS_STREAMS;
}

static const struct word *find(enum meaning before, const char *word, size_t length)
{
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (words[i].before == before && strlen(words[i].word) == length &&
            strncasecmp(words[i].word, word, length) == 0)
            return &words[i];
    return NULL;
}

/* The word at `small` is there; a longer one than WORD_MOST means nothing. */
static void understand(struct request_stream *stream, const char *word, size_t length,
                       enum request_step *step)
{
    enum meaning before = meaning_of(stream);
    const struct word *found = find(before, word, length);
    if (found) {
        mean(stream, found->meaning);
        stream->flags |= found->flags;
    } else if (before == READS_GROUP && stream->small == GROUP_NAMES) {
        mean(stream, READS_STREAMS);
    } else if (before < READS_GROUP) {
        mean(stream, PLAIN);
    }
    /* Inside of a transaction nothing blocks. */
    if (stream->flags & SESSION_TRANSACTION && stream->flags & SESSION_KNOWN)
        stream->flags &= ~(uint32_t)REQUEST_WAITS;
    if (!says_more(meaning_of(stream)))
        stream->flags |= REQUEST_HEAD_WHOLE;
    if (meaning_of(stream) == STREAMS)
        *step = REQUEST_LEAVES;
}

/* By what a request changed the session, once it is whole. */
static void settle(struct request_stream *stream)
{
    /* What to set and what to clear; of a transaction only without arguments, which are errors. */
    static const struct {
        uint32_t set, clear;
    } changes[HELLO_3 + 1] = {
        [MULTI] = {.set = SESSION_TRANSACTION | SESSION_KNOWN},
        [EXEC] = {.set = SESSION_KNOWN, .clear = SESSION_TRANSACTION},
        [DISCARDS] = {.set = SESSION_KNOWN, .clear = SESSION_TRANSACTION},
        [RESETS] = {.set = SESSION_KNOWN,
                    .clear = SESSION_TRANSACTION | ANSWERS_OFF | ANSWERS_RESP3},
        [REPLY_ON] = {.clear = ANSWERS_OFF},
        [REPLY_OFF] = {.set = ANSWERS_OFF},
        [REPLY_SKIP] = {.set = ANSWER_SKIP},
        [HELLO_2] = {.clear = ANSWERS_RESP3},
        [HELLO_3] = {.set = ANSWERS_RESP3},
    };
    enum meaning meaning = meaning_of(stream);
    stream->flags &= ~(uint32_t)ANSWER_SKIP;
    if (meaning >= MULTI && meaning <= RESETS && stream->small != 1)
        return;
    if (meaning == HELLO_3 && !(stream->flags & ANSWERS_RESP3))
        resp3_begin(stream);
    stream->flags = (stream->flags & ~changes[meaning].clear) | changes[meaning].set;
}

static void end_request(struct request_stream *stream, enum request_step *step)
{
    /* An empty line or array is answered by nobody. */
    if (stream->small == 0)
        stream->flags |= REQUEST_SILENT;
    stream->flags |= REQUEST_HEAD_WHOLE;
    settle(stream);
    stream->phase = 0;
    stream->kept_length = 0;
    *step = REQUEST_ENDS;
}

static void keep(struct request_stream *stream, char byte, size_t most)
{
    if (stream->kept_length < most)
        stream->kept[stream->kept_length++] = byte;
}

/* A whole number as Redis takes it: no sign but -, no zeros before it, nothing behind it. */
static bool read_number(const char *digits, size_t length, int64_t *number)
{
    bool negative = length > 0 && digits[0] == '-';
    digits += negative;
    length -= negative;
    if (length == 0 || (digits[0] == '0' && (length > 1 || negative)))
        return false;
    int64_t value = 0;
    for (; length; length--, digits++) {
        if (*digits < '0' || *digits > '9' || value > (INT64_MAX - 9) / 10)
            return false;
        value = value * 10 + (*digits - '0');
    }
    *number = negative ? -value : value;
    return true;
}

enum phase { BETWEEN, IN_LINE, IN_COUNT, IN_LENGTH, IN_WORD, IN_DATA, PHASES };

/* Each takes at least one byte, or changes the phase. */
typedef size_t take(struct request_stream *, const char *, size_t, enum request_step *);

static size_t begin(struct request_stream *stream, const char *bytes, size_t length,
                    enum request_step *step)
{
    (void)length;
    (void)step;
    stream->flags &= ~(uint32_t)REQUEST_BITS;
    if (stream->flags & (ANSWERS_OFF | ANSWER_SKIP))
        stream->flags |= REQUEST_SILENT;
    mean(stream, NAME);
    stream->small = 0;
    stream->number = 0;
    stream->phase = bytes[0] == '*' ? IN_COUNT : IN_LINE;
    return bytes[0] == '*';
}

static void next_argument(struct request_stream *stream)
{
    stream->kept_length = 0;
    if (stream->small < UINT16_MAX)
        stream->small++;
}

/* Quotes are passed over: who puts the name of a command into them means that command. */
static size_t take_line(struct request_stream *stream, const char *bytes, size_t length,
                        enum request_step *step)
{
    for (size_t i = 0; i < length; i++) {
        char byte = bytes[i];
        bool separates = byte == ' ' || (byte >= '\t' && byte <= '\r');
        if (separates && stream->kept_length) {
            if (says_more(meaning_of(stream)))
                understand(stream, stream->kept, stream->kept_length, step);
            next_argument(stream);
        } else if (!separates && byte != '"' && byte != '\'') {
            keep(stream, byte, WORD_MOST);
        }
        if (byte == '\n' && *step != REQUEST_LEAVES)
            end_request(stream, step);
        if (++stream->number > LINE_MOST)
            *step = REQUEST_LEAVES;
        if (*step != REQUEST_GOES_ON)
            return i + 1;
    }
    return length;
}

/* Up to the end of a line that has a number; whether that is there. */
static size_t take_number(struct request_stream *stream, const char *bytes, size_t length,
                          enum request_step *step, int64_t *number)
{
    const char *kept = stream->kept;
    size_t taken = 0;
    while (taken < length && stream->kept_length < NUMBER_MOST) {
        keep(stream, bytes[taken++], NUMBER_MOST);
        size_t have = stream->kept_length, head = stream->phase == IN_LENGTH;
        if (bytes[taken - 1] != '\n')
            continue;
        stream->kept_length = 0;
        if (have < head + 2 || kept[have - 2] != '\r' || (head && kept[0] != '$') ||
            !read_number(kept + head, have - head - 2, number))
            *step = REQUEST_LEAVES;
        else
            *step = REQUEST_ENDS;
        return taken;
    }
    if (stream->kept_length == NUMBER_MOST)
        *step = REQUEST_LEAVES;
    return taken;
}

static size_t take_count(struct request_stream *stream, const char *bytes, size_t length,
                         enum request_step *step)
{
    int64_t count = 0;
    size_t taken = take_number(stream, bytes, length, step, &count);
    if (*step != REQUEST_ENDS)
        return taken;
    *step = count > INT_MAX ? REQUEST_LEAVES : REQUEST_GOES_ON;
    stream->number = (uint32_t)count;
    stream->phase = IN_LENGTH;
    if (count <= 0)
        end_request(stream, step);
    return taken;
}

static size_t take_length(struct request_stream *stream, const char *bytes, size_t length,
                          enum request_step *step)
{
    int64_t size = 0;
    size_t taken = take_number(stream, bytes, length, step, &size);
    if (*step != REQUEST_ENDS)
        return taken;
    *step = size < 0 ? REQUEST_LEAVES : REQUEST_GOES_ON;
    stream->left = (uint64_t)size + 2;
    stream->phase = says_more(meaning_of(stream)) ? IN_WORD : IN_DATA;
    return taken;
}

static void end_argument(struct request_stream *stream, enum request_step *step)
{
    stream->phase = IN_LENGTH;
    next_argument(stream);
    if (--stream->number == 0)
        end_request(stream, step);
}

static size_t take_data(struct request_stream *stream, const char *bytes, size_t length,
                        enum request_step *step)
{
    size_t taken = stream->left < length ? (size_t)stream->left : length;
    (void)bytes;
    stream->left -= taken;
    if (stream->left == 0)
        end_argument(stream, step);
    return taken;
}

/* One that may mean something. Where it is longer than all that do, only its end is waited for. */
static size_t take_word(struct request_stream *stream, const char *bytes, size_t length,
                        enum request_step *step)
{
    size_t taken = stream->left < length ? (size_t)stream->left : length;
    for (size_t i = 0; i < taken && stream->left - i > 2; i++)
        keep(stream, bytes[i], WORD_MOST);
    stream->left -= taken;
    if (stream->left)
        return taken;
    understand(stream, stream->kept, stream->kept_length, step);
    if (*step == REQUEST_GOES_ON)
        end_argument(stream, step);
    return taken;
}

static size_t ask(struct request_stream *stream, const struct limits *limits, const char *bytes,
                  size_t length, enum request_step *step)
{
    static take *const takes[PHASES] = {
        [BETWEEN] = begin,         [IN_LINE] = take_line, [IN_COUNT] = take_count,
        [IN_LENGTH] = take_length, [IN_WORD] = take_word, [IN_DATA] = take_data,
    };
    size_t taken = 0;
    (void)limits;
    *step = REQUEST_GOES_ON;
    while (taken < length && *step == REQUEST_GOES_ON)
        taken += takes[stream->phase](stream, bytes + taken, length - taken, step);
    return *step == REQUEST_LEAVES ? length : taken;
}

/* A connection may be looked at first when it is in a transaction already; its first answer tells.
 */
static void learn(struct request_stream *stream, const char *bytes, size_t length)
{
    static const char queued[] = "+QUEUED\r\n";
    stream->flags |= SESSION_KNOWN;
    stream->flags &= ~(uint32_t)SESSION_TRANSACTION;
    if (length >= sizeof queued - 1 && memcmp(bytes, queued, sizeof queued - 1) == 0)
        stream->flags |= SESSION_TRANSACTION;
}

/* Of what cannot be followed all is taken for answers, as in RESP2. */
static enum answer_step answer(struct request_stream *stream, const char *bytes, size_t length,
                               bool first)
{
    (void)first;
    if (!(stream->flags & SESSION_KNOWN))
        learn(stream, bytes, length);
    if (!(stream->flags & ANSWERS_RESP3))
        return ANSWER_BEGUN;
    enum answer_step step = ANSWER_NOTHING;
    if (!resp3_answer(stream, bytes, length, &step))
        stream->flags &= ~(uint32_t)ANSWERS_RESP3;
    return step;
}

/*
 * BUSY is what Redis says itself while it cannot run a command: Jedis, Lettuce and Redisson have an
 * exception of that name, every client hands it to its program as an error of this one command, and
 * keeps the connection. With LOADING redis-py gives the connection up; TRYAGAIN and CLUSTERDOWN are
 * asked again at once by clients that take the server for part of a cluster. Rather than that the
 * connection ends, with all that its session has, a request waits.
 */
static size_t refuse_request(const struct request_stream *stream, const struct limits *limits,
                             bool closes, char *out, size_t size)
{
    static const char busy[] = "-BUSY the server is busy, try again later\r\n";
    static const char abort[] = "-EXECABORT Transaction discarded: the server is busy, "
                                "try again later\r\n";
    const struct busy_answer answer = {limits, NULL, out, size};
    if (stream->flags & REQUEST_SILENT || closes)
        return 0;
    return meaning_of(stream) == EXEC ? dialect_put(&answer, abort, sizeof abort - 1)
                                      : dialect_put(&answer, busy, sizeof busy - 1);
}

static const struct request_rules rules = {
    .ask = ask, .answer = answer, .refuse = refuse_request, .early = true, .transactions = true};

const struct dialect dialect_redis = {.recognise = recognise, .refuse = refuse, .requests = &rules};
