/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A fuzzer of one protocol's request rules: PROTOCOL says which (an id of dialects.def), and the
 * input is a conversation (conversation.h).
 */
#include "conversation.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct limits limits;
    limits_defaults(&limits);
    if (!conversation_holds(PROTOCOL, &limits, data, size))
        abort();
    return 0;
}
