/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "policy/credit_shares.h"

#define START_SHARE 16
#define START_MOST 64

static uint64_t least(uint64_t one, uint64_t other)
{
    return one < other ? one : other;
}

static uint64_t greatest(uint64_t one, uint64_t other)
{
    return one > other ? one : other;
}

uint32_t credit_shares_attainable(uint64_t wish, uint32_t kernels, uint32_t locked)
{
    return wish >= kernels ? kernels : (uint32_t)least(wish, locked);
}

/* No grant is below the floor. */
static uint32_t attainable(const struct credit_share *share, uint64_t wish)
{
    return credit_shares_attainable(greatest(wish, CREDIT_FLOOR), share->kernels, share->locked);
}

uint64_t credit_shares_start(const struct credit_share *share)
{
    uint64_t part = share->free == CREDIT_UNBOUNDED ? CREDIT_UNBOUNDED : share->free / START_SHARE;
    if (part >= share->kernels && share->most >= share->kernels)
        return share->kernels;
    return greatest(least(least(part, START_MOST), share->most), CREDIT_FLOOR);
}

/* Half of what is free may go to one of them. */
static uint64_t within_half(const struct credit_share *share, uint64_t wish)
{
    return share->free == CREDIT_UNBOUNDED ? wish : least(wish, share->grant + share->free / 2);
}

struct credit_growth credit_shares_growth(const struct credit_share *share)
{
    uint64_t wish = least(share->grant * 2, share->most);
    if (credit_shares_attainable(wish, share->kernels, share->locked) <= share->grant)
        wish = share->most; /* from the most it can be held at to the kernel's own, in one step */
    if (credit_shares_attainable(wish, share->kernels, share->locked) <= share->grant)
        return (struct credit_growth){0, 0};
    wish = within_half(share, wish);
    uint32_t reached = credit_shares_attainable(wish, share->kernels, share->locked);
    /* Less than an eighth is not worth a system call. */
    return (struct credit_growth){wish, reached > share->grant + share->grant / 8 ? reached : 0};
}

uint32_t credit_shares_shrunk(const struct credit_share *share, uint64_t start,
                              uint64_t queued_bytes)
{
    uint64_t target = greatest(start, queued_bytes * 2 / 1024);
    if (target >= share->grant - share->grant / 4)
        return (uint32_t)share->grant;
    return attainable(share, target);
}

uint32_t credit_shares_anew(const struct credit_share *share, uint64_t start, uint64_t queued_bytes)
{
    return attainable(share, greatest(start, least((queued_bytes + 1023) / 1024, share->most)));
}

uint32_t credit_shares_asked(const struct credit_share *share, uint64_t start)
{
    return attainable(share, within_half(share, greatest(start, share->most)));
}
