/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A message of HTTP/1.x, request or answer, as far as it is kept from one piece to the next: its
 * phases, and what takes the bytes of its fields, body, chunks and trailer. The first lines of
 * requests are http1_requests.c's.
 *
 * No byte is looked at more than twice, and none is kept.
 */
#ifndef BACKPRESSURE_HTTP1_MESSAGE_H
#define BACKPRESSURE_HTTP1_MESSAGE_H

#include "dialects/http1.h"

enum phase {
    BETWEEN,
    BLANK,
    METHOD,
    TARGET_START,
    TARGET_SCHEME,
    TARGET_PATH,
    TARGET_REST,
    VERSION,
    STATUS_VERSION,
    STATUS_CODE,
    FIELD_START,
    FIELD_NAME,
    VALUE_LENGTH,
    VALUE_LIST,
    VALUE_TYPE,
    VALUE_OTHER,
    LINE_CR, /* a line has ended but for its LF */
    HEAD_CR, /* the empty line has begun */
    HEAD_PHASES,
    /* Bodies. */
    BODY = HEAD_PHASES,
    CHUNK_SIZE,
    CHUNK_SPACE,
    CHUNK_EXTENSION,
    CHUNK_LINE_LF,
    CHUNK_DATA,
    CHUNK_DATA_LF,
    UNTIL_CLOSE, /* whatever comes belongs to this message */
    LOST,        /* and nobody knows what it is */
    /* The phases of an outcome: none is kept from one call to the next. */
    HEAD_ENDED,
    ENDED,
    STREAM,
    PHASES
};

enum field { FIELD_LENGTH, FIELD_CODING, FIELD_CONNECTION, FIELD_TYPE, FIELD_OTHER };

/* What a head said. */
enum {
    FOUND_LENGTH = 1,
    FOUND_CODING = 2,
    FOUND_CHUNKED = 4,
    FOUND_CLOSE = 8,
    FOUND_KEEP_ALIVE = 16,
    FOUND_EVENTS = 32,
    FOUND_FAULT = 64, /* servers may differ about the end */
    IN_TRAILER = 128,
};

/* Bits of a request that its answer depends on, for this dialect's own use. */
enum { ASKS_HEAD = 0x100, ASKS_CONNECT = 0x200 };

/* One direction of a connection: as much as is kept of it from one call to the next. */
struct kept {
    uint8_t candidates; /* a bit for each of the words that the bytes so far may be */
    uint8_t at;         /* how far into a word, or a smaller step within the phase */
    uint8_t field;
    uint8_t found;
};

struct message {
    enum phase phase;
    struct kept kept;
    uint16_t head;   /* bytes of it so far */
    uint16_t status; /* of an answer */
    uint64_t left;   /* of a body or chunk; within a head: what Content-Length says */
    struct request_stream *stream;
    const struct limits *limits;
};

_Static_assert(sizeof(struct kept) == sizeof(uint32_t), "kept in `number`");

/* What takes the next bytes, of which there is one at least; returns how many it took: none where
 * only the phase changed. */
typedef size_t http1_taker(struct message *message, const char *bytes, size_t length);

/* Takes bytes until something has come about: the phase is one of an outcome, or LOST.
 * `request_line` has what takes the phases before STATUS_VERSION; NULL for an answer. */
size_t http1_go_on(struct message *message, http1_taker *const *request_line, const char *bytes,
                   size_t length);

/* Passes over at most what is left of a body or chunk. */
size_t http1_pass_over(struct message *message, size_t length);

/* The line is whole but for its LF, where `byte` is CR; otherwise it is LF. */
void http1_line_ends(struct message *message, char byte);

/* Servers may differ about what this line means; the rest of it is passed over. */
void http1_fault(struct message *message);

/* A word of which each byte is shown to http1_word_goes_on, none of them NUL, and then which of
 * `words`, at most eight and NULL, it was; -1 for none. */
void http1_word_begins(struct message *message);
void http1_word_goes_on(struct message *message, const char *const words[], char byte);
int http1_word_ends(const struct message *message, const char *const words[]);

static inline char http1_lower(char byte)
{
    return byte >= 'A' && byte <= 'Z' ? (char)(byte | 0x20) : byte;
}

static inline bool http1_is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

static inline bool http1_ends_line(char byte)
{
    return byte == '\r' || byte == '\n';
}

/* tchar: RFC 9110, 5.6.2. */
static inline bool http1_is_token(char byte)
{
    static const uint64_t tokens[] = {0x03ff6cfa00000000, 0x57ffffffc7fffffe};
    unsigned char code = (unsigned char)byte;
    return code < 128 && tokens[code / 64] >> code % 64 & 1;
}

#endif
