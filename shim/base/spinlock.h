/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A lock for the shim's own short lists, safe in signal handlers: whoever holds it has all signals
 * blocked, so a handler never meets a lock of its own thread. For rare paths: it costs two calls.
 */
#ifndef BACKPRESSURE_SPINLOCK_H
#define BACKPRESSURE_SPINLOCK_H

#include "base/real.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

struct spinlock {
    _Atomic uint32_t taken;
    uint64_t signals; /* the holder's mask */
};

static inline void spinlock_take(struct spinlock *lock)
{
    uint64_t all = UINT64_MAX, before = 0;
    kernel_call(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof all);
    while (atomic_exchange_explicit(&lock->taken, 1, memory_order_acquire))
        kernel_call(SYS_sched_yield);
    lock->signals = before;
}

static inline void spinlock_give(struct spinlock *lock)
{
    uint64_t before = lock->signals;
    atomic_store_explicit(&lock->taken, 0, memory_order_release);
    kernel_call(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof before);
}

/* In a forked child, where the thread that may have held it does not exist. */
static inline void spinlock_reset(struct spinlock *lock)
{
    atomic_store(&lock->taken, 0);
}

#endif
