/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a MySQL server's packets mean. They have no types: what one is follows from the command that
 * it answers and from the packets before it. So each command that is answered is noted when it is
 * asked, by what its answer begins with (enum mysql_answer):
 *
 *     first --- a count of columns --> definitions --- all seen --> rows begin --> rows
 *      |  ^                                                             | (cursor)   |
 *      |  +---- OK or EOF that says: more results follow <--------------+------------+
 *      +-----> OK, EOF or an error that says no such thing: the answer has ended <---+
 *
 *     prepared --- OK with two counts --> parameters --> columns --> ended
 *     rows        what a cursor fetches, and lists of fields
 *     one packet  statistics
 *     greeting, then log-in up to its OK
 *
 * What does not fit makes the connection lost: then every request counts as inside a transaction.
 */
#ifndef BACKPRESSURE_MYSQL_ANSWERS_H
#define BACKPRESSURE_MYSQL_ANSWERS_H

#include "dialects/request.h"

#define MYSQL_HEADER 4         /* of a packet: its length in three bytes, and its number */
#define MYSQL_LONGEST 0xffffff /* a packet of this length is continued by the next one */

/* What the next packet of the server is. */
enum mysql_answer {
    MYSQL_NOTHING,
    MYSQL_GREETING,
    MYSQL_LOGIN,
    MYSQL_FIRST,
    MYSQL_FIRST_PLAIN, /* FIRST, when the first statement begins no transaction even if it fails */
    MYSQL_DEFINITIONS,
    MYSQL_ROWS_BEGIN,
    MYSQL_ROWS,
    MYSQL_PREPARED,
    MYSQL_PARAMETERS,
    MYSQL_PARAMETERS_END,
    MYSQL_COLUMNS,
    MYSQL_COLUMNS_END,
    MYSQL_ONE_PACKET,
    MYSQL_ANSWERS
};

/* Of the session, in request_stream.flags. */
enum {
    MYSQL_LONG_DATA = 1 << 24, /* COM_STMT_SEND_LONG_DATA's, which an execution takes */
    MYSQL_SPOKE = 1 << 25,     /* the client answered the greeting */
    MYSQL_LOGGED_IN = 1 << 26,
    MYSQL_WANTS_FILE = 1 << 27,    /* LOAD DATA LOCAL: its packets come, up to an empty one */
    MYSQL_WITHOUT_EOF = 1 << 28,   /* CLIENT_DEPRECATE_EOF */
    MYSQL_TABLES_LOCKED = 1 << 29, /* by LOCK TABLES, of which a status does not tell */
    MYSQL_LOST = 1 << 30,
};
#define MYSQL_LONG_DATA                                                                            \
    (UINT32_C(1) << 31) /* COM_STMT_SEND_LONG_DATA's, which an execution takes */

/* Notes that a command was asked whose answer begins so. */
void mysql_await(struct request_stream *stream, enum mysql_answer begins);

/* Whether the request that was asked last is the only one that is to be answered, and nothing of
 * its answer was seen. */
bool mysql_awaits_one(const struct request_stream *stream);

/* The only one that was asked will not be answered. */
void mysql_await_none(struct request_stream *stream);

/* As request_rules.answer. */
enum answer_step mysql_answer(struct request_stream *stream, const char *bytes, size_t length,
                              bool first);

/* The little-endian number in so many bytes, at most 8. */
uint64_t mysql_number(const char *bytes, size_t width);

#endif
