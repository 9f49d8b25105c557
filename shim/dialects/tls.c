/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * TLS, whatever is spoken inside: a fatal alert before the handshake.
 */
#include "dialects/dialect.h"

/* RFC 8446, 5.1 and 4: a handshake record, whose first message is a ClientHello. */
static enum busy_recognition recognise(const struct busy_client *client)
{
    const char *sent = client->sent;
    if (sent[0] != 0x16 || (client->length > 1 && sent[1] != 3) ||
        (client->length > 5 && sent[5] != 1))
        return BUSY_UNKNOWN;
    return client->length > 5 ? BUSY_RECOGNISED : BUSY_UNDECIDED;
}

/* RFC 8446, 6: internal_error (80) is the alert for want of resources. */
static size_t refuse(const struct busy_answer *answer)
{
    return dialect_put(answer, "\x15\x03\x03\0\2\2\x50", 7);
}

const struct dialect dialect_tls = {.recognise = recognise, .refuse = refuse};
