/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "busy.h"

#include "segment.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

/* RFC 9110, 9.1, RFC 5789, and the methods of WebDAV (RFC 4918) that open a connection. */
static const char *const http_methods[] = {
    "GET ",     "HEAD ",  "POST ",   "PUT ",    "DELETE ",    "CONNECT ",
    "OPTIONS ", "TRACE ", "PATCH ",  "COPY ",   "MOVE ",      "PROPFIND ",
    "MKCOL ",   "LOCK ",  "UNLOCK ", "REPORT ", "PROPPATCH ",
};

bool busy_protocol_of(enum busy_reply chosen, enum busy_protocol *protocol)
{
    if (chosen == BUSY_AUTO)
        return false;
    *protocol = chosen == BUSY_TEXT ? BUSY_IN_TEXT : BUSY_IN_HTTP;
    return true;
}

enum busy_recognition busy_recognise(const char *sent, size_t length, enum busy_protocol *protocol)
{
    enum busy_recognition result = BUSY_UNKNOWN;
    for (size_t i = 0; i < sizeof http_methods / sizeof *http_methods; i++) {
        size_t method = strlen(http_methods[i]), common = length < method ? length : method;
        if (memcmp(sent, http_methods[i], common) != 0)
            continue;
        *protocol = BUSY_IN_HTTP;
        if (common == method)
            return BUSY_RECOGNISED;
        result = BUSY_UNDECIDED;
    }
    return result;
}

/* A cheap stream of numbers, seeded once a thread: the replies need variety, not secrecy. */
static uint64_t draw(void)
{
    static _Thread_local uint64_t state __attribute__((tls_model("initial-exec")));
    if (state == 0 && getrandom(&state, sizeof state, GRND_NONBLOCK) != (ssize_t)sizeof state)
        state = monotonic_ns();
    uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static uint32_t draw_retry_after(uint64_t limit)
{
    uint32_t least = limit >> 32, most = (uint32_t)limit;
    uint64_t values = most >= least ? (uint64_t)most - least + 1 : 1;
    return least + (uint32_t)((draw() >> 32) * values >> 32);
}

static size_t compose_http(const struct limits *limits, char *out, size_t size)
{
    static const char body[] = "503 Service Unavailable: the server is busy, try again later.\n";
    int length =
        snprintf(out, size,
                 "HTTP/1.1 503 Service Unavailable\r\n"
                 "Retry-After: %u\r\n"
                 "Connection: close\r\n"
                 "Content-Type: text/plain\r\n"
                 "Content-Length: %zu\r\n"
                 "\r\n%s",
                 draw_retry_after(limits->value[LIMIT_RETRY_AFTER]), sizeof body - 1, body);
    return length > 0 && (size_t)length < size ? (size_t)length : 0;
}

size_t busy_compose(enum busy_protocol protocol, const struct limits *limits, char *out,
                    size_t size)
{
    if (protocol == BUSY_IN_HTTP)
        return compose_http(limits, out, size);
    size_t length = limits->text_length < size ? limits->text_length : size;
    memcpy(out, limits->text, length);
    return length;
}
