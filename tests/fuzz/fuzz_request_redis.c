/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "requests.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return fuzz_requests(BUSY_IN_REDIS, data, size);
}
