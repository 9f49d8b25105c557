/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A lock for the shim's own short lists, safe in signal handlers: whoever holds it has all signals
 * blocked, so a handler never meets a lock of its own thread. For rare paths: it costs two calls.
 */
#ifndef BACKPRESSURE_SPINLOCK_H
#define BACKPRESSURE_SPINLOCK_H

#include "base/real.h"

#include <linux/futex.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

struct spinlock {
    _Atomic uint32_t taken; /* 0, 1, or 2: and somebody sleeps for it */
    uint64_t signals;       /* the holder's mask */
};

/* Who spins on a processor that the holder needs, with sched_yield(2) or without, may keep it from
 * there for seconds: since Linux 6.18 a thread that yields gives up its next turns, too, so that
 * one which yielded often and then got the lock is the last to run again. */
static inline void spinlock_take(struct spinlock *lock)
{
    uint64_t all = UINT64_MAX, before = 0;
    uint32_t free = 0;
    kernel_call(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof all);
    if (!atomic_compare_exchange_strong_explicit(&lock->taken, &free, 1, memory_order_acquire,
                                                 memory_order_relaxed))
        while (atomic_exchange_explicit(&lock->taken, 2, memory_order_acquire) != 0)
            kernel_call(SYS_futex, &lock->taken, FUTEX_WAIT_PRIVATE, 2, NULL, NULL, 0);
    lock->signals = before;
}

/* False when somebody has it. */
static inline bool spinlock_try(struct spinlock *lock)
{
    uint64_t all = UINT64_MAX, before = 0;
    if (atomic_load_explicit(&lock->taken, memory_order_relaxed))
        return false;
    kernel_call(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof all);
    uint32_t free = 0;
    if (atomic_compare_exchange_strong_explicit(&lock->taken, &free, 1, memory_order_acquire,
                                                memory_order_relaxed)) {
        lock->signals = before;
        return true;
    }
    kernel_call(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof before);
    return false;
}

static inline void spinlock_give(struct spinlock *lock)
{
    uint64_t before = lock->signals;
    if (atomic_exchange_explicit(&lock->taken, 0, memory_order_release) == 2)
        kernel_call(SYS_futex, &lock->taken, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    kernel_call(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof before);
}

/* In a forked child, where the thread that may have held it does not exist. */
static inline void spinlock_reset(struct spinlock *lock)
{
    atomic_store(&lock->taken, 0);
}

#endif
