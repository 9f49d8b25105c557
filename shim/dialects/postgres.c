/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * PostgreSQL: what a connection begins with, after its documentation's "Message Formats".
 */
#include "dialects/dialect.h"

#include <string.h>

#define STARTUP_LEAST 8
#define STARTUP_MOST 10000

/* What follows a first message's length. */
enum { SSL_REQUEST = 80877103, GSS_REQUEST = 80877104, MAJOR = 3 };

static uint32_t big_endian(const char *bytes, size_t width)
{
    uint32_t value = 0;
    for (size_t i = 0; i < width; i++)
        value = value << 8 | (uint8_t)bytes[i];
    return value;
}

static enum busy_recognition first_message(const struct busy_client *client, bool negotiation)
{
    if (client->sent[0] != 0)
        return BUSY_UNKNOWN;
    if (client->length < STARTUP_LEAST)
        return BUSY_UNDECIDED;
    uint32_t length = big_endian(client->sent, 4), code = big_endian(client->sent + 4, 4);
    if (length < STARTUP_LEAST || length > STARTUP_MOST)
        return BUSY_UNKNOWN;
    bool matches = negotiation ? code == SSL_REQUEST || code == GSS_REQUEST : code >> 16 == MAJOR;
    return matches ? BUSY_RECOGNISED : BUSY_UNKNOWN;
}

static enum busy_recognition recognise(const struct busy_client *client)
{
    return first_message(client, false);
}

/* ErrorResponse: too_many_connections (53300). */
static size_t refuse(const struct busy_answer *answer)
{
    static const char fields[] = "SFATAL\0VFATAL\0C53300\0Msorry, too many clients already\0";
    char head[5] = {'E', 0, 0, 0, (char)(sizeof fields + 4)};
    if (answer->size < sizeof head + sizeof fields)
        return 0;
    memcpy(answer->out, head, sizeof head);
    memcpy(answer->out + sizeof head, fields, sizeof fields);
    return sizeof head + sizeof fields;
}

static enum busy_recognition recognise_negotiation(const struct busy_client *client)
{
    return first_message(client, true);
}

/* No encryption here: the client goes on in clear, as its sslmode allows. */
static size_t answer_negotiation(const struct busy_answer *answer)
{
    return dialect_put(answer, "N", 1);
}

const struct dialect dialect_postgres = {
    .recognise = recognise, .refuse = refuse, .variant = &dialect_postgres_negotiation};
const struct dialect dialect_postgres_negotiation = {.recognise = recognise_negotiation,
                                                     .refuse = answer_negotiation};
