/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/chance.h"

#include "base/clock.h"
#include "base/real.h"

#include <linux/random.h>
#include <stdatomic.h>
#include <sys/syscall.h>

static _Atomic uint32_t forks;

void chance_after_fork_in_child(void)
{
    atomic_fetch_add(&forks, 1);
}

/* SplitMix64 (Steele, Lea, Flood, 2014), seeded once a thread, and again after a fork. */
static uint64_t draw(void)
{
    static _Thread_local uint64_t state __attribute__((tls_model("initial-exec")));
    static _Thread_local uint32_t seeded __attribute__((tls_model("initial-exec")));
    uint32_t epoch = atomic_load_explicit(&forks, memory_order_relaxed) + 1;
    if (seeded != epoch &&
        kernel_call(SYS_getrandom, &state, sizeof state, GRND_NONBLOCK) != (long)sizeof state)
        state = monotonic_ns() ^ (uint64_t)kernel_call(SYS_getpid) << 32;
    seeded = epoch;
    uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint64_t chance_up_to(uint64_t most)
{
    if (most == UINT64_MAX)
        return draw();
    return (uint64_t)((unsigned __int128)draw() * (most + 1) >> 64);
}
