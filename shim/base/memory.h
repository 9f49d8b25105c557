/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether what the program points to is there: the shim reads, or writes, a call's arguments before
 * the kernel does, and must not fault where the kernel says EFAULT. What cannot be read is left to
 * the kernel.
 *
 * The kernel is asked, by calls that change nothing, once for each page and thread: programs point
 * to the same places again and again. (A page that is taken away later is not noticed.) Keeps
 * errno; async-signal-safe.
 */
#ifndef BACKPRESSURE_MEMORY_H
#define BACKPRESSURE_MEMORY_H

#include "base/internal.h"

#include <stdbool.h>
#include <stddef.h>

/* What was found to be there last, in arguments of each kind. */
enum memory_kind {
    MEMORY_MESSAGE,
    MEMORY_EVENT,
    MEMORY_DESTINATION,
    MEMORY_VECTOR,
    MEMORY_TIME,
    MEMORY_RESULT, /* from here on it is written to, too */
    MEMORY_ADDRESS,
    MEMORY_POLLED,
    MEMORY_SET,
    MEMORY_KINDS
};
struct memory_range {
    const void *start;
    size_t length;
};
extern INTERNAL _Thread_local struct memory_range memory_last[MEMORY_KINDS]
    __attribute__((tls_model("initial-exec")));

/* Whether this thread's last question of the kind found it there. */
static inline bool memory_known(enum memory_kind kind, const void *start, size_t length)
{
    return memory_last[kind].start == start && memory_last[kind].length >= length;
}

/* The same, where all that is asked about is of one size. */
static inline bool memory_is_last(enum memory_kind kind, const void *start)
{
    return memory_last[kind].start == start;
}

bool memory_ask(enum memory_kind kind, const void *start, size_t length);

/* Whether `length` bytes are there, to be read or to be written to as the kind says. */
static inline bool memory_there(enum memory_kind kind, const void *start, size_t length)
{
    return length == 0 || memory_known(kind, start, length) || memory_ask(kind, start, length);
}

/* Whether `count` entries of `size` bytes are. More than a megabyte of them is taken for no. */
static inline bool memory_holds(enum memory_kind kind, const void *start, size_t count, size_t size)
{
    return count <= 0x100000 / size && memory_there(kind, start, count * size);
}

#endif
