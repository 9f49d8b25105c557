/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The grammar of limits: the table that limits.def makes, and for each kind of value how it is
 * read, written and described.
 */
#ifndef BACKPRESSURE_GRAMMAR_H
#define BACKPRESSURE_GRAMMAR_H

#include "limits/limit.h"

#define AUTO_MOST 60000
#define AUTO_LEAST                                                                                 \
    2 /* a client that a ceiling of one let in, and that says nothing, keeps all out */
#define RATE_MOST 1000000000
#define KILO UINT64_C(1024)
#define MILLISECOND_NS UINT64_C(1000000)
#define SECOND_NS (1000 * MILLISECOND_NS)
#define MINUTE_NS (60 * SECOND_NS)
#define THOUSANDTHS 1000

/* What a value of `off` stores where there is no `off`. */
#define NO_OFF (UINT64_MAX - 2)
/* And `auto`, where there is no `auto`. */
#define NO_AUTO (UINT64_MAX - 2)

/* A value under inspection: not terminated, because it may be a part of a longer text. */
struct span {
    const char *start;
    size_t length;
};

enum limit_kind {
    KIND_COUNT,
    KIND_CEILING,  /* a count, or LIMIT_AUTO(least, most) */
    KIND_RATE,     /* LIMIT_PAIR(rate, burst) */
    KIND_SIZE,     /* bytes */
    KIND_TIME,     /* nanoseconds */
    KIND_TIMES,    /* LIMIT_PAIR(base, cap); milliseconds */
    KIND_SECONDS,  /* LIMIT_PAIR(least, most) */
    KIND_SHARE,    /* hundredths */
    KIND_FRACTION, /* thousandths */
    KIND_SWITCH,   /* 0 or 1 */
    KIND_CHOICE,   /* the number of the word */
    KIND_REPLY,    /* enum busy_reply; a text of its own is in struct limits */
    KIND_NETWORKS, /* how many are in use; they are in struct limits */
    KIND_PATHS,    /* the same */
    KINDS
};

struct limit_row {
    const char *name;
    enum limit_kind kind;
    uint64_t least, most;
    uint64_t automatic, standard;
    bool per_process;
    enum limit_unit unit;
    const char *syntax, *text;
};

extern const struct limit_row limit_rows[LIMIT_KEYS];

/* The words of a KIND_CHOICE or KIND_REPLY; NULL stands where a number has none. */
struct words {
    const char *const *word;
    size_t count;
};
struct words grammar_words(unsigned key);

/* What `off` stores for a kind, or NO_OFF. */
uint64_t grammar_off(enum limit_kind kind);

/* Reads a value other than `off` and `auto`. False, and `limits` unchanged, for a bad one. */
bool grammar_read(struct limits *limits, unsigned key, struct span value);

/* Writes one that is neither `off` nor `auto`; as limits_format. */
void grammar_write(const struct limits *limits, unsigned key, char *out, size_t size);

/* Says what a kind takes besides `off` and `auto`, within the bounds of the row. */
void grammar_describe(unsigned key, char *out, size_t size);

bool span_is(struct span value, const char *word);

/* Cuts at the first `separator`; false when there is none. */
bool span_split(struct span value, const char *separator, struct span *left, struct span *right);

/* The units of sizes and times, largest first, with what one of each is. */
struct scale {
    const char *unit;
    uint64_t worth;
};
extern const struct scale size_scales[], time_scales[];

#endif
