/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a program that put seccomp filters around itself still lets the shim ask the kernel.
 *
 * A filter may kill whoever makes a call that it does not list: seccomp(2). So each filter that
 * this process installs is noted, and once there is one, a system call of the shim's own is made
 * only if all of them would allow it; otherwise it fails with EPERM, and the kernel never hears of
 * it. Filters of one thread count for all of them; fork hands them on. Filters that were there
 * before exec cannot be read, and are not noted.
 *
 * Everything here is async-signal-safe and makes no system call.
 */
#ifndef BACKPRESSURE_SANDBOX_H
#define BACKPRESSURE_SANDBOX_H

#include "base/internal.h"

#include <linux/filter.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* What the shim does by calls that the program does not make. */
enum {
    SANDBOX_BYTES = 1,    /* limits on bytes, and how long requests take */
    SANDBOX_CEILINGS = 2, /* accept holds or refuses, and waits leave listeners out */
    SANDBOX_CONNECTS = 4, /* connect waits and tries again */
    SANDBOX_EVERYTHING = 7,
};

extern INTERNAL _Atomic uint32_t sandbox_served;

/* Whether no filter stands in the way of any of `purposes`. One load. */
static inline bool sandbox_serves(uint32_t purposes)
{
    return (atomic_load_explicit(&sandbox_served, memory_order_relaxed) & purposes) == purposes;
}

/* Whether the process put a filter around itself. */
bool sandbox_entered(void);

/* Whether every filter would allow this very call: seccomp(2)'s verdict would be
 * SECCOMP_RET_ALLOW. */
bool sandbox_allows(long number, const long argument[6]);

/* Whether every filter allows the call whatever its arguments are. */
bool sandbox_allows_any(long number);

/* Whether a function of libc's that makes this call may be called. */
static inline bool sandbox_permits(long number)
{
    return !sandbox_entered() || sandbox_allows_any(number);
}

/*
 * Installing a filter, in three steps. From the first one on nothing is served, so that what was
 * changed for the program can be put back while that is still allowed; from the second one on no
 * call of the shim's is allowed at all; the third one, after the kernel's call, says what it came
 * to. `program` is NULL for strict mode, and is read only if `installed`: the kernel has read it.
 */
void sandbox_prepare(void);
uint32_t sandbox_close(void);
void sandbox_settle(uint32_t ticket, bool installed, const struct sock_fprog *program);

#endif
