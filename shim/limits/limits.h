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

#include "limits/limit.h"

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
