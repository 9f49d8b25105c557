/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The grammar of each limit: its name, how its value is read and written, and what is allowed.
 */
#ifndef BACKPRESSURE_GRAMMAR_H
#define BACKPRESSURE_GRAMMAR_H

#include "limits.h"

/* A value under inspection: not terminated, because it may be a part of a longer text. */
struct span {
    const char *start;
    size_t length;
};

struct grammar {
    const char *name;
    /* False, and `limits` unchanged, for a bad value. */
    bool (*parse)(struct limits *limits, unsigned key, struct span value);
    void (*format)(const struct limits *limits, unsigned key, char *out, size_t size);
    const char *allowed;
    bool per_process;
    uint64_t standard; /* the value when nobody gave one */
};

extern const struct grammar grammar[LIMIT_KEYS];

bool span_is(struct span value, const char *word);

/* Cuts at the first `separator`; false when there is none. */
bool span_split(struct span value, const char *separator, struct span *left, struct span *right);

#endif
