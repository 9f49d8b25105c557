/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the kernel makes of a send buffer: how much it gives by itself, how much it can be held at,
 * and what it tells of it. socket(7), tcp(7), unix(7). Amounts in KiB where nothing else is said.
 * Async-signal-safe; answers that do not change are asked for once.
 */
#ifndef BACKPRESSURE_KERNEL_BUFFER_H
#define BACKPRESSURE_KERNEL_BUFFER_H

#include "base/internal.h"

#include <stdatomic.h>
#include <stdint.h>
#include <sys/socket.h>

#define KERNEL_BUFFER_UNIX 208 /* unix(7): net.core.wmem_default */

/* The last of tcp_wmem; 0 until kernel_buffer_ask_tcp was called. */
extern INTERNAL _Atomic uint32_t kernel_buffer_tcp;
uint32_t kernel_buffer_ask_tcp(void);

/* What the kernel gives to a connection of this family on its own, at most. */
static inline uint32_t kernel_buffer_most(int family)
{
    if (family == AF_UNIX)
        return KERNEL_BUFFER_UNIX;
    uint32_t most = atomic_load_explicit(&kernel_buffer_tcp, memory_order_relaxed);
    return most ? most : kernel_buffer_ask_tcp();
}

/* What a locked SO_SNDBUF can be raised to without privilege: twice net.core.wmem_max. */
uint32_t kernel_buffer_locked_most(void);

/*
 * What getsockopt would tell of SO_SNDBUF, in bytes, after this setsockopt, without touching the
 * connection: 0 on failure. `result` is what setsockopt returns, with its errno.
 */
uint32_t kernel_buffer_told_after(int name, const void *value, socklen_t length, int *result);

/* An option that is a number: setsockopt(2), and getsockopt(2), 0 where that fails. */
long kernel_buffer_set(int fd, int level, int name, uint32_t value);
uint32_t kernel_buffer_get(int fd, int level, int name);

#endif
