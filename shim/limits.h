/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The limits an operator sets, and their one grammar: `key=value`.
 *
 * The same parser reads the command line of bpctl, a configuration file and the
 * environment variable BACKPRESSURE. It allocates nothing, so that it may run
 * before a program's own constructors.
 */
#ifndef BACKPRESSURE_LIMITS_H
#define BACKPRESSURE_LIMITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A ceiling that is not set. Every count is below it, so no caller needs a special case. */
#define LIMIT_OFF UINT64_MAX

/* A number for each row of limits.def, in its order. */
#define LIMIT(id, ...) LIMIT_##id,
enum limit_key {
#include "limits.def"
    LIMIT_KEYS
};
#undef LIMIT

enum when_full { WHEN_FULL_HOLD, WHEN_FULL_BUSY, WHEN_FULL_RESET, WHEN_FULL_WAYS };
/* The dialects in their order, behind AUTO. */
#define DIALECT(id, symbol, choice) BUSY_##id,
enum busy_reply {
    BUSY_AUTO,
#include "dialects/dialects.def"
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
};

#define LIMIT_NETWORKS_MAX 32
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
};

/* What one source (a command line, a file, BACKPRESSURE) said. */
struct limits_source {
    struct limits limits;
    uint64_t given; /* a bit for each key that the source named */
    char name[SERVICE_NAME_MAX];
    char error[LIMIT_ERROR_MAX]; /* one line, without its newline, after a failure */
};

/* The limits of a service that was given none: nothing is bounded. */
void limits_defaults(struct limits *limits);

/* Starts an empty source on top of `base`, which is copied. */
void limits_source_init(struct limits_source *source, const struct limits *base);

/*
 * Takes one `key=value` of `length` bytes. `name=` is accepted only where `allow_name`.
 * Returns false with source->error set, and the source unchanged, for an unknown key, a bad
 * value, or a key that this source has already given another value.
 */
bool limits_take(struct limits_source *source, const char *pair, size_t length, bool allow_name);

/* Takes blank-separated pairs; single and double quotes group. Returns as limits_take. */
bool limits_take_words(struct limits_source *source, const char *text, bool allow_name);

/* Takes one line of a configuration file: a pair, `name=` among them, a `#` comment or nothing. */
bool limits_take_line(struct limits_source *source, const char *line);

/* Takes over what `source` names, and that it was named; leaves the rest of `target`. */
void limits_add(struct limits_source *target, const struct limits_source *source);

/* The key's name as users write it, or NULL when `key` is out of range. */
const char *limits_key_name(unsigned key);

/* What values the key takes, in words; `out` is empty when it is out of range. */
void limits_allowed(unsigned key, char out[LIMIT_ERROR_MAX]);

/* The forms of its values, with | between, such as `N|auto|off`. */
void limits_syntax(unsigned key, char out[LIMIT_ERROR_MAX]);

/* The values that are typed as they stand, with blanks between; empty where there are none. */
void limits_words(unsigned key, char out[LIMIT_ERROR_MAX]);

/* What it is for, in a few sentences; NULL when the key is out of range. */
const char *limits_text(unsigned key);

/* In what its value counts; LIMIT_UNIT_NONE: it is a choice, and no figure. */
enum limit_unit limits_unit(unsigned key);

/* Whether a key makes sense for one process of a service (`bpctl set NAME/PID`). */
bool limits_key_per_process(unsigned key);

/* Writes the value of `key` as users write it; always terminates; `size` at least LIMIT_VALUE_MAX
 * holds any value. */
void limits_format(const struct limits *limits, unsigned key, char *out, size_t size);

/* Whether `name` can name a service: 1 to 63 of [A-Za-z0-9._-], not starting with a dot. */
bool limits_name_valid(const char *name);

/* Whether the IPv6 or IPv4-mapped `address` lies in one of the exempt networks. */
bool limits_exempt(const struct limits *limits, const uint8_t address[16]);

#endif
