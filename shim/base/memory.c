/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/memory.h"

#include "base/real.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdint.h>
#include <sys/syscall.h>

#define PAGE 4096 /* the least there is */
#define PAGES_KNOWN 16

_Thread_local struct memory_range memory_last[MEMORY_KINDS]
    __attribute__((tls_model("initial-exec")));

/* Found there, by a hash of their addresses; plus 1 where they can be written to. */
static _Thread_local uintptr_t known[PAGES_KNOWN] __attribute__((tls_model("initial-exec")));

/* rt_sigprocmask(2) reads the set before it finds that there is no such operation: EFAULT comes
 * before EINVAL in kernel/signal.c. */
static bool page_readable(uintptr_t page)
{
    return kernel_call(SYS_rt_sigprocmask, -1, page, NULL, sizeof(uint64_t)) == 0 ||
           errno != EFAULT;
}

/* futex(2), FUTEX_WAKE_OP, adds nothing to a word of it, and wakes nobody. */
static bool page_writable(uintptr_t page)
{
    uint32_t nobody = 0;
    return kernel_call(SYS_futex, &nobody, FUTEX_WAKE_OP, 0, NULL, page,
                       FUTEX_OP(FUTEX_OP_ADD, 0, FUTEX_OP_CMP_EQ, 1)) >= 0 ||
           errno != EFAULT;
}

/* One that was written to could be read. */
static bool page_there(uintptr_t page, bool written)
{
    uintptr_t *place = &known[page / PAGE % PAGES_KNOWN];
    if (page == 0)
        return false;
    if (*place == (page | 1) || (*place == page && !written))
        return true;
    if (!page_readable(page) || (written && !page_writable(page)))
        return false;
    *place = page | written;
    return true;
}

bool memory_ask(enum memory_kind kind, const void *start, size_t length)
{
    uintptr_t from = (uintptr_t)start, to = from + length - 1;
    int saved = errno;
    bool there = to >= from;
    for (uintptr_t page = from / PAGE; there && page <= to / PAGE; page++)
        there = page_there(page * PAGE, kind >= MEMORY_RESULT);
    errno = saved;
    if (there)
        memory_last[kind] = (struct memory_range){start, length};
    return there;
}
