/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * memcached: the text protocol with its meta commands, and the binary one.
 */
#include "dialects/dialect.h"

#include <string.h>

#define BINARY_HEADER 24
#define BINARY_REQUEST 0x80
#define BINARY_RESPONSE 0x81
#define BINARY_BUSY 0x85 /* the low byte of the status */

/* memcached's doc/protocol.txt. */
static enum busy_recognition recognise(const struct busy_client *client)
{
    static const char *const commands[] = {
        "get ",    "gets ", "set ",  "add ", "replace ", "append ",   "prepend ",   "cas ",
        "delete ", "incr ", "decr ", "gat ", "gats ",    "touch ",    "stats",      "version",
        "mg ",     "ms ",   "md ",   "mn\r", "ma ",      "flush_all", "verbosity ", NULL,
    };
    return dialect_begins_with_one(client, commands, false);
}

/* protocol.txt, "Error strings": the server closes the connection after such an error. */
static size_t refuse(const struct busy_answer *answer)
{
    static const char error[] = "SERVER_ERROR out of connections, try again later\r\n";
    return dialect_put(answer, error, sizeof error - 1);
}

/* A request's magic number, and a header of fixed size. */
static enum busy_recognition recognise_binary(const struct busy_client *client)
{
    if ((uint8_t)client->sent[0] != BINARY_REQUEST)
        return BUSY_UNKNOWN;
    return client->length >= BINARY_HEADER ? BUSY_RECOGNISED : BUSY_UNDECIDED;
}

/* A response with the request's opcode and opaque, and the status "Busy". */
static size_t refuse_binary(const struct busy_answer *answer)
{
    char header[BINARY_HEADER] = {[0] = (char)BINARY_RESPONSE, [7] = (char)BINARY_BUSY};
    if (answer->client && answer->client->length >= BINARY_HEADER) {
        header[1] = answer->client->sent[1];
        memcpy(header + 12, answer->client->sent + 12, 4);
    }
    return dialect_put(answer, header, sizeof header);
}

const struct dialect dialect_memcached = {
    .recognise = recognise, .refuse = refuse, .variant = &dialect_memcached_binary};
const struct dialect dialect_memcached_binary = {.recognise = recognise_binary,
                                                 .refuse = refuse_binary};
