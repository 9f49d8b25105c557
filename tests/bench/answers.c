/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "answers.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void drop(struct answer *answer, size_t length)
{
    answer->length -= length;
    memmove(answer->bytes, answer->bytes + length, answer->length);
}

/* --- HTTP/1.1 (RFC 9112) --- */

static size_t ask_http(char *out, const char *question)
{
    return (size_t)snprintf(out, QUESTION_MAX, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n",
                            question);
}

/* The value of a header field, or NULL. `bytes` end with a NUL. */
static const char *field(const char *bytes, const char *name)
{
    const char *found = strcasestr(bytes, name);
    return found ? found + strlen(name) : NULL;
}

/* How long a chunked body is, its last chunk included; 0 while it goes on. No trailers. */
static size_t chunked_length(const char *body, size_t length)
{
    size_t at = 0;
    while (at < length) {
        char *end;
        size_t chunk = strtoul(body + at, &end, 16);
        const char *line = strstr(end, "\r\n");
        if (!line)
            return 0;
        at = (size_t)(line - body) + 2 + chunk + 2;
        if (!chunk)
            return at <= length ? at : 0;
    }
    return 0;
}

static enum heard hear_http(struct answer *answer)
{
    char head[ANSWER_MAX];
    answer->bytes[answer->length] = 0;
    const char *end = strstr(answer->bytes, "\r\n\r\n");
    if (!end)
        return answer->length < ANSWER_MAX - 1 ? HEARD_PART : HEARD_NONSENSE;
    size_t length = (size_t)(end - answer->bytes) + 4;
    memcpy(head, answer->bytes, length);
    head[length] = 0;
    const char *size = field(head, "\r\nContent-Length: ");
    if (size) {
        length += strtoul(size, NULL, 10);
        if (answer->length < length)
            return HEARD_PART;
    } else if (field(head, "\r\nTransfer-Encoding: chunked")) {
        size_t body = chunked_length(end + 4, answer->length - length);
        if (!body)
            return HEARD_PART;
        length += body;
    } else {
        return HEARD_NONSENSE;
    }
    answer->closes = field(head, "\r\nConnection: close") != NULL;
    drop(answer, length);
    const char *status = head + strlen("HTTP/1.1 ");
    return strncmp(status, "200", 3) == 0                                     ? HEARD_SERVED
           : strncmp(status, "503", 3) == 0 || strncmp(status, "429", 3) == 0 ? HEARD_REFUSAL
                                                                              : HEARD_NONSENSE;
}

/* --- Redis: an array of bulk strings, answers of one line. A question has a line for each of its
 * words. --- */

static size_t ask_redis(char *out, const char *question)
{
    size_t words = 1, length;
    for (const char *byte = question; *byte; byte++)
        words += *byte == '\n';
    length = (size_t)sprintf(out, "*%zu\r\n", words);
    for (const char *word = question; words--; word += strcspn(word, "\n") + 1) {
        int size = (int)strcspn(word, "\n");
        length += (size_t)sprintf(out + length, "$%d\r\n%.*s\r\n", size, size, word);
    }
    return length;
}

static enum heard hear_redis(struct answer *answer)
{
    static const char by_kind[256] = {
        ['-'] = HEARD_REFUSAL, ['+'] = HEARD_SERVED, [':'] = HEARD_SERVED};
    const char *end = memchr(answer->bytes, '\n', answer->length);
    if (!end)
        return answer->length < ANSWER_MAX - 1 ? HEARD_PART : HEARD_NONSENSE;
    int kind = by_kind[(uint8_t)answer->bytes[0]];
    drop(answer, (size_t)(end - answer->bytes) + 1);
    return kind ? (enum heard)kind : HEARD_NONSENSE;
}

/* --- PostgreSQL, protocol 3.0, "Message Flow" of its manual --- */

static uint32_t read_be32(const char *bytes)
{
    const uint8_t *byte = (const uint8_t *)bytes;
    return (uint32_t)byte[0] << 24 | (uint32_t)byte[1] << 16 | (uint32_t)byte[2] << 8 | byte[3];
}

static void write_be32(char *bytes, size_t value)
{
    for (int i = 0; i < 4; i++)
        bytes[i] = (char)(value >> (24 - 8 * i));
}

static size_t login_postgres(char *out)
{
    static const char words[] = "\0\3\0\0user\0postgres\0database\0postgres\0";
    write_be32(out, sizeof words + 4);
    memcpy(out + 4, words, sizeof words);
    return sizeof words + 4;
}

static size_t ask_postgres(char *out, const char *question)
{
    size_t length = strlen(question) + 1;
    out[0] = 'Q';
    write_be32(out + 1, length + 4);
    memcpy(out + 5, question, length);
    return length + 5;
}

/* Whether an ErrorResponse is of severity FATAL, after which the server closes. */
static bool postgres_is_fatal(const char *message, size_t length)
{
    return memmem(message, length, "FATAL", 6) != NULL;
}

static enum heard hear_postgres(struct answer *answer)
{
    while (answer->length >= 5) {
        size_t length = (size_t)read_be32(answer->bytes + 1) + 1;
        char kind = answer->bytes[0];
        if (length >= ANSWER_MAX || length < 5)
            return HEARD_NONSENSE;
        if (answer->length < length)
            return HEARD_PART;
        answer->refusal |= kind == 'E';
        answer->closes = kind == 'E' && postgres_is_fatal(answer->bytes, length);
        drop(answer, length);
        if (kind == 'Z' || answer->closes)
            return answer->refusal ? HEARD_REFUSAL : HEARD_SERVED;
    }
    return HEARD_PART;
}

/* --- MySQL, client/server protocol 4.1 --- */

static size_t login_mysql(char *out)
{
    /* HandshakeResponse41: PROTOCOL_41, SECURE_CONNECTION and PLUGIN_AUTH; no password. */
    static const char words[] = "\x3c\0\0\1"
                                "\1\x82\x08\0"
                                "\0\0\0\1"
                                "\x21"
                                "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
                                "root\0"
                                "\0"
                                "mysql_native_password";
    memcpy(out, words, sizeof words);
    return sizeof words;
}

static size_t ask_mysql(char *out, const char *question)
{
    size_t length = strlen(question) + 1;
    memcpy(out, (const char[]){(char)length, (char)(length >> 8), 0, 0, 3}, 5);
    memcpy(out + 5, question, length - 1);
    return length + 4;
}

/* The server's greeting, OK and ERR are one packet; a result ends with the second of its EOF
 * packets. */
static enum heard hear_mysql(struct answer *answer)
{
    while (answer->length >= 5) {
        const uint8_t *byte = (const uint8_t *)answer->bytes;
        size_t length = (byte[0] | (size_t)byte[1] << 8 | (size_t)byte[2] << 16) + 4;
        uint8_t number = byte[3], kind = byte[4];
        if (length >= ANSWER_MAX || length < 5)
            return HEARD_NONSENSE;
        if (answer->length < length)
            return HEARD_PART;
        bool whole = number == 0 || (number <= 2 && kind == 0 && !answer->ends);
        answer->ends += kind == 0xfe && length < 13;
        answer->closes = kind == 0xff && number == 0;
        drop(answer, length);
        if (kind == 0xff)
            return HEARD_REFUSAL;
        if (whole || answer->ends == 2)
            return HEARD_SERVED;
    }
    return HEARD_PART;
}

static const struct dialect dialects[] = {
    {"http", false, NULL, ask_http, hear_http},
    {"redis", false, NULL, ask_redis, hear_redis},
    {"postgres", false, login_postgres, ask_postgres, hear_postgres},
    {"mysql", true, login_mysql, ask_mysql, hear_mysql},
};

const struct dialect *dialect_named(const char *name)
{
    for (size_t i = 0; i < sizeof dialects / sizeof *dialects; i++)
        if (strcmp(dialects[i].name, name) == 0)
            return &dialects[i];
    return NULL;
}
