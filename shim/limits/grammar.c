/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "limits/grammar.h"

#include <string.h>

#define COUNT_MOST UINT32_MAX
#define SIZE_MOST (1024 * KILO * KILO * KILO)
/* What one connection needs: the kernel's floor under SO_SNDBUF is 4608 bytes (SOCK_MIN_SNDBUF). */
#define BUFFER_LEAST (4 * KILO)
#define LONGEST_NS (1440 * MINUTE_NS)
#define AUTO_STANDARD LIMIT_AUTO(AUTO_LEAST, AUTO_MOST)
#define PROCESS true
#define SERVICE false
#define AS_TEXT(figure) #figure
#define TEXT_OF(figure) AS_TEXT(figure)

#define LIMIT(id, name, kind, least, most, automatic, standard, scope, unit, syntax, text)         \
    [LIMIT_##id] = {name,  KIND_##kind,       least,  most, automatic, standard,                   \
                    scope, LIMIT_UNIT_##unit, syntax, text},
const struct limit_row limit_rows[LIMIT_KEYS] = {
#include "limits/limits.def"
};
#undef LIMIT

static const char *const when_full_words[] = {
    [WHEN_FULL_HOLD] = "hold",
    [WHEN_FULL_BUSY] = "busy",
    [WHEN_FULL_RESET] = "reset",
};

/* NULL where an operator cannot choose it by name. */
#define DIALECT(id, symbol, choice) [BUSY_##id] = (choice),
static const char *const busy_words[] = {
    [BUSY_AUTO] = "auto",
#include "limits/dialects.def"
};
#undef DIALECT

static const char *const jitter_words[] = {
    [JITTER_FULL] = "full",
    [JITTER_EQUAL] = "equal",
    [JITTER_NONE] = "none",
};

_Static_assert(sizeof when_full_words / sizeof *when_full_words == WHEN_FULL_WAYS, "a word each");
_Static_assert(sizeof busy_words / sizeof *busy_words == BUSY_REPLIES, "a word each, or NULL");
_Static_assert(sizeof jitter_words / sizeof *jitter_words == JITTERS, "a word each");
/* struct limits_source has a bit for each limit, and so has a process's own. */
_Static_assert(LIMIT_KEYS <= 64, "a bit each");

struct words grammar_words(unsigned key)
{
    switch (key) {
    case LIMIT_WHEN_FULL:
        return (struct words){when_full_words, WHEN_FULL_WAYS};
    case LIMIT_BUSY:
        return (struct words){busy_words, BUSY_REPLIES};
    case LIMIT_JITTER:
        return (struct words){jitter_words, JITTERS};
    default:
        return (struct words){NULL, 0};
    }
}

uint64_t grammar_off(enum limit_kind kind)
{
    static const uint64_t off[KINDS] = {
        [KIND_COUNT] = LIMIT_OFF,   [KIND_CEILING] = LIMIT_OFF, [KIND_RATE] = LIMIT_OFF,
        [KIND_SIZE] = LIMIT_OFF,    [KIND_TIME] = LIMIT_OFF,    [KIND_TIMES] = LIMIT_OFF,
        [KIND_SECONDS] = LIMIT_OFF, [KIND_SHARE] = LIMIT_OFF,   [KIND_FRACTION] = LIMIT_OFF,
        [KIND_SWITCH] = 0,          [KIND_CHOICE] = NO_OFF,     [KIND_REPLY] = NO_OFF,
        [KIND_NETWORKS] = 0,        [KIND_PATHS] = 0,
    };
    return off[kind];
}

const struct scale size_scales[] = {
    {"G", KILO *KILO *KILO}, {"M", KILO *KILO}, {"K", KILO}, {"", 1}, {NULL, 0}};
const struct scale time_scales[] = {
    {"m", MINUTE_NS}, {"s", SECOND_NS}, {"ms", MILLISECOND_NS}, {NULL, 0}};

bool span_is(struct span value, const char *word)
{
    return value.length == strlen(word) && memcmp(value.start, word, value.length) == 0;
}

bool span_split(struct span value, const char *separator, struct span *left, struct span *right)
{
    size_t width = strlen(separator);
    for (size_t i = 0; i + width <= value.length; i++) {
        if (memcmp(value.start + i, separator, width) != 0)
            continue;
        *left = (struct span){value.start, i};
        *right = (struct span){value.start + i + width, value.length - i - width};
        return true;
    }
    return false;
}
