/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * memcached's binary protocol.
 *
 * Source: doc/protocol-binary.xml of memcached 1.6, "Packet Structure", "Defined Values".
 */
#include "dialects/dialect.h"
#include "dialects/request.h"

#include <string.h>

#define HEADER 24
#define REQUEST_MAGIC 0x80
#define RESPONSE_MAGIC 0x81
#define BUSY 0x85 /* the low byte of the status */

/* Where the members of a header are. */
enum { OPCODE = 1, KEY_LENGTH = 2, EXTRAS_LENGTH = 4, STATUS = 7, BODY_LENGTH = 8, OPAQUE = 12 };

/* A request's magic number, and a header of fixed size. */
static enum busy_recognition recognise(const struct busy_client *client)
{
    if ((uint8_t)client->sent[0] != REQUEST_MAGIC)
        return BUSY_UNKNOWN;
    return client->length >= HEADER ? BUSY_RECOGNISED : BUSY_UNDECIDED;
}

/* A response with the request's opcode and opaque, and the status "Busy". */
static size_t put_busy(const struct busy_answer *answer, char opcode, const char *opaque)
{
    char header[HEADER] = {[0] = (char)RESPONSE_MAGIC, [OPCODE] = opcode, [STATUS] = (char)BUSY};
    memcpy(header + OPAQUE, opaque, 4);
    return dialect_put(answer, header, sizeof header);
}

static size_t refuse(const struct busy_answer *answer)
{
    bool known = answer->client && answer->client->length >= HEADER;
    return put_busy(answer, known ? answer->client->sent[OPCODE] : 0,
                    known ? answer->client->sent + OPAQUE : "\0\0\0\0");
}

/* --- requests --- */

/* In REQUEST_OF_OWN bits. */
enum {
    QUIET = 1 << 8, /* the command asks for no answer, or for none unless it found something */
    GETS = 1 << 9,
    BATCH = 1 << 10, /* commands of this request before it were quiet gets */
};

/* Those that are not answered as all others are. Never refused is also what asks whether the server
 * lives. */
static const uint32_t flags_of[256] = {
    [0x07] = REQUEST_SILENT | REQUEST_CLOSES, /* quit */
    [0x09] = QUIET | GETS,                    /* getq */
    [0x0a] = REQUEST_SILENT,                  /* noop */
    [0x0b] = REQUEST_SILENT,                  /* version */
    [0x0d] = QUIET | GETS,                    /* getkq */
    [0x11] = QUIET,                           /* setq */
    [0x12] = QUIET,                           /* addq */
    [0x13] = QUIET,                           /* replaceq */
    [0x14] = QUIET,                           /* deleteq */
    [0x15] = QUIET,                           /* incrementq */
    [0x16] = QUIET,                           /* decrementq */
    [0x17] = REQUEST_SILENT | REQUEST_CLOSES, /* quitq */
    [0x18] = QUIET,                           /* flushq */
    [0x19] = QUIET,                           /* appendq */
    [0x1a] = QUIET,                           /* prependq */
    [0x1e] = QUIET | GETS,                    /* gatq */
    [0x20] = REQUEST_SILENT,                  /* the log-in: list of mechanisms */
    [0x21] = REQUEST_SILENT,                  /* its beginning */
    [0x22] = REQUEST_SILENT,                  /* its steps */
    [0x24] = QUIET | GETS,                    /* gatkq */
};

static uint32_t big_endian(const char *bytes, size_t width)
{
    uint32_t value = 0;
    for (size_t i = 0; i < width; i++)
        value = value << 8 | (uint8_t)bytes[i];
    return value;
}

enum phase { BETWEEN, IN_HEADER, IN_BODY };

/* As in the text protocol, quiet gets are of one request with the first behind them that is not. */
static void end_command(struct request_stream *stream, enum request_step *step)
{
    bool goes_on = (stream->flags & BATCH) && (stream->flags & QUIET);
    stream->kept_length = 0;
    stream->phase = goes_on ? IN_HEADER : BETWEEN;
    *step = goes_on ? REQUEST_GOES_ON : REQUEST_ENDS;
}

/* Opcode and opaque are kept for the refusal, in small and number. */
static void understand(struct request_stream *stream, const char *header, enum request_step *step)
{
    uint32_t flags = flags_of[(uint8_t)header[OPCODE]];
    stream->left = big_endian(header + BODY_LENGTH, 4);
    if ((uint8_t)header[0] != REQUEST_MAGIC ||
        big_endian(header + KEY_LENGTH, 2) + (uint8_t)header[EXTRAS_LENGTH] > stream->left) {
        *step = REQUEST_LEAVES;
        return;
    }
    if (stream->flags & BATCH)
        flags &= ~(uint32_t)REQUEST_SILENT;
    if ((flags & QUIET) && !(flags & GETS))
        flags |= REQUEST_SILENT;
    if ((flags & QUIET) && (flags & GETS))
        flags |= BATCH;
    stream->flags = (stream->flags & ~(uint32_t)(QUIET | GETS)) | flags | REQUEST_HEAD_WHOLE;
    stream->small = (uint8_t)header[OPCODE];
    memcpy(&stream->number, header + OPAQUE, sizeof stream->number);
    stream->phase = IN_BODY;
    if (stream->left == 0)
        end_command(stream, step);
}

static size_t take_header(struct request_stream *stream, const char *bytes, size_t length,
                          enum request_step *step)
{
    size_t taken = HEADER - stream->kept_length;
    taken = taken < length ? taken : length;
    memcpy(stream->kept + stream->kept_length, bytes, taken);
    stream->kept_length += (uint8_t)taken;
    if (stream->kept_length == HEADER)
        understand(stream, stream->kept, step);
    return taken;
}

static size_t take_body(struct request_stream *stream, size_t length, enum request_step *step)
{
    size_t taken = stream->left < length ? (size_t)stream->left : length;
    stream->left -= taken;
    if (stream->left == 0)
        end_command(stream, step);
    return taken;
}

static size_t ask(struct request_stream *stream, const struct limits *limits, const char *bytes,
                  size_t length, enum request_step *step)
{
    size_t taken = 0;
    (void)limits;
    *step = REQUEST_GOES_ON;
    while (taken < length && *step == REQUEST_GOES_ON) {
        if (stream->phase == BETWEEN)
            stream->flags &= ~(uint32_t)REQUEST_BITS;
        if (stream->phase == BETWEEN)
            stream->phase = IN_HEADER;
        taken += stream->phase == IN_BODY
                     ? take_body(stream, length - taken, step)
                     : take_header(stream, bytes + taken, length - taken, step);
    }
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

static size_t refuse_request(const struct request_stream *stream, const struct limits *limits,
                             bool closes, char *out, size_t size)
{
    const struct busy_answer refusal = {limits, NULL, out, size};
    char opaque[4];
    memcpy(opaque, &stream->number, sizeof opaque);
    /* The answer to a batch is that to what ends it. */
    if (stream->flags & REQUEST_SILENT || closes ||
        (stream->flags & BATCH && stream->phase != BETWEEN))
        return 0;
    return put_busy(&refusal, (char)stream->small, opaque);
}

static const struct request_rules rules = {
    .ask = ask, .answer = answer, .refuse = refuse_request, .early = true};

const struct dialect dialect_memcached_binary = {
    .recognise = recognise, .refuse = refuse, .requests = &rules};
