/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "chance.h"

#include "segment.h"

#include <sys/random.h>
#include <unistd.h>

/* SplitMix64 (Steele, Lea, Flood, 2014), seeded once a thread; and again in a forked child, which
 * would draw what its parent draws. */
static uint64_t draw(void)
{
    static _Thread_local uint64_t state __attribute__((tls_model("initial-exec")));
    static _Thread_local pid_t seeded_in __attribute__((tls_model("initial-exec")));
    pid_t self = getpid();
    if (seeded_in != self && getrandom(&state, sizeof state, GRND_NONBLOCK) != sizeof state)
        state = monotonic_ns() ^ (uint64_t)self << 32;
    seeded_in = self;
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
