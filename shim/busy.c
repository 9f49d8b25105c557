/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "busy.h"

#include "chance.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* RFC 9113, 3.4. */
#define HTTP2_PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#define POSTGRES_STARTUP_LEAST 8
#define POSTGRES_STARTUP_MOST 10000
#define MEMCACHED_HEADER 24

/* --- recognising --- */

/* Whether what was sent begins with `words`, or might go on to. */
static enum busy_recognition begins(const struct busy_client *client, const char *words,
                                    bool any_case)
{
    size_t length = strlen(words), common = client->length < length ? client->length : length;
    if (any_case ? strncasecmp(client->sent, words, common) != 0
                 : memcmp(client->sent, words, common) != 0)
        return BUSY_UNKNOWN;
    return common == length ? BUSY_RECOGNISED : BUSY_UNDECIDED;
}

static enum busy_recognition begins_with_one(const struct busy_client *client,
                                             const char *const words[], size_t count, bool any_case)
{
    enum busy_recognition best = BUSY_UNKNOWN;
    for (size_t i = 0; i < count; i++) {
        enum busy_recognition one = begins(client, words[i], any_case);
        if (one == BUSY_RECOGNISED)
            return one;
        best = one == BUSY_UNDECIDED ? one : best;
    }
    return best;
}
#define BEGINS_WITH_ONE(client, words, any_case)                                                   \
    begins_with_one(client, words, sizeof(words) / sizeof *(words), any_case)

static uint32_t big_endian(const char *bytes, size_t width)
{
    uint32_t value = 0;
    for (size_t i = 0; i < width; i++)
        value = value << 8 | (uint8_t)bytes[i];
    return value;
}

/* RFC 9110, 9.1, RFC 5789, and the methods of WebDAV (RFC 4918) that open a connection. */
static enum busy_recognition is_http(const struct busy_client *client)
{
    static const char *const methods[] = {
        "GET ",     "HEAD ",  "POST ",   "PUT ",    "DELETE ",    "CONNECT ",
        "OPTIONS ", "TRACE ", "PATCH ",  "COPY ",   "MOVE ",      "PROPFIND ",
        "MKCOL ",   "LOCK ",  "UNLOCK ", "REPORT ", "PROPPATCH ",
    };
    return BEGINS_WITH_ONE(client, methods, false);
}

static enum busy_recognition is_http2(const struct busy_client *client)
{
    return begins(client, HTTP2_PREFACE, false);
}

/* RFC 8446, 5.1 and 4: a handshake record, whose first message is a ClientHello. */
static enum busy_recognition is_tls(const struct busy_client *client)
{
    const char *sent = client->sent;
    if (sent[0] != 0x16 || (client->length > 1 && sent[1] != 3) ||
        (client->length > 5 && sent[5] != 1))
        return BUSY_UNKNOWN;
    return client->length > 5 ? BUSY_RECOGNISED : BUSY_UNDECIDED;
}

/* The Redis serialization protocol: an array of bulk strings, or a command typed inline. */
static enum busy_recognition is_redis(const struct busy_client *client)
{
    static const char *const inline_commands[] = {"PING", "AUTH ", "HELLO", "INFO", "SELECT "};
    if (client->sent[0] != '*')
        return BEGINS_WITH_ONE(client, inline_commands, true);
    if (client->length == 1)
        return BUSY_UNDECIDED;
    return client->sent[1] >= '0' && client->sent[1] <= '9' ? BUSY_RECOGNISED : BUSY_UNKNOWN;
}

/* memcached's doc/protocol.txt: the text protocol, and the meta commands. */
static enum busy_recognition is_memcached(const struct busy_client *client)
{
    static const char *const commands[] = {
        "get ",    "gets ", "set ",  "add ", "replace ", "append ",   "prepend ",   "cas ",
        "delete ", "incr ", "decr ", "gat ", "gats ",    "touch ",    "stats",      "version",
        "mg ",     "ms ",   "md ",   "mn\r", "ma ",      "flush_all", "verbosity ",
    };
    return BEGINS_WITH_ONE(client, commands, false);
}

/* The binary protocol: a request's magic number, and a header of fixed size. */
static enum busy_recognition is_memcached_binary(const struct busy_client *client)
{
    if ((uint8_t)client->sent[0] != 0x80)
        return BUSY_UNKNOWN;
    return client->length >= MEMCACHED_HEADER ? BUSY_RECOGNISED : BUSY_UNDECIDED;
}

/* PostgreSQL's "Message Formats": what a connection may begin with, each behind its length. */
enum {
    POSTGRES_SSL_REQUEST = 80877103,
    POSTGRES_GSS_REQUEST = 80877104,
    POSTGRES_MAJOR = 3,
};

static enum busy_recognition is_postgres_message(const struct busy_client *client, bool negotiation)
{
    if (client->sent[0] != 0)
        return BUSY_UNKNOWN;
    if (client->length < POSTGRES_STARTUP_LEAST)
        return BUSY_UNDECIDED;
    uint32_t length = big_endian(client->sent, 4), code = big_endian(client->sent + 4, 4);
    if (length < POSTGRES_STARTUP_LEAST || length > POSTGRES_STARTUP_MOST)
        return BUSY_UNKNOWN;
    bool matches = negotiation ? code == POSTGRES_SSL_REQUEST || code == POSTGRES_GSS_REQUEST
                               : code >> 16 == POSTGRES_MAJOR;
    return matches ? BUSY_RECOGNISED : BUSY_UNKNOWN;
}

static enum busy_recognition is_postgres(const struct busy_client *client)
{
    return is_postgres_message(client, false);
}

static enum busy_recognition is_postgres_negotiation(const struct busy_client *client)
{
    return is_postgres_message(client, true);
}

/* In the order in which they are tried. */
static const struct {
    enum busy_protocol protocol;
    enum busy_recognition (*recognise)(const struct busy_client *client);
} recognisers[] = {
    {BUSY_IN_HTTP, is_http},
    {BUSY_IN_TLS, is_tls},
    {BUSY_IN_REDIS, is_redis},
    {BUSY_IN_MEMCACHED, is_memcached},
    {BUSY_IN_MEMCACHED_BINARY, is_memcached_binary},
    {BUSY_IN_POSTGRES, is_postgres},
    {BUSY_IN_POSTGRES_NEGOTIATION, is_postgres_negotiation},
    {BUSY_IN_HTTP2, is_http2},
};

/* Where the server speaks first, nothing that a client sends tells which protocol it is. */
static const struct {
    enum busy_protocol protocol;
    uint16_t port;
    const char *program;
} speaks_first[] = {
    {BUSY_IN_SMTP, 25, "exim4"},        {BUSY_IN_SMTP, 587, "master"},
    {BUSY_IN_SMTP, 2525, "smtpd"},      {BUSY_IN_SMTP, 1025, "opensmtpd"},
    {BUSY_IN_SMTP, 25, "sendmail-mta"}, {BUSY_IN_SMTP, 25, "aiosmtpd"},
    {BUSY_IN_FTP, 21, "vsftpd"},        {BUSY_IN_FTP, 2121, "proftpd"},
    {BUSY_IN_FTP, 21, "pure-ftpd"},     {BUSY_IN_FTP, 21, "in.ftpd"},
    {BUSY_IN_MYSQL, 3306, "mariadbd"},  {BUSY_IN_MYSQL, 3306, "mysqld"},
};

static enum busy_recognition guess(const struct busy_client *client, enum busy_protocol *protocol)
{
    for (size_t i = 0; i < sizeof speaks_first / sizeof *speaks_first; i++) {
        if (client->port != speaks_first[i].port &&
            strcmp(client->program, speaks_first[i].program) != 0)
            continue;
        *protocol = speaks_first[i].protocol;
        return BUSY_RECOGNISED;
    }
    return BUSY_UNDECIDED;
}

static enum busy_recognition look(const struct busy_client *client, enum busy_protocol *protocol)
{
    enum busy_recognition best = BUSY_UNKNOWN;
    if (client->length == 0)
        return guess(client, protocol);
    for (size_t i = 0; i < sizeof recognisers / sizeof *recognisers; i++) {
        enum busy_recognition one = recognisers[i].recognise(client);
        if (one == BUSY_UNKNOWN)
            continue;
        *protocol = recognisers[i].protocol;
        if (one == BUSY_RECOGNISED)
            return one;
        best = one;
    }
    /* A chatty client of a server that speaks first. */
    return best == BUSY_UNKNOWN && guess(client, protocol) == BUSY_RECOGNISED ? BUSY_RECOGNISED
                                                                              : best;
}

/* The operator's choice, in the dialect and at the moment that the client's first bytes ask for. */
static const struct {
    enum busy_protocol protocol, variant;
    enum busy_recognition (*is_variant)(const struct busy_client *client);
    bool waits; /* the answer has a place in the client's protocol, which must have come first */
} choices[] = {
    [BUSY_HTTP] = {BUSY_IN_HTTP, BUSY_IN_HTTP2, is_http2, true},
    [BUSY_TLS] = {.protocol = BUSY_IN_TLS},
    [BUSY_REDIS] = {.protocol = BUSY_IN_REDIS},
    [BUSY_MEMCACHED] = {BUSY_IN_MEMCACHED, BUSY_IN_MEMCACHED_BINARY, is_memcached_binary, true},
    [BUSY_SMTP] = {.protocol = BUSY_IN_SMTP},
    [BUSY_FTP] = {.protocol = BUSY_IN_FTP},
    [BUSY_MYSQL] = {.protocol = BUSY_IN_MYSQL},
    [BUSY_POSTGRES] = {BUSY_IN_POSTGRES, BUSY_IN_POSTGRES_NEGOTIATION, is_postgres_negotiation,
                       true},
    [BUSY_TEXT] = {.protocol = BUSY_IN_TEXT},
};

enum busy_recognition busy_recognise(enum busy_reply chosen, const struct busy_client *client,
                                     enum busy_protocol *protocol)
{
    if (chosen == BUSY_AUTO || chosen > BUSY_TEXT)
        return look(client, protocol);
    *protocol = choices[chosen].protocol;
    if (!choices[chosen].is_variant || (client->out_of_time && client->length == 0))
        return BUSY_RECOGNISED;
    if (client->length == 0)
        return choices[chosen].waits ? BUSY_UNDECIDED : BUSY_RECOGNISED;
    enum busy_recognition variant = choices[chosen].is_variant(client);
    if (variant == BUSY_RECOGNISED)
        *protocol = choices[chosen].variant;
    return variant == BUSY_UNDECIDED && !client->out_of_time ? BUSY_UNDECIDED : BUSY_RECOGNISED;
}

bool busy_has_all(enum busy_protocol protocol, const struct busy_client *client)
{
    static const char *const bodiless[] = {"GET ", "HEAD "};
    return protocol == BUSY_IN_HTTP && client->length >= 4 &&
           BEGINS_WITH_ONE(client, bodiless, false) == BUSY_RECOGNISED &&
           memcmp(client->sent + client->length - 4, "\r\n\r\n", 4) == 0;
}

/* --- composing --- */

static uint32_t draw_retry_after(uint64_t limit)
{
    uint32_t least = limit >> 32, most = (uint32_t)limit;
    return least + (uint32_t)chance_up_to(most >= least ? most - least : 0);
}

struct reply {
    const struct limits *limits;
    const struct busy_client *client;
    char *out;
    size_t size;
};

static size_t put(const struct reply *reply, const void *bytes, size_t length)
{
    length = length < reply->size ? length : reply->size;
    memcpy(reply->out, bytes, length);
    return length;
}

static size_t printed(const struct reply *reply, int length)
{
    return length > 0 && (size_t)length < reply->size ? (size_t)length : 0;
}

/* RFC 9110, 15.6.4 and 10.2.3. */
static size_t compose_http(const struct reply *reply)
{
    static const char body[] = "503 Service Unavailable: the server is busy, try again later.\n";
    char retry_after[40] = "";
    uint64_t range = reply->limits->value[LIMIT_RETRY_AFTER];
    if (range != LIMIT_OFF)
        snprintf(retry_after, sizeof retry_after, "Retry-After: %u\r\n", draw_retry_after(range));
    return printed(reply, snprintf(reply->out, reply->size,
                                   "HTTP/1.1 503 Service Unavailable\r\n"
                                   "%s"
                                   "Connection: close\r\n"
                                   "Content-Type: text/plain\r\n"
                                   "Content-Length: %zu\r\n"
                                   "\r\n%s",
                                   retry_after, sizeof body - 1, body));
}

/*
 * RFC 9113: the server's preface is a SETTINGS frame (3.4); a GOAWAY whose last stream is 0 says
 * that no request was looked at, so that all may be sent again elsewhere or later (6.8, 8.7).
 */
static size_t compose_http2(const struct reply *reply)
{
    static const char frames[] = "\0\0\0\4\0\0\0\0\0"
                                 "\0\0\10\7\0\0\0\0\0"
                                 "\0\0\0\0\0\0\0\0";
    return put(reply, frames, sizeof frames - 1);
}

/* RFC 8446, 6: a fatal alert; internal_error (80) is the one for want of resources. */
static size_t compose_tls(const struct reply *reply)
{
    return put(reply, "\x15\x03\x03\0\2\2\x50", 7);
}

static size_t compose_redis(const struct reply *reply)
{
    static const char error[] = "-ERR max number of clients reached\r\n"; /* Redis's own words */
    return put(reply, error, sizeof error - 1);
}

/* protocol.txt, "Error strings": the server closes the connection after such an error. */
static size_t compose_memcached(const struct reply *reply)
{
    static const char error[] = "SERVER_ERROR out of connections, try again later\r\n";
    return put(reply, error, sizeof error - 1);
}

/* A response with the request's opcode and opaque, and the status "Busy" (0x0085). */
static size_t compose_memcached_binary(const struct reply *reply)
{
    char header[MEMCACHED_HEADER] = {[0] = (char)0x81, [6] = 0, [7] = (char)0x85};
    if (reply->client->length >= MEMCACHED_HEADER) {
        header[1] = reply->client->sent[1];
        memcpy(header + 12, reply->client->sent + 12, 4);
    }
    return put(reply, header, sizeof header);
}

/* RFC 5321, 3.8 and 4.2.3; 4.3.2 is "system not accepting network messages" (RFC 3463). */
static size_t compose_smtp(const struct reply *reply)
{
    char host[65] = "";
    if (gethostname(host, sizeof host - 1) < 0 || !host[0])
        memcpy(host, "localhost", sizeof "localhost");
    return printed(reply, snprintf(reply->out, reply->size,
                                   "421 %s 4.3.2 Service not available, closing transmission "
                                   "channel; try again later\r\n",
                                   host));
}

/* RFC 959, 4.2.1. */
static size_t compose_ftp(const struct reply *reply)
{
    static const char sorry[] =
        "421 Service not available, closing control connection; try again later.\r\n";
    return put(reply, sorry, sizeof sorry - 1);
}

/* The client/server protocol's ERR_Packet, without an SQL state before capabilities are agreed:
 * ER_CON_COUNT_ERROR (1040). */
static size_t compose_mysql(const struct reply *reply)
{
    static const char error[] = "\x17\0\0\0\xff\x10\4Too many connections";
    return put(reply, error, sizeof error - 1);
}

/* "Message Formats", ErrorResponse: too_many_connections (53300). */
static size_t compose_postgres(const struct reply *reply)
{
    static const char fields[] = "SFATAL\0VFATAL\0C53300\0Msorry, too many clients already\0";
    char head[5] = {'E', 0, 0, 0, (char)(sizeof fields + 4)};
    if (reply->size < sizeof head + sizeof fields)
        return 0;
    memcpy(reply->out, head, sizeof head);
    memcpy(reply->out + sizeof head, fields, sizeof fields);
    return sizeof head + sizeof fields;
}

/* No encryption here: the client goes on in clear, as its sslmode allows. */
static size_t compose_postgres_negotiation(const struct reply *reply)
{
    return put(reply, "N", 1);
}

static size_t compose_text(const struct reply *reply)
{
    uint64_t length = reply->limits->text_length;
    return put(reply, reply->limits->text, length < LIMIT_TEXT_MAX ? length : LIMIT_TEXT_MAX);
}

size_t busy_compose(enum busy_protocol protocol, const struct limits *limits,
                    const struct busy_client *client, char *out, size_t size)
{
    static size_t (*const composers[BUSY_PROTOCOLS])(const struct reply *reply) = {
        [BUSY_IN_HTTP] = compose_http,
        [BUSY_IN_HTTP2] = compose_http2,
        [BUSY_IN_TLS] = compose_tls,
        [BUSY_IN_REDIS] = compose_redis,
        [BUSY_IN_MEMCACHED] = compose_memcached,
        [BUSY_IN_MEMCACHED_BINARY] = compose_memcached_binary,
        [BUSY_IN_SMTP] = compose_smtp,
        [BUSY_IN_FTP] = compose_ftp,
        [BUSY_IN_MYSQL] = compose_mysql,
        [BUSY_IN_POSTGRES] = compose_postgres,
        [BUSY_IN_POSTGRES_NEGOTIATION] = compose_postgres_negotiation,
        [BUSY_IN_TEXT] = compose_text,
    };
    struct reply reply = {limits, client, out, size};
    return composers[protocol](&reply);
}
