/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The limits an operator sets, as values: what each key's value means, and all of them together.
 */
#ifndef BACKPRESSURE_LIMIT_H
#define BACKPRESSURE_LIMIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A ceiling that is not set. Every count is below it, so no caller needs a special case. */
#define LIMIT_OFF UINT64_MAX

/* A number for each row of limits.def, in its order. */
#define LIMIT(id, ...) LIMIT_##id,
enum limit_key {
#include "limits/limits.def"
    LIMIT_KEYS
};
#undef LIMIT

enum when_full { WHEN_FULL_HOLD, WHEN_FULL_BUSY, WHEN_FULL_RESET, WHEN_FULL_WAYS };
/* The dialects in their order, behind AUTO. */
#define DIALECT(id, symbol, choice) BUSY_##id,
enum busy_reply {
    BUSY_AUTO,
#include "limits/dialects.def"
    BUSY_REPLIES
};
#undef DIALECT
enum jitter { JITTER_FULL, JITTER_EQUAL, JITTER_NONE, JITTERS };
enum pause_reads { PAUSE_READS_OFF, PAUSE_READS_ON, PAUSE_READS_WITH_BUFFER };

/* What `auto` stores for limits that are in force where another one is set; see limits.def. */
#define QUEUE_DELAY_WITH_AUTO (UINT64_MAX - 1)
#define QUEUE_DELAY_AUTO_NS UINT64_C(100000000)
#define BACKOFF_WITH_RETRIES (UINT64_MAX - 1)

enum limit_unit {
    LIMIT_UNIT_NONE,
    LIMIT_UNIT_CONNECTIONS,
    LIMIT_UNIT_BYTES,
    LIMIT_UNIT_SECONDS, /* stored as nanoseconds */
    LIMIT_UNIT_BYTES_PER_SECOND,
    LIMIT_UNIT_RATE, /* LIMIT_PAIR(connections per second, burst) */
    LIMIT_UNIT_REQUESTS,
    LIMIT_UNIT_REQUEST_RATE, /* LIMIT_PAIR(requests per second, burst) */
    LIMIT_UNIT_TRIES,
    LIMIT_UNITS
};

#define LIMIT_NETWORKS_MAX 32
#define LIMIT_PATHS_MAX 32
#define LIMIT_PATHS_BYTES 512 /* of all of them, each with the NUL that ends it */
#define LIMIT_TEXT_MAX 256
#define LIMIT_ERROR_MAX 640
#define LIMIT_VALUE_MAX 2048
#define SERVICE_NAME_MAX 64

/* Two numbers in one value: a least and a most, a base and a cap, a rate and its burst. */
#define LIMIT_PAIR(high, low) ((uint64_t)(high) << 32 | (uint64_t)(low))

/* `auto`: the ceiling finds itself between a least and a most. Bit 63 marks it, LIMIT_OFF apart. */
#define LIMIT_AUTO(least, most) (UINT64_C(1) << 63 | (uint64_t)(least) << 31 | (uint64_t)(most))

static inline bool limit_is_auto(uint64_t value)
{
    return value >> 62 == 2;
}

static inline uint64_t limit_auto_least(uint64_t value)
{
    return value >> 31 & INT32_MAX;
}

static inline uint64_t limit_auto_most(uint64_t value)
{
    return value & INT32_MAX;
}

/* An address range. IPv4 lies in ::ffff:0:0/96, so one comparison serves both families. */
struct network {
    uint8_t address[16];
    uint64_t prefix_bits;
};

/* Every member is a whole number of 8-byte words: the segment publishes it word by word. */
struct limits {
    uint64_t value[LIMIT_KEYS];
    struct network exempt[LIMIT_NETWORKS_MAX];
    uint64_t text_length;
    char text[LIMIT_TEXT_MAX];
    char exempt_request[LIMIT_PATHS_BYTES]; /* one behind the other, each ended by a NUL */
};

#endif
