/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * HTTP/2 in clear: a GOAWAY that lets the client send everything again.
 */
#include "dialects/dialect.h"

/* RFC 9113, 3.4. */
static enum busy_recognition recognise(const struct busy_client *client)
{
    return dialect_begins(client, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false);
}

/*
 * RFC 9113: the server's preface is a SETTINGS frame (3.4); a GOAWAY whose last stream is 0 says
 * that no request was looked at, so that all may be sent again elsewhere or later (6.8, 8.7).
 */
static size_t refuse(const struct busy_answer *answer)
{
    static const char frames[] = "\0\0\0\4\0\0\0\0\0"
                                 "\0\0\10\7\0\0\0\0\0"
                                 "\0\0\0\0\0\0\0\0";
    return dialect_put(answer, frames, sizeof frames - 1);
}

const struct dialect dialect_http2 = {.recognise = recognise, .refuse = refuse};
