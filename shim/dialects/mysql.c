/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * MySQL and MariaDB, where the server speaks first: error 1040 in place of its greeting; and what
 * their clients ask, after "Connection Phase" and "Command Phase" of the protocol's documentation.
 */
#include "dialects/mysql_answers.h"

#include <string.h>

/* The client/server protocol's ERR_Packet, without an SQL state before capabilities are agreed:
 * ER_CON_COUNT_ERROR (1040). */
static size_t refuse(const struct busy_answer *answer)
{
    static const char error[] = "\x17\0\0\0\xff\x10\4Too many connections";
    return dialect_put(answer, error, sizeof error - 1);
}

static const uint16_t ports[] = {3306, 0};
static const char *const programs[] = {"mariadbd", "mysqld", NULL};

/* --- requests --- */

/* phase: what the client's next byte is in. */
enum {
    BETWEEN,
    IN_HEADER,
    IN_PAYLOAD,
};

/* Of a request: it is longer than a packet, and this is not the first. */
enum { CONTINUED = 1 << 8 };

/* Of a payload this much is kept, behind the header: capabilities, or a command and the first word
 * of its text. */
enum { CAPABILITIES = 4, COMMAND_HEAD = 12 };

/* Capabilities that a client claims. */
enum {
    COMPRESSES = 1 << 5,
    PROTOCOL_41 = 1 << 9,
    ENCRYPTS = 1 << 11,
    WITHOUT_EOF = 1 << 24,
    COMPRESSES_BY_ZSTD = 1 << 26,
};

/* What a command is. */
enum {
    SILENT = 1, /* quick, or cleaning up, or it belongs to what was asked before */
    CLOSES = 2,
    LEAVES = 4,
};

/* From 0xfa on they are MariaDB's. */
enum {
    COM_QUIT = 0x01,
    COM_INIT_DB = 0x02,
    COM_QUERY = 0x03,
    COM_FIELD_LIST = 0x04,
    COM_CREATE_DB = 0x05,
    COM_DROP_DB = 0x06,
    COM_REFRESH = 0x07,
    COM_SHUTDOWN = 0x08,
    COM_STATISTICS = 0x09,
    COM_PROCESS_INFO = 0x0a,
    COM_PROCESS_KILL = 0x0c,
    COM_DEBUG = 0x0d,
    COM_PING = 0x0e,
    COM_CHANGE_USER = 0x11,
    COM_BINLOG_DUMP = 0x12,
    COM_TABLE_DUMP = 0x13,
    COM_CONNECT_OUT = 0x14,
    COM_REGISTER_SLAVE = 0x15,
    COM_STMT_PREPARE = 0x16,
    COM_STMT_EXECUTE = 0x17,
    COM_STMT_SEND_LONG_DATA = 0x18,
    COM_STMT_CLOSE = 0x19,
    COM_STMT_RESET = 0x1a,
    COM_SET_OPTION = 0x1b,
    COM_STMT_FETCH = 0x1c,
    COM_BINLOG_DUMP_GTID = 0x1e,
    COM_RESET_CONNECTION = 0x1f,
    COM_CLONE = 0x20,
    COM_SUBSCRIBE_GROUP_REPLICATION_STREAM = 0x21,
    COM_STMT_BULK_EXECUTE = 0xfa,
    COM_MULTI = 0xfe,
};

static const struct command {
    uint8_t answer; /* enum mysql_answer: what its answer begins with */
    uint8_t meaning;
} commands[256] = {
    [COM_QUIT] = {MYSQL_NOTHING, SILENT | CLOSES},
    [COM_INIT_DB] = {MYSQL_FIRST, SILENT},
    [COM_QUERY] = {MYSQL_FIRST, 0},
    [COM_FIELD_LIST] = {MYSQL_ROWS, SILENT},
    [COM_CREATE_DB] = {MYSQL_FIRST, 0},
    [COM_DROP_DB] = {MYSQL_FIRST, 0},
    [COM_REFRESH] = {MYSQL_FIRST, 0},
    [COM_SHUTDOWN] = {MYSQL_FIRST, SILENT},
    [COM_STATISTICS] = {MYSQL_ONE_PACKET, SILENT},
    [COM_PROCESS_INFO] = {MYSQL_FIRST, SILENT},
    [COM_PROCESS_KILL] = {MYSQL_FIRST, SILENT},
    [COM_DEBUG] = {MYSQL_FIRST, SILENT},
    [COM_PING] = {MYSQL_FIRST, SILENT},
    [COM_CHANGE_USER] = {MYSQL_LOGIN, SILENT},
    [COM_BINLOG_DUMP] = {MYSQL_NOTHING, LEAVES},
    [COM_TABLE_DUMP] = {MYSQL_NOTHING, LEAVES},
    [COM_CONNECT_OUT] = {MYSQL_NOTHING, LEAVES},
    [COM_REGISTER_SLAVE] = {MYSQL_NOTHING, LEAVES},
    [COM_STMT_PREPARE] = {MYSQL_PREPARED, SILENT},
    [COM_STMT_EXECUTE] = {MYSQL_FIRST, 0},
    [COM_STMT_SEND_LONG_DATA] = {MYSQL_NOTHING, SILENT},
    [COM_STMT_CLOSE] = {MYSQL_NOTHING, SILENT},
    [COM_STMT_RESET] = {MYSQL_FIRST, SILENT},
    [COM_SET_OPTION] = {MYSQL_FIRST, SILENT},
    [COM_STMT_FETCH] = {MYSQL_ROWS, SILENT},
    [COM_BINLOG_DUMP_GTID] = {MYSQL_NOTHING, LEAVES},
    [COM_RESET_CONNECTION] = {MYSQL_FIRST, SILENT},
    [COM_CLONE] = {MYSQL_NOTHING, LEAVES},
    [COM_SUBSCRIBE_GROUP_REPLICATION_STREAM] = {MYSQL_NOTHING, LEAVES},
    [COM_STMT_BULK_EXECUTE] = {MYSQL_FIRST, 0},
    [COM_MULTI] = {MYSQL_NOTHING, LEAVES},
};

/* What a statement's first word says of transactions, as far as a status does not. */
enum word {
    OTHER,
    PLAIN, /* it begins none, neither by itself nor by what it calls */
    ENDING,
    LOCKING,
    UNLOCKING
};

static enum word first_word(const char *text, size_t length)
{
    static const char *const words[][7] = {
        [OTHER] = {NULL},
        [PLAIN] = {"SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", NULL},
        [ENDING] = {"COMMIT", "ROLLBACK", "XA ", NULL},
        [LOCKING] = {"LOCK ", "FLUSH ", "BACKUP ", NULL},
        [UNLOCKING] = {"UNLOCK ", NULL},
    };
    /* Where a client claims CLIENT_QUERY_ATTRIBUTES: that there are none. */
    bool attributes = length > 2 && text[0] == 0 && text[1] == 1;
    struct busy_client client = {.sent = attributes ? text + 2 : text,
                                 .length = attributes ? length - 2 : length};
    for (unsigned i = 0; client.length && i < sizeof words / sizeof *words; i++)
        if (dialect_begins_with_one(&client, words[i], true) == BUSY_RECOGNISED)
            return (enum word)i;
    return OTHER;
}

/* Tables locked by LOCK TABLES are as a transaction: whoever waits for them waits for its end. */
static enum mysql_answer query_asked(struct request_stream *stream, const char *text, size_t length)
{
    enum word word = first_word(text, length);
    if (word == LOCKING)
        stream->flags |= MYSQL_TABLES_LOCKED;
    if (word == UNLOCKING)
        stream->flags &= ~(uint32_t)MYSQL_TABLES_LOCKED;
    if (word >= ENDING)
        stream->flags |= SESSION_TRANSACTION;
    return word == PLAIN ? MYSQL_FIRST_PLAIN : MYSQL_FIRST;
}

/* An execution refused would leave its long data in the server, where the client's next try adds
 * the same again. */
static void session_changes(struct request_stream *stream, uint8_t command)
{
    if (command == COM_STMT_SEND_LONG_DATA)
        stream->flags |= MYSQL_LONG_DATA;
    if (command == COM_STMT_EXECUTE && stream->flags & MYSQL_LONG_DATA)
        stream->flags |= SESSION_TRANSACTION;
    if (command == COM_STMT_EXECUTE || command == COM_CHANGE_USER ||
        command == COM_RESET_CONNECTION)
        stream->flags &= ~(uint32_t)MYSQL_LONG_DATA;
    if (command == COM_CHANGE_USER || command == COM_RESET_CONNECTION)
        stream->flags &= ~(uint32_t)MYSQL_TABLES_LOCKED;
}

static enum request_step command_asked(struct request_stream *stream, const char *head,
                                       size_t length)
{
    static const struct command unknown = {MYSQL_FIRST, SILENT};
    uint8_t code = length ? (uint8_t)head[0] : 0;
    const struct command *command = &commands[code];
    if (command->answer == MYSQL_NOTHING && command->meaning == 0)
        command = &unknown;
    if (command->meaning & LEAVES)
        return REQUEST_LEAVES;
    stream->flags |= REQUEST_HEAD_WHOLE | REQUEST_LEADS;
    if (command->meaning & SILENT || !(stream->flags & MYSQL_LOGGED_IN))
        stream->flags |= REQUEST_SILENT;
    if (command->meaning & CLOSES)
        stream->flags |= REQUEST_CLOSES;
    session_changes(stream, code);
    enum mysql_answer begins = (enum mysql_answer)command->answer;
    if (code == COM_QUERY)
        begins = query_asked(stream, head + 1, length - 1);
    if (begins != MYSQL_NOTHING && !(stream->flags & MYSQL_LOST))
        mysql_await(stream, begins);
    return REQUEST_GOES_ON;
}

/* HandshakeResponse41, or what stands before TLS. */
static enum request_step login_asked(struct request_stream *stream, const char *head, size_t length)
{
    uint32_t claimed = (uint32_t)mysql_number(head, length);
    if (!(claimed & PROTOCOL_41) || claimed & (ENCRYPTS | COMPRESSES | COMPRESSES_BY_ZSTD))
        return REQUEST_LEAVES;
    stream->flags |= MYSQL_SPOKE | REQUEST_HEAD_WHOLE | REQUEST_SILENT;
    if (claimed & WITHOUT_EOF)
        stream->flags |= MYSQL_WITHOUT_EOF;
    return REQUEST_GOES_ON;
}

/* Whether the packet belongs to what was asked before. small: its number. */
static bool belongs(const struct request_stream *stream)
{
    return stream->flags & MYSQL_WANTS_FILE || stream->small != 0;
}

static size_t head_wanted(const struct request_stream *stream)
{
    return stream->flags & MYSQL_SPOKE ? COMMAND_HEAD : CAPABILITIES;
}

static enum request_step head_whole(struct request_stream *stream)
{
    const char *head = stream->kept + MYSQL_HEADER;
    size_t length = stream->kept_length - (size_t)MYSQL_HEADER;
    if (!(stream->flags & MYSQL_SPOKE))
        return login_asked(stream, head, length);
    if (!belongs(stream))
        return command_asked(stream, head, length);
    stream->flags |= REQUEST_HEAD_WHOLE | REQUEST_SILENT;
    return REQUEST_GOES_ON;
}

static uint32_t packet_length(const struct request_stream *stream)
{
    return (uint32_t)mysql_number(stream->kept, 3);
}

static enum request_step packet_ends(struct request_stream *stream)
{
    uint32_t length = packet_length(stream);
    stream->kept_length = 0;
    if (length == 0 && !(stream->flags & CONTINUED))
        stream->flags &= ~(uint32_t)MYSQL_WANTS_FILE;
    stream->phase = length == MYSQL_LONGEST ? IN_HEADER : BETWEEN;
    stream->flags |= CONTINUED;
    return stream->phase == BETWEEN ? REQUEST_ENDS : REQUEST_GOES_ON;
}

/* Gathers up to `wanted` bytes in `kept`; returns how many were taken. */
static size_t gather(struct request_stream *stream, size_t wanted, const char *bytes, size_t length)
{
    size_t more = wanted - stream->kept_length;
    more = more < length ? more : length;
    memcpy(stream->kept + stream->kept_length, bytes, more);
    stream->kept_length = (uint8_t)(stream->kept_length + more);
    return more;
}

static enum request_step in_header(struct request_stream *stream, const char *bytes, size_t length,
                                   size_t *taken)
{
    *taken = gather(stream, MYSQL_HEADER, bytes, length);
    if (stream->kept_length < MYSQL_HEADER)
        return REQUEST_GOES_ON;
    stream->small = (uint8_t)stream->kept[3];
    stream->left = packet_length(stream);
    stream->phase = IN_PAYLOAD;
    if (stream->left)
        return REQUEST_GOES_ON;
    enum request_step step = REQUEST_GOES_ON;
    if (!(stream->flags & CONTINUED))
        step = head_whole(stream);
    return step == REQUEST_GOES_ON ? packet_ends(stream) : step;
}

static enum request_step in_payload(struct request_stream *stream, const char *bytes, size_t length,
                                    size_t *taken)
{
    enum request_step step = REQUEST_GOES_ON;
    if (stream->flags & (REQUEST_HEAD_WHOLE | CONTINUED)) {
        *taken = length < stream->left ? length : stream->left;
        stream->left -= *taken;
    } else {
        size_t whole = packet_length(stream), most = head_wanted(stream);
        size_t wanted = MYSQL_HEADER + (whole < most ? whole : most);
        *taken = gather(stream, wanted, bytes, length);
        stream->left -= *taken;
        if (stream->kept_length == wanted)
            step = head_whole(stream);
    }
    return step == REQUEST_GOES_ON && stream->left == 0 ? packet_ends(stream) : step;
}

static size_t ask(struct request_stream *stream, const struct limits *limits, const char *bytes,
                  size_t length, enum request_step *step)
{
    size_t done = 0;
    (void)limits;
    *step = REQUEST_GOES_ON;
    while (done < length && *step == REQUEST_GOES_ON) {
        size_t taken = 0;
        if (stream->phase == BETWEEN) {
            stream->flags &= ~(uint32_t)REQUEST_BITS;
            stream->phase = IN_HEADER;
        }
        *step = stream->phase == IN_HEADER
                    ? in_header(stream, bytes + done, length - done, &taken)
                    : in_payload(stream, bytes + done, length - done, &taken);
        done += taken;
    }
    return *step == REQUEST_LEAVES ? length : done;
}

/* Protocol::Handshake: its number, then the server's version. */
static bool greets(const char *bytes, size_t length)
{
    enum { SHORTEST = 40, LONGEST = 1024, PROTOCOL = 10 };
    if (length <= MYSQL_HEADER)
        return false;
    uint64_t payload = mysql_number(bytes, 3);
    return payload >= SHORTEST && payload <= LONGEST && bytes[3] == 0 &&
           bytes[MYSQL_HEADER] == PROTOCOL;
}

/*
 * ER_LOCK_DEADLOCK (1213, SQL state 40001): clients and frameworks know that the transaction is not
 * there and that the same may succeed when it is tried again, and they keep the connection. For
 * 1040 and all others with state 08xxx pools throw it away; 1226 says that the user did something
 * wrong (42000); after 1205 (HY000) the transaction would still be there. Rather than that the
 * connection ends, with all that its session has, a request waits; and so does one with others
 * behind it: they may rest on a START TRANSACTION, or on a SET.
 */
static size_t refuse_request(const struct request_stream *stream, const struct limits *limits,
                             bool closes, char *out, size_t size)
{
    static const char error[] =
        "\xff\xbd\x04#40001The server is busy: nothing of this was done; try again later";
    const size_t length = sizeof error - 1;
    (void)limits;
    bool refusable = stream->flags & MYSQL_LOGGED_IN && mysql_awaits_one(stream) &&
                     !(stream->flags & (SESSION_TRANSACTION | REQUEST_SILENT)) && !closes;
    if (!refusable || size < MYSQL_HEADER + length)
        return 0;
    memcpy(out, (char[]){(char)length, 0, 0, (char)(stream->small + 1)}, MYSQL_HEADER);
    memcpy(out + MYSQL_HEADER, error, length);
    return MYSQL_HEADER + length;
}

static const struct request_rules requests = {.ask = ask,
                                              .answer = mysql_answer,
                                              .refuse = refuse_request,
                                              .refused = mysql_await_none,
                                              .greets = greets};

const struct dialect dialect_mysql = {
    .refuse = refuse, .ports = ports, .programs = programs, .requests = &requests};
