/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/lease_lock.h"

#define TIME_SHIFT 20 /* of nanoseconds */
#define HOLDER_SHIFT 20
#define HOLDER_MASK UINT64_C(0xfff)
#define TURN_MASK UINT64_C(0xfffff)

static uint64_t time_part(uint64_t now_ns)
{
    return (uint64_t)(uint32_t)(now_ns >> TIME_SHIFT) << 32;
}

/* Numbers of holders begin at 0, and a held word is never 0. */
static lease new_lease(uint32_t holder, uint64_t now_ns)
{
    static _Atomic uint32_t turns;
    uint64_t turn = atomic_fetch_add_explicit(&turns, 1, memory_order_relaxed) & TURN_MASK;
    return time_part(now_ns) | ((holder + 1) & HOLDER_MASK) << HOLDER_SHIFT | turn;
}

lease lease_take(struct lease_lock *lock, uint32_t holder, uint64_t now_ns)
{
    return lease_take_over(lock, LEASE_NONE, holder, now_ns);
}

lease lease_look(const struct lease_lock *lock, struct lease_watch *watch, uint64_t now_ns,
                 bool *over)
{
    lease word = atomic_load(&lock->word);
    if (word != watch->seen) {
        watch->seen = word;
        watch->since_ns = now_ns;
    }
    /* The difference of two times that wrap: half of the range lies ahead, and is no age. */
    uint32_t age = (uint32_t)(now_ns >> TIME_SHIFT) - (uint32_t)(word >> 32);
    *over = word != LEASE_NONE && age <= INT32_MAX && (uint64_t)age << TIME_SHIFT >= LEASE_NS &&
            now_ns - watch->since_ns >= LEASE_NS / 2;
    return word;
}

lease lease_take_over(struct lease_lock *lock, lease judged, uint32_t holder, uint64_t now_ns)
{
    lease mine = new_lease(holder, now_ns);
    return atomic_compare_exchange_strong(&lock->word, &judged, mine) ? mine : LEASE_NONE;
}

bool lease_keep(struct lease_lock *lock, lease *mine, uint64_t now_ns)
{
    lease before = *mine, after = time_part(now_ns) | (uint32_t)before;
    if (!atomic_compare_exchange_strong(&lock->word, &before, after))
        return false;
    *mine = after;
    return true;
}

bool lease_give(struct lease_lock *lock, lease mine)
{
    return mine != LEASE_NONE && atomic_compare_exchange_strong(&lock->word, &mine, LEASE_NONE);
}

bool lease_held(const struct lease_lock *lock, lease mine)
{
    return atomic_load(&lock->word) == mine;
}

uint32_t lease_holder(lease word)
{
    return (uint32_t)((word >> HOLDER_SHIFT & HOLDER_MASK) - 1);
}
