/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "requests.h"

/* The third bit of how it is used: the binary protocol. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return fuzz_requests(size && data[0] & 4 ? BUSY_IN_MEMCACHED_BINARY : BUSY_IN_MEMCACHED, data,
                         size);
}
