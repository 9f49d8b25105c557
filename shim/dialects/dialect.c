/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "dialects/dialect.h"

#include <string.h>
#include <strings.h>

enum busy_recognition dialect_begins(const struct busy_client *client, const char *words,
                                     bool any_case)
{
    size_t length = strlen(words), common = client->length < length ? client->length : length;
    if (any_case ? strncasecmp(client->sent, words, common) != 0
                 : memcmp(client->sent, words, common) != 0)
        return BUSY_UNKNOWN;
    return common == length ? BUSY_RECOGNISED : BUSY_UNDECIDED;
}

enum busy_recognition dialect_begins_with_one(const struct busy_client *client,
                                              const char *const words[], bool any_case)
{
    enum busy_recognition best = BUSY_UNKNOWN;
    for (; *words; words++) {
        enum busy_recognition one = dialect_begins(client, *words, any_case);
        if (one == BUSY_RECOGNISED)
            return one;
        best = one == BUSY_UNDECIDED ? one : best;
    }
    return best;
}

size_t dialect_put(const struct busy_answer *answer, const void *bytes, size_t length)
{
    length = length < answer->size ? length : answer->size;
    memcpy(answer->out, bytes, length);
    return length;
}
