/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * After "Response Packets" of MariaDB's and MySQL's documentation of their protocol.
 */
#include "dialects/mysql_answers.h"

#include <string.h>

/* The first byte of a packet. */
enum { IS_OK = 0, IS_DEFINITION = 3, IS_FILE = 0xfb, IS_EOF = 0xfe, IS_ERROR = 0xff };

/* Status flags. */
enum {
    IN_TRANSACTION = 1,
    AUTOCOMMIT = 2,
    MORE_RESULTS = 8,
    CURSOR_EXISTS = 0x40,
    STATUS_UNKNOWN = 1 << 16
};

#define EOF_LENGTH 5 /* in the form that CLIENT_DEPRECATE_EOF replaces by an OK */
#define OK_LEAST 7
#define PREPARED_LEAST 12

/* An OK's status stands behind two numbers of at most nine bytes each. */
#define HEAD_MOST 24
#define HEAD_AT 24 /* of request_stream.kept, whose beginning is the client's */

/* How far the server is; kept in request_stream.answer_kept. */
struct progress {
    uint32_t awaited; /* four bits for each answer that is to come: what it begins with */
    uint16_t definitions, columns;
    uint8_t state; /* enum mysql_answer; NOTHING between two answers */
    uint8_t number;
    bool begun;      /* the server greeted */
    bool continues;  /* the next packet is the rest of this one */
    bool autocommit; /* as the last status said */
};

_Static_assert(sizeof(struct progress) <= sizeof((struct request_stream *)0)->answer_kept,
               "it has a place");
_Static_assert(HEAD_AT + HEAD_MOST <= REQUEST_KEPT, "it has a place");

/* A packet of the server: its first bytes, and how long it is. */
struct packet {
    const char *head;
    size_t length;
};

static struct progress progress_of(const struct request_stream *stream)
{
    struct progress progress;
    memcpy(&progress, stream->answer_kept, sizeof progress);
    return progress;
}

static void progress_keep(struct request_stream *stream, const struct progress *progress)
{
    memcpy(stream->answer_kept, progress, sizeof *progress);
}

uint64_t mysql_number(const char *bytes, size_t width)
{
    uint64_t value = 0;
    while (width-- > 0)
        value = value << 8 | (uint8_t)bytes[width];
    return value;
}

static void lost(struct request_stream *stream)
{
    stream->flags |= MYSQL_LOST | SESSION_TRANSACTION;
}

void mysql_await(struct request_stream *stream, enum mysql_answer begins)
{
    struct progress progress = progress_of(stream);
    unsigned place = 0;
    while (place < 32 && progress.awaited >> place & 15)
        place += 4;
    if (place == 32) {
        lost(stream);
        return;
    }
    progress.awaited |= (uint32_t)begins << place;
    progress_keep(stream, &progress);
}

bool mysql_awaits_one(const struct request_stream *stream)
{
    struct progress progress = progress_of(stream);
    return progress.state == MYSQL_NOTHING && progress.awaited && progress.awaited < 16;
}

void mysql_await_none(struct request_stream *stream)
{
    struct progress progress = progress_of(stream);
    progress.awaited = 0;
    progress_keep(stream, &progress);
}

/* Passes over a length-encoded number at `at`; the place behind it. */
static size_t behind_number(const struct packet *packet, size_t at)
{
    static const uint8_t widths[] = {[0xfc - 0xfb] = 2, [0xfd - 0xfb] = 3, [0xfe - 0xfb] = 8};
    uint8_t first = (uint8_t)packet->head[at];
    return at + 1 + (first >= 0xfb && first <= 0xfe ? widths[first - 0xfb] : 0);
}

/* Of an EOF in its old form, or an OK. */
static uint32_t status_of(const struct packet *packet)
{
    if (packet->length == EOF_LENGTH)
        return (uint32_t)mysql_number(packet->head + 3, 2);
    if (packet->length < OK_LEAST)
        return STATUS_UNKNOWN;
    size_t at = behind_number(packet, 1);
    at = at < packet->length ? behind_number(packet, at) : at;
    return at + 2 <= packet->length ? (uint32_t)mysql_number(packet->head + at, 2)
                                    : (uint32_t)STATUS_UNKNOWN;
}

/* What follows a packet with a status. */
static enum mysql_answer after_status(struct request_stream *stream, struct progress *progress,
                                      const struct packet *packet)
{
    uint32_t status = status_of(packet);
    if (status == STATUS_UNKNOWN) {
        lost(stream);
        return MYSQL_NOTHING;
    }
    progress->autocommit = status & AUTOCOMMIT;
    if (status & IN_TRANSACTION || stream->flags & MYSQL_TABLES_LOCKED)
        stream->flags |= SESSION_TRANSACTION;
    else
        stream->flags &= ~(uint32_t)SESSION_TRANSACTION;
    return status & MORE_RESULTS ? MYSQL_FIRST : MYSQL_NOTHING;
}

/* An error tells no status: the transaction may have begun, as in a procedure, or go on. */
static enum mysql_answer after_error(struct request_stream *stream)
{
    stream->flags |= SESSION_TRANSACTION;
    return MYSQL_NOTHING;
}

static uint8_t kind_of(const struct packet *packet)
{
    return packet->length ? (uint8_t)packet->head[0] : (uint8_t)IS_DEFINITION;
}

static bool is_old_eof(const struct packet *packet)
{
    return kind_of(packet) == IS_EOF && packet->length == EOF_LENGTH;
}

static enum mysql_answer one_packet(struct request_stream *stream, struct progress *progress,
                                    const struct packet *packet)
{
    (void)stream, (void)progress, (void)packet;
    return MYSQL_NOTHING;
}

/* Whatever else comes, the client's plugin answers. */
static enum mysql_answer login(struct request_stream *stream, struct progress *progress,
                               const struct packet *packet)
{
    if (kind_of(packet) == IS_ERROR)
        return after_error(stream);
    if (packet->length == 0 || kind_of(packet) != IS_OK)
        return MYSQL_LOGIN;
    stream->flags |= MYSQL_LOGGED_IN;
    return after_status(stream, progress, packet);
}

/* How many columns; a byte more says whether their definitions follow. */
static enum mysql_answer columns_counted(struct request_stream *stream, struct progress *progress,
                                         const struct packet *packet)
{
    uint8_t first = kind_of(packet);
    size_t width = first == 0xfc ? 3 : 1;
    if (packet->length < width || packet->length > width + 1 || first > 0xfc) {
        lost(stream);
        return MYSQL_NOTHING;
    }
    bool defined = packet->length == width || packet->head[width];
    progress->definitions = width == 1 ? first : (uint16_t)mysql_number(packet->head + 1, 2);
    return defined && progress->definitions ? MYSQL_DEFINITIONS : MYSQL_ROWS_BEGIN;
}

static enum mysql_answer first_packet(struct request_stream *stream, struct progress *progress,
                                      const struct packet *packet)
{
    switch (kind_of(packet)) {
    case IS_OK:
    case IS_EOF:
        return after_status(stream, progress, packet);
    case IS_ERROR:
        return after_error(stream);
    case IS_FILE:
        stream->flags |= MYSQL_WANTS_FILE;
        return MYSQL_FIRST;
    default:
        return columns_counted(stream, progress, packet);
    }
}

static enum mysql_answer first_plain(struct request_stream *stream, struct progress *progress,
                                     const struct packet *packet)
{
    if (kind_of(packet) == IS_ERROR && progress->autocommit)
        return MYSQL_NOTHING;
    return first_packet(stream, progress, packet);
}

static enum mysql_answer rows(struct request_stream *stream, struct progress *progress,
                              const struct packet *packet)
{
    if (kind_of(packet) == IS_ERROR)
        return after_error(stream);
    /* A row may begin so, too, with a column that needs a length of eight bytes. */
    bool row = kind_of(packet) != IS_EOF || packet->length == MYSQL_LONGEST;
    return row ? MYSQL_ROWS : after_status(stream, progress, packet);
}

static enum mysql_answer rows_begin(struct request_stream *stream, struct progress *progress,
                                    const struct packet *packet)
{
    if (!is_old_eof(packet) || status_of(packet) & CURSOR_EXISTS)
        return rows(stream, progress, packet);
    return MYSQL_ROWS;
}

/* One of so many definitions; what follows the last one is `then`. */
static enum mysql_answer definition(struct request_stream *stream, struct progress *progress,
                                    const struct packet *packet, enum mysql_answer same,
                                    enum mysql_answer then)
{
    if (kind_of(packet) == IS_ERROR)
        return after_error(stream);
    if (is_old_eof(packet) && stream->flags & MYSQL_WITHOUT_EOF)
        return same; /* the server does not know how to do without */
    if (kind_of(packet) != IS_DEFINITION) {
        lost(stream);
        return MYSQL_NOTHING;
    }
    return --progress->definitions ? same : then;
}

static enum mysql_answer definitions(struct request_stream *stream, struct progress *progress,
                                     const struct packet *packet)
{
    return definition(stream, progress, packet, MYSQL_DEFINITIONS, MYSQL_ROWS_BEGIN);
}

static enum mysql_answer columns_follow(struct progress *progress)
{
    progress->definitions = progress->columns;
    return progress->columns ? MYSQL_COLUMNS : MYSQL_NOTHING;
}

/* Its identifier, and two counts; a byte more than twelve says whether definitions follow. What
 * cannot be prepared changes no transaction. */
static enum mysql_answer prepared(struct request_stream *stream, struct progress *progress,
                                  const struct packet *packet)
{
    if (kind_of(packet) == IS_ERROR)
        return MYSQL_NOTHING;
    if (kind_of(packet) != IS_OK || packet->length < PREPARED_LEAST) {
        lost(stream);
        return MYSQL_NOTHING;
    }
    if (packet->length > PREPARED_LEAST && packet->head[PREPARED_LEAST] == 0)
        return MYSQL_NOTHING;
    progress->columns = (uint16_t)mysql_number(packet->head + 5, 2);
    progress->definitions = (uint16_t)mysql_number(packet->head + 7, 2);
    return progress->definitions ? MYSQL_PARAMETERS : columns_follow(progress);
}

static enum mysql_answer parameters(struct request_stream *stream, struct progress *progress,
                                    const struct packet *packet)
{
    enum mysql_answer next =
        definition(stream, progress, packet, MYSQL_PARAMETERS, MYSQL_PARAMETERS_END);
    bool over = next == MYSQL_PARAMETERS_END && stream->flags & MYSQL_WITHOUT_EOF;
    return over ? columns_follow(progress) : next;
}

static enum mysql_answer columns(struct request_stream *stream, struct progress *progress,
                                 const struct packet *packet)
{
    enum mysql_answer next = definition(stream, progress, packet, MYSQL_COLUMNS, MYSQL_COLUMNS_END);
    bool over = next == MYSQL_COLUMNS_END && stream->flags & MYSQL_WITHOUT_EOF;
    return over ? MYSQL_NOTHING : next;
}

static enum mysql_answer parameters_end(struct request_stream *stream, struct progress *progress,
                                        const struct packet *packet)
{
    if (!is_old_eof(packet))
        lost(stream);
    return columns_follow(progress);
}

static enum mysql_answer columns_end(struct request_stream *stream, struct progress *progress,
                                     const struct packet *packet)
{
    (void)progress;
    if (!is_old_eof(packet))
        lost(stream);
    return MYSQL_NOTHING;
}

/* Nothing was asked. Before it closes a server may say why. */
static enum mysql_answer unasked(struct request_stream *stream, struct progress *progress,
                                 const struct packet *packet)
{
    (void)progress;
    if (kind_of(packet) != IS_ERROR && !is_old_eof(packet))
        lost(stream);
    return MYSQL_NOTHING;
}

typedef enum mysql_answer packet_rule(struct request_stream *stream, struct progress *progress,
                                      const struct packet *packet);

static packet_rule *const rules[MYSQL_ANSWERS] = {
    [MYSQL_NOTHING] = unasked,
    [MYSQL_GREETING] = one_packet,
    [MYSQL_LOGIN] = login,
    [MYSQL_FIRST] = first_packet,
    [MYSQL_FIRST_PLAIN] = first_plain,
    [MYSQL_DEFINITIONS] = definitions,
    [MYSQL_ROWS_BEGIN] = rows_begin,
    [MYSQL_ROWS] = rows,
    [MYSQL_PREPARED] = prepared,
    [MYSQL_PARAMETERS] = parameters,
    [MYSQL_PARAMETERS_END] = parameters_end,
    [MYSQL_COLUMNS] = columns,
    [MYSQL_COLUMNS_END] = columns_end,
    [MYSQL_ONE_PACKET] = one_packet,
};

/* Between these packets of an answer none is missing. */
static bool follows(const struct progress *progress, uint8_t number)
{
    bool within = progress->state >= MYSQL_DEFINITIONS && progress->state != MYSQL_PREPARED &&
                  progress->state != MYSQL_ONE_PACKET;
    return !within || number == (uint8_t)(progress->number + 1);
}

static void packet_seen(struct request_stream *stream, struct progress *progress,
                        const struct packet *packet, uint8_t number)
{
    if (!follows(progress, number)) {
        lost(stream);
        return;
    }
    if (progress->state == MYSQL_NOTHING)
        progress->state = progress->awaited & 15;
    bool awaited = progress->state != MYSQL_NOTHING;
    progress->state = (uint8_t)rules[progress->state](stream, progress, packet);
    if (awaited && progress->state == MYSQL_NOTHING)
        progress->awaited >>= 4;
}

/* answer_phase: how much of a packet's header was seen, which is in request_stream.number; then
 * that its payload goes by. */
enum { IN_PAYLOAD = MYSQL_HEADER };

/* MariaDB tells how far it is with a long statement, in the form of an error. */
static bool tells_progress(const struct packet *packet)
{
    return packet->length >= 3 && memcmp(packet->head, "\xff\xff\xff", 3) == 0;
}

static enum answer_step packet_ends(struct request_stream *stream)
{
    struct progress progress = progress_of(stream);
    struct packet packet = {.head = stream->kept + HEAD_AT,
                            .length = stream->number & MYSQL_LONGEST};
    uint8_t number = (uint8_t)(stream->number >> 24);
    bool quiet = tells_progress(&packet) || (progress.awaited & 15) == MYSQL_GREETING;
    bool rest = progress.continues;
    if (!rest && !tells_progress(&packet) && !(stream->flags & MYSQL_LOST))
        packet_seen(stream, &progress, &packet, number);
    progress.number = number;
    progress.continues = packet.length == MYSQL_LONGEST;
    progress_keep(stream, &progress);
    stream->answer_phase = 0;
    stream->answer_kept_length = 0;
    return quiet && !rest ? ANSWER_NOTHING : ANSWER_BEGUN;
}

static enum answer_step answer_header(struct request_stream *stream, char byte)
{
    uint32_t value = (uint32_t)(uint8_t)byte << 8 * stream->answer_phase;
    stream->number = stream->answer_phase == 0 ? value : stream->number | value;
    if (++stream->answer_phase < MYSQL_HEADER)
        return ANSWER_NOTHING;
    stream->answer_left = stream->number & MYSQL_LONGEST;
    return stream->answer_left ? ANSWER_NOTHING : packet_ends(stream);
}

static enum answer_step answer_payload(struct request_stream *stream, const char *bytes,
                                       size_t length, size_t *taken)
{
    size_t room = HEAD_MOST - stream->answer_kept_length;
    *taken = length < stream->answer_left ? length : stream->answer_left;
    size_t kept = *taken < room ? *taken : room;
    memcpy(stream->kept + HEAD_AT + stream->answer_kept_length, bytes, kept);
    stream->answer_kept_length = (uint8_t)(stream->answer_kept_length + kept);
    stream->answer_left -= *taken;
    return stream->answer_left ? ANSWER_NOTHING : packet_ends(stream);
}

static void conversation_begins(struct request_stream *stream)
{
    struct progress progress = {.begun = true};
    progress_keep(stream, &progress);
    mysql_await(stream, MYSQL_GREETING);
    mysql_await(stream, MYSQL_LOGIN);
}

/* Whether nothing more is to come, as far as anybody knows, before the client says more. */
static bool ends_here(const struct request_stream *stream)
{
    struct progress progress = progress_of(stream);
    bool over = progress.awaited == 0 && stream->answer_phase == 0;
    return over || stream->flags & (MYSQL_LOST | MYSQL_WANTS_FILE);
}

enum answer_step mysql_answer(struct request_stream *stream, const char *bytes, size_t length,
                              bool first)
{
    enum answer_step step = ANSWER_NOTHING;
    (void)first;
    if (!progress_of(stream).begun)
        conversation_begins(stream);
    for (size_t done = 0, taken = 1; done < length; done += taken, taken = 1) {
        enum answer_step part = stream->answer_phase == IN_PAYLOAD
                                    ? answer_payload(stream, bytes + done, length - done, &taken)
                                    : answer_header(stream, bytes[done]);
        if (part != ANSWER_NOTHING)
            step = part;
    }
    if (ends_here(stream))
        stream->flags &= ~(uint32_t)ANSWER_UNFINISHED;
    else
        stream->flags |= ANSWER_UNFINISHED;
    return step;
}
