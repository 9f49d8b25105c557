/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * HTTP/1.x: 503 with Retry-After.
 */
#include "dialects/http1.h"

#include "base/chance.h"

#include <stdio.h>
#include <string.h>

/* RFC 9110, 9.1, RFC 5789, and the methods of WebDAV (RFC 4918) that open a connection. */
static enum busy_recognition recognise(const struct busy_client *client)
{
    static const char *const methods[] = {
        "GET ",     "HEAD ",  "POST ",   "PUT ",    "DELETE ",    "CONNECT ",
        "OPTIONS ", "TRACE ", "PATCH ",  "COPY ",   "MOVE ",      "PROPFIND ",
        "MKCOL ",   "LOCK ",  "UNLOCK ", "REPORT ", "PROPPATCH ", NULL,
    };
    return dialect_begins_with_one(client, methods, false);
}

static bool has_all(const struct busy_client *client)
{
    static const char *const bodiless[] = {"GET ", "HEAD ", NULL};
    return client->length >= 4 &&
           dialect_begins_with_one(client, bodiless, false) == BUSY_RECOGNISED &&
           memcmp(client->sent + client->length - 4, "\r\n\r\n", 4) == 0;
}

/* Drawn anew for every answer, so that the refused do not come back together. */
static uint32_t draw_retry_after(uint64_t limit)
{
    uint32_t least = limit >> 32, most = (uint32_t)limit;
    return least + (uint32_t)chance_up_to(most >= least ? most - least : 0);
}

size_t http1_unavailable(const struct limits *limits, const char *connection, bool body, char *out,
                         size_t size)
{
    static const char text[] = "503 Service Unavailable: the server is busy, try again later.\n";
    char retry_after[40] = "";
    uint64_t range = limits->value[LIMIT_RETRY_AFTER];
    if (range != LIMIT_OFF)
        snprintf(retry_after, sizeof retry_after, "Retry-After: %u\r\n", draw_retry_after(range));
    int length =
        snprintf(out, size,
                 "HTTP/1.1 503 Service Unavailable\r\n"
                 "%s%s%s%s"
                 "Content-Type: text/plain\r\n"
                 "Content-Length: %zu\r\n"
                 "\r\n%s",
                 retry_after, connection ? "Connection: " : "", connection ? connection : "",
                 connection ? "\r\n" : "", sizeof text - 1, body ? text : "");
    return length > 0 && (size_t)length < size ? (size_t)length : 0;
}

static size_t refuse(const struct busy_answer *answer)
{
    return http1_unavailable(answer->limits, "close", true, answer->out, answer->size);
}

const struct dialect dialect_http1 = {.recognise = recognise,
                                      .refuse = refuse,
                                      .has_all = has_all,
                                      .variant = &dialect_http2,
                                      .requests = &http1_requests};
