/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The grammar of limits under hostile text: as words of BACKPRESSURE, and as lines of a
 * configuration file (the first byte chooses). What was taken must come back from its own writing.
 */
#include "../../shim/limits/limits.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(bool kept, const char *what)
{
    if (kept)
        return;
    fprintf(stderr, "broken: %s\n", what);
    abort();
}

static bool one_line(const char *error)
{
    size_t length = strnlen(error, LIMIT_ERROR_MAX);
    return length > 0 && length < LIMIT_ERROR_MAX && memchr(error, '\n', length) == NULL;
}

static bool take(struct limits_source *source, char *text, bool as_lines)
{
    bool taken = true;
    if (!as_lines)
        return limits_take_words(source, text, true);
    for (char *line; taken && (line = strsep(&text, "\n"));)
        taken = limits_take_line(source, line);
    return taken;
}

/* Writes every limit, reads that into an empty source, and compares. */
static void check_round_trip(const struct limits *limits)
{
    static struct limits_source again;
    static char pair[LIMIT_VALUE_MAX + 64], value[LIMIT_VALUE_MAX], second[LIMIT_VALUE_MAX];
    struct limits defaults;
    limits_defaults(&defaults);
    limits_source_init(&again, &defaults);
    for (unsigned key = 0; key < LIMIT_KEYS; key++) {
        limits_format(limits, key, value, sizeof value);
        int length = snprintf(pair, sizeof pair, "%s=%s", limits_key_name(key), value);
        expect(limits_take(&again, pair, (size_t)length, false), pair);
        limits_format(&again.limits, key, second, sizeof second);
        expect(strcmp(value, second) == 0, pair);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct limits_source source;
    struct limits defaults;
    if (size < 1 || size > 8192)
        return 0;
    char *text = malloc(size);
    if (!text)
        return 0;
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    limits_defaults(&defaults);
    limits_source_init(&source, &defaults);
    if (!take(&source, text, data[0] & 1))
        expect(one_line(source.error), "a refusal is one line");
    expect(source.name[0] == '\0' || limits_name_valid(source.name), "a name is a name");
    check_round_trip(&source.limits);
    free(text);
    return 0;
}
