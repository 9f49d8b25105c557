/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* As much of RFC 9112 as the tests' clients speak; what they send is well-formed. */
#include "answerer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* FNV-1a. */
#define HASH_START UINT64_C(0xcbf29ce484222325)
#define HASH_PRIME UINT64_C(0x100000001b3)

static void drop(struct exchange *exchange, size_t bytes)
{
    exchange->length -= bytes;
    memmove(exchange->input, exchange->input + bytes, exchange->length);
}

/* The value of a field of the head, which ends at `end`; NULL without it. */
static const char *field(const char *head, const char *end, const char *name)
{
    size_t length = strlen(name);
    for (const char *line = memchr(head, '\n', (size_t)(end - head)); line && line + 1 < end;
         line = memchr(line + 1, '\n', (size_t)(end - line - 1)))
        if ((size_t)(end - line) > length + 1 && strncasecmp(line + 1, name, length) == 0)
            return line + 1 + length;
    return NULL;
}

static void take_target(struct exchange *exchange)
{
    char target[3 * TAG_MOST] = "";
    exchange->work_us = 0;
    exchange->until = 0;
    exchange->tag[0] = exchange->action[0] = exchange->argument[0] = '\0';
    sscanf(exchange->input, "%*s %180s", target);
    exchange->counted = strncmp(target, "/healthz", 8) != 0;
    bool until = strncmp(target, "/until/", 7) == 0;
    unsigned number = 0;
    sscanf(until               ? target + 6
           : exchange->counted ? target
                               : target + 8,
           "/%u/%63[^?]?%63[^=]=%63s", &number, exchange->tag, exchange->action,
           exchange->argument);
    exchange->work_us = until ? 0 : number;
    exchange->until = until ? (int)number : 0;
}

static bool take_head(struct exchange *exchange)
{
    char *end = memmem(exchange->input, exchange->length, "\r\n\r\n", 4);
    if (!end) {
        if (exchange->length == INPUT_MOST)
            die("a head without an end");
        return false;
    }
    end += 2;
    const char *length = field(exchange->input, end, "content-length:"),
               *coding = field(exchange->input, end, "transfer-encoding:"),
               *expect = field(exchange->input, end, "expect:"),
               *connection = field(exchange->input, end, "connection:");
    take_target(exchange);
    exchange->left = length ? strtoull(length, NULL, 10) : 0;
    exchange->chunked = coding != NULL;
    exchange->expects = expect != NULL;
    exchange->closes = connection && strncasecmp(connection, " close", 6) == 0;
    exchange->hash = HASH_START;
    exchange->body = 0;
    exchange->part = exchange->chunked ? PART_CHUNK_SIZE : exchange->left ? PART_BODY : PART_WHOLE;
    drop(exchange, (size_t)(end + 2 - exchange->input));
    return true;
}

static bool take_body(struct exchange *exchange)
{
    size_t bytes = exchange->length < exchange->left ? exchange->length : (size_t)exchange->left;
    for (size_t i = 0; i < bytes; i++)
        exchange->hash = (exchange->hash ^ (unsigned char)exchange->input[i]) * HASH_PRIME;
    exchange->body += bytes;
    exchange->left -= bytes;
    exchange->expects = false;
    drop(exchange, bytes);
    if (exchange->left == 0)
        exchange->part = exchange->chunked ? PART_CHUNK_SIZE : PART_WHOLE;
    return bytes > 0;
}

/* A line behind a chunk is empty, and so is the one that ends the trailer. */
static bool take_line(struct exchange *exchange)
{
    const char *end = memchr(exchange->input, '\n', exchange->length);
    if (!end)
        return false;
    bool empty = end - exchange->input <= 1;
    if (exchange->part == PART_TRAILER) {
        exchange->part = empty ? PART_WHOLE : PART_TRAILER;
    } else if (!empty) {
        exchange->left = strtoull(exchange->input, NULL, 16);
        exchange->part = exchange->left ? PART_CHUNK : PART_TRAILER;
        exchange->expects = false;
    }
    drop(exchange, (size_t)(end + 1 - exchange->input));
    return true;
}

static bool (*const takers[])(struct exchange *exchange) = {
    [PART_HEAD] = take_head,  [PART_BODY] = take_body,    [PART_CHUNK_SIZE] = take_line,
    [PART_CHUNK] = take_body, [PART_TRAILER] = take_line,
};

bool exchange_take(struct exchange *exchange)
{
    while (exchange->part != PART_WHOLE && exchange->length)
        if (!takers[exchange->part](exchange))
            break;
    return exchange->part == PART_WHOLE;
}

static void raise_peak(_Atomic int *peak, int inside)
{
    int before = atomic_load(peak);
    while (before < inside && !atomic_compare_exchange_weak(peak, &before, inside))
        ;
}

bool exchange_released(const struct exchange *exchange)
{
    return atomic_load(&shared->released) >= exchange->until;
}

void exchange_begins(struct exchange *exchange)
{
    exchange->nth = atomic_fetch_add(&shared->began, 1);
    if (!exchange->counted)
        return;
    /* Its own first: what a process that is killed had inside is then taken from both. */
    raise_peak(&shared->process[self].peak, atomic_fetch_add(&shared->process[self].inside, 1) + 1);
    raise_peak(&shared->peak, atomic_fetch_add(&shared->inside, 1) + 1);
}

size_t exchange_answers(struct exchange *exchange, char *out, size_t size)
{
    char body[640];
    int inside = atomic_load(&shared->inside);
    if (exchange->counted) {
        atomic_fetch_sub(&shared->inside, 1);
        atomic_fetch_sub(&shared->process[self].inside, 1);
    }
    int length = snprintf(
        body, sizeof body,
        "tag %s nth %d pid %d inside %d peak %d own %d hash %llx bytes %llu interrupted %d "
        "timed_out %d cancelled %d handled %d children %d\n",
        exchange->tag[0] ? exchange->tag : "-", exchange->nth, (int)getpid(), inside,
        atomic_load(&shared->peak), atomic_load(&shared->process[self].peak),
        (unsigned long long)exchange->hash, (unsigned long long)exchange->body,
        atomic_load(&shared->interrupted), atomic_load(&shared->timed_out),
        atomic_load(&shared->cancelled), atomic_load(&shared->handled),
        atomic_load(&shared->children));
    exchange->part = PART_HEAD;
    return (size_t)snprintf(out, size, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s", length,
                            exchange->closes ? "Connection: close\r\n" : "", body);
}
