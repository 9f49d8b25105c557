/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The Redis serialization protocol.
 */
#include "dialects/dialect.h"

/* An array of bulk strings, or a command typed inline. */
static enum busy_recognition recognise(const struct busy_client *client)
{
    static const char *const inline_commands[] = {"PING", "AUTH ",   "HELLO",
                                                  "INFO", "SELECT ", NULL};
    if (client->sent[0] != '*')
        return dialect_begins_with_one(client, inline_commands, true);
    if (client->length == 1)
        return BUSY_UNDECIDED;
    return client->sent[1] >= '0' && client->sent[1] <= '9' ? BUSY_RECOGNISED : BUSY_UNKNOWN;
}

/* Redis's own words. */
static size_t refuse(const struct busy_answer *answer)
{
    static const char error[] = "-ERR max number of clients reached\r\n";
    return dialect_put(answer, error, sizeof error - 1);
}

const struct dialect dialect_redis = {.recognise = recognise, .refuse = refuse};
