/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "output/wakers.h"

#include "base/real.h"
#include "process/descriptors.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

#define WAKERS_MOST 2048
#define WORD 64
#define KEPT_MOST 32 /* descriptors that nobody sleeps at */

static _Atomic uint64_t taken[WAKERS_MOST / WORD];
static _Atomic int descriptors[WAKERS_MOST]; /* plus 1 */
static _Atomic int kept, ringing;

static int claim(void)
{
    for (int word = 0; word < WAKERS_MOST / WORD; word++) {
        uint64_t before = atomic_load(&taken[word]);
        while (before != UINT64_MAX) {
            int bit = __builtin_ctzll(~before);
            if (atomic_compare_exchange_weak(&taken[word], &before, before | UINT64_C(1) << bit))
                return word * WORD + bit;
        }
    }
    return -1;
}

static void unclaim(int waker)
{
    atomic_fetch_and(&taken[waker / WORD], ~(UINT64_C(1) << waker % WORD));
}

static bool open_descriptor(int waker)
{
    int fd = (int)kernel_call(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return false;
    fd = descriptor_move_high(fd);
    descriptor_put(fd, descriptor_make(DESCRIPTOR_OWN, 0, 0));
    atomic_store(&descriptors[waker], fd + 1);
    return true;
}

int wakers_take(void)
{
    int saved = errno, waker = claim();
    if (waker >= 0 && atomic_load(&descriptors[waker]))
        atomic_fetch_sub(&kept, 1);
    else if (waker >= 0 && !open_descriptor(waker)) {
        unclaim(waker);
        waker = -1;
    }
    errno = saved;
    return waker;
}

/* Who rings has found the waker with somebody who slept there, and may be about to write still. */
static void close_descriptor(int waker)
{
    int fd = atomic_exchange(&descriptors[waker], 0);
    if (atomic_load(&ringing))
        atomic_store(&descriptors[waker], fd);
    else if (fd)
        descriptor_close_own(fd - 1);
}

void wakers_give(int waker)
{
    int saved = errno;
    if (waker < 0)
        return;
    if (atomic_load(&kept) >= KEPT_MOST)
        close_descriptor(waker);
    if (atomic_load(&descriptors[waker]))
        atomic_fetch_add(&kept, 1);
    unclaim(waker);
    errno = saved;
}

int wakers_descriptor(int waker)
{
    return waker < 0 ? -1 : atomic_load(&descriptors[waker]) - 1;
}

void wakers_ring(int waker)
{
    const uint64_t one = 1;
    int saved = errno;
    atomic_fetch_add(&ringing, 1);
    int fd = wakers_descriptor(waker);
    if (fd >= 0)
        kernel_call(SYS_write, fd, &one, sizeof one);
    atomic_fetch_sub(&ringing, 1);
    errno = saved;
}

void wakers_heard(int waker)
{
    uint64_t rung;
    int saved = errno, fd = wakers_descriptor(waker);
    if (fd >= 0)
        kernel_call(SYS_read, fd, &rung, sizeof rung);
    errno = saved;
}

void wakers_forget(int fd)
{
    for (int i = 0; i < WAKERS_MOST; i++) {
        int mine = fd + 1;
        if (atomic_compare_exchange_strong(&descriptors[i], &mine, 0) &&
            !(atomic_load(&taken[i / WORD]) >> i % WORD & 1))
            atomic_fetch_sub(&kept, 1);
    }
}

void wakers_after_fork_in_child(void)
{
    for (int i = 0; i < WAKERS_MOST; i++) {
        int fd = atomic_exchange(&descriptors[i], 0);
        if (fd)
            descriptor_close_own(fd - 1);
    }
    for (int word = 0; word < WAKERS_MOST / WORD; word++)
        atomic_store(&taken[word], 0);
    atomic_store(&kept, 0);
    atomic_store(&ringing, 0);
}
