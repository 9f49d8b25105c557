/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "limits/exempt_path.h"

#include <string.h>

_Static_assert(LIMIT_PATHS_MAX == 32, "a candidate is a bit");

/* Steps of struct exempt_path's escape; other bytes are none. */
enum { NO_ESCAPE, DOT, PERCENT, PERCENT_2, PERCENT_5 };

void exempt_path_begins(struct exempt_path *path, const struct limits *limits)
{
    uint64_t count = limits->value[LIMIT_EXEMPT_REQUEST];
    *path = (struct exempt_path){.candidates = count < LIMIT_PATHS_MAX ? (UINT32_C(1) << count) - 1
                                                                       : UINT32_MAX};
}

/* `..`, a backslash, and what stands for a dot, a slash or a backslash in percent-encoding. */
static void look_for_escape(struct exempt_path *path, char byte)
{
    uint8_t before = path->escape;
    path->escape = byte == '.'                        ? DOT
                   : byte == '%'                      ? PERCENT
                   : before == PERCENT && byte == '2' ? PERCENT_2
                   : before == PERCENT && byte == '5' ? PERCENT_5
                                                      : NO_ESCAPE;
    path->astray |= byte == '\\' || (before == DOT && byte == '.') ||
                    (before == PERCENT_2 && memchr("eEfF", byte, 4)) ||
                    (before == PERCENT_5 && memchr("cC", byte, 2));
}

/* Takes out each candidate that is over: `byte` decides it, or, where that is NULL, the path's end
 * does. */
static void decide(struct exempt_path *path, const struct limits *limits, const char *byte)
{
    const char *prefix = limits->exempt_request, *end = prefix + sizeof limits->exempt_request;
    for (unsigned i = 0; i < LIMIT_PATHS_MAX && path->candidates >> i && prefix < end; i++) {
        size_t width = strnlen(prefix, (size_t)(end - prefix));
        bool whole = path->length == width && width > 0;
        bool goes_on = byte && path->length < width && prefix[path->length] == *byte;
        if (path->candidates >> i & 1 && !goes_on) {
            path->candidates &= ~(UINT32_C(1) << i);
            path->covered |= whole && (!byte || *byte == '/' || prefix[width - 1] == '/');
        }
        prefix += width + 1;
    }
}

void exempt_path_goes_on(struct exempt_path *path, const struct limits *limits, char byte)
{
    if (!path->candidates && !path->covered)
        return;
    look_for_escape(path, byte);
    decide(path, limits, &byte);
    path->length += path->length < UINT16_MAX;
}

bool exempt_path_ends(struct exempt_path *path, const struct limits *limits)
{
    decide(path, limits, NULL);
    return path->covered && !path->astray;
}
