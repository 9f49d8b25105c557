/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How the requests of a protocol follow one another on a connection, for ceilings on requests.
 *
 * A connection's bytes are shown to its dialect in their order, once each: what the client sent as
 * the program reads it, and what the program wrote. From that is known where a request begins and
 * ends, whether it stands inside a transaction, and whether the connection is a stream, which is
 * left alone. To look ahead, at bytes that the program has not read yet, the state is copied and
 * the copy is shown them.
 *
 *     UNKNOWN ------ first bytes are a dialect's with request rules ------> REQUESTS
 *        |                                                                     |
 *        +----- they are none's, or are TLS, HTTP/2 ... ---> ALONE <-----------+
 *                                                              a stream begins: websocket,
 * SUBSCRIBE ...
 *
 * Everything here is pure: bytes in memory in, verdicts out; bounded in time by the length of what
 * is shown; safe in signal handlers. Nothing that a client sends can make it read outside of that.
 */
#ifndef BACKPRESSURE_REQUEST_H
#define BACKPRESSURE_REQUEST_H

#include "dialects/busy.h"

#define REQUEST_KEPT 48
#define REQUEST_REFUSAL_MAX 512 /* holds the refusal of one request in every dialect */

enum request_stream_state { STREAM_UNKNOWN, STREAM_REQUESTS, STREAM_ALONE };

/* Of the request under way, or of the last one when none is. */
enum {
    REQUEST_HEAD_WHOLE = 1, /* enough is there to know what it asks, and how long it is */
    REQUEST_EXEMPT = 2,     /* exempt-request names it */
    REQUEST_SILENT = 4,     /* nobody answers it, or it belongs to what was asked before: log-ins,
                               noreply, COPY's data. Never held, shed or counted by itself */
    REQUEST_WAITS = 8, /* the program may keep it for long on purpose: BLPOP and the like. It has no
                          place under a ceiling */
    REQUEST_CLOSES = 16, /* the connection ends behind its answer, as client or protocol have it */
    REQUEST_UNBOUNDED =
        32,              /* where it ends cannot be known: refused, the connection must be closed */
    REQUEST_OPENS = 64,  /* begins a transaction, and what the client may have sent behind it would
                            run outside of that were it refused: shed only together with it
                            (request_transaction), otherwise held and counted as any */
    REQUEST_LEADS = 128, /* what the client has sent behind it may rest on it: not refused while
                            something is there */
    REQUEST_OF_OWN = 0xff00, /* bits for the dialect's own use */
    REQUEST_BITS = 0xffff,
    /* Of the session, from one request to the next. */
    SESSION_TRANSACTION = 1 << 16, /* the next request stands inside a transaction */
    ANSWER_UNFINISHED = 1 << 17, /* the dialect follows the program's answers to their end, and the
                                    last one has not come to it */
    SESSION_OF_OWN = 0x7f << 24,
};

/* What is remembered of a connection. Zeroed: nothing was seen yet. Plain data, copied at will. */
struct request_stream {
    uint8_t state;    /* enum request_stream_state */
    uint8_t protocol; /* enum busy_protocol, in REQUESTS */
    uint8_t kept_length;
    uint8_t answer_kept_length;
    uint32_t flags;
    /* The rest is the dialect's own. phase is 0 between two requests, and answer_phase between two
     * of the program's messages. */
    uint8_t phase, answer_phase;
    uint16_t small;
    uint32_t number;
    uint64_t left, answer_left; /* bytes that are passed over */
    char kept[REQUEST_KEPT];    /* of a head that is not whole; before a dialect is known: the first
                                   bytes */
    char answer_kept[16];
};

enum request_step {
    REQUEST_GOES_ON, /* all bytes were taken, and the request has not ended; or there were none */
    REQUEST_ENDS,    /* a request ends behind the bytes that were taken */
    REQUEST_LEAVES,  /* from here on the connection is a stream */
};

enum answer_step {
    ANSWER_NOTHING, /* greetings, interim answers (HTTP 1xx), notices */
    ANSWER_BEGUN,   /* some of the bytes answer a request */
    ANSWER_LEAVES,  /* from here on the connection is a stream */
};

/* What a dialect knows of requests. */
struct request_rules {
    /*
     * Takes bytes of the client, at most up to the end of one request; returns how many: all of
     * them unless the step is REQUEST_ENDS. flags tell of the request as soon as that is known; at
     * the first byte of a new one the dialect clears REQUEST_BITS first. `limits` for
     * exempt-request.
     */
    size_t (*ask)(struct request_stream *stream, const struct limits *limits, const char *bytes,
                  size_t length, enum request_step *step);
    /* Takes all of the bytes that the program wrote. `first`: nothing answered the request so far.
     */
    enum answer_step (*answer)(struct request_stream *stream, const char *bytes, size_t length,
                               bool first);
    /*
     * Writes the refusal of the request that `ask` went through last, and returns its length, at
     * most REQUEST_REFUSAL_MAX; 0 when it cannot be refused. `closes`: the connection ends behind
     * it, so that the refusal says so where the protocol can.
     */
    size_t (*refuse)(const struct request_stream *stream, const struct limits *limits, bool closes,
                     char *out, size_t size);
    /* So many bytes of the program's went out unseen. NULL: where answer_left stands for all that
     * matters, and is lowered by them. */
    void (*unseen)(struct request_stream *stream, size_t length);
    /* A refusal may stand before the end of its request, of which the rest is passed over: clients
     * send all of it in any case, and read answers in their order. */
    bool early;
    /* Its requests may stand inside transactions, and each answer tells whether the next does. */
    bool transactions;
    /* The request that `ask` went through last was refused: the program will not answer it. NULL:
     * that changes nothing. */
    void (*refused)(struct request_stream *stream);
    /* Writes what is said to a client that did not end a request in time, before the connection is
     * closed; as `refuse`. NULL: it is closed without a word. */
    size_t (*timed_out)(char *out, size_t size);
    /* Where the server speaks first: whether the program's first bytes are this protocol's
     * greeting. NULL where clients speak first. */
    bool (*greets)(const char *bytes, size_t length);
    /* A client's first request may stand behind empty lines, which are part of it. */
    bool empty_lines;
};

/* Shows bytes that the client sent, as request_rules.ask, also before a dialect is known. */
size_t request_ask(struct request_stream *stream, const struct limits *limits, const char *bytes,
                   size_t length, enum request_step *step);

/* Shows bytes that the program wrote, as request_rules.answer. */
enum answer_step request_answer(struct request_stream *stream, const char *bytes, size_t length,
                                bool first);

/* Some of the program's bytes went out unseen (sendfile): only what follows from their content is
 * lost. */
enum answer_step request_answer_unseen(struct request_stream *stream, size_t length, bool first);

/*
 * How many of `bytes`, of which the first begins a request, a transaction takes that REQUEST_OPENS
 * begins, with the request that ends it; 0 unless all of it is there. To shed it is to go through
 * its requests with request_ask, and to refuse each.
 */
size_t request_transaction(const struct request_stream *stream, const struct limits *limits,
                           const char *bytes, size_t length);

/* As request_rules.refuse; 0 where there is no dialect. */
size_t request_refuse(const struct request_stream *stream, const struct limits *limits, bool closes,
                      char *out, size_t size);

/* The refusal was sent, and the program knows nothing of the request. */
void request_refused(struct request_stream *stream);

/* As request_rules.timed_out; 0 where nothing is to be said. */
size_t request_timed_out(const struct request_stream *stream, char *out, size_t size);

/* Whether a connection of this protocol that was not followed from its beginning may be inside a
 * transaction. It is taken for so, by SESSION_TRANSACTION, until an answer tells. */
bool request_may_be_inside(const struct request_stream *stream);

/* Whether a request can be refused before its end is there: request_rules.early. */
bool request_refused_early(const struct request_stream *stream);

/* Bytes of the client went by unseen: nothing can be said of it any more. */
void request_leave(struct request_stream *stream);

/* Whether the first bytes of a connection are a request that exempt-request names; BUSY_UNDECIDED
 * while they are too few to tell. */
enum busy_recognition request_exempt(const struct limits *limits, const char *bytes, size_t length);

/* Whether the client's next byte begins a request: nothing of one was seen that has not ended. */
static inline bool request_between(const struct request_stream *stream)
{
    return stream->phase == 0 && stream->left == 0 && stream->kept_length == 0;
}

#endif
