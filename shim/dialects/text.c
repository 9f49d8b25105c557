/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * `busy=text:STRING`: the operator's own words, whatever the client speaks.
 */
#include "dialects/dialect.h"

static size_t refuse(const struct busy_answer *answer)
{
    uint64_t length = answer->limits->text_length;
    return dialect_put(answer, answer->limits->text,
                       length < LIMIT_TEXT_MAX ? length : LIMIT_TEXT_MAX);
}

const struct dialect dialect_text = {.refuse = refuse};
