/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A fuzzer of one protocol's request rules: PROTOCOL says which (an id of dialects.def), and the
 * input is a conversation (conversation.h). LIMITS: under which limits, where they matter.
 */
#include "conversation.h"

#ifndef LIMITS
#define LIMITS ""
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct limits limits;
    struct limits_source source;
    limits_defaults(&limits);
    limits_source_init(&source, &limits);
    if (!limits_take_words(&source, LIMITS, false) ||
        !conversation_holds(PROTOCOL, &source.limits, data, size))
        abort();
    return 0;
}
