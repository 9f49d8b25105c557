/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How much of the credit that is free one connection is to have: what its grant starts with, grows
 * to and shrinks to.
 *
 * It starts with a sixteenth of what is free. It grows to up to twice what it has, as long as that
 * leaves as much again free beside a reserve for newcomers: the dynamic threshold of Choudhury and
 * Hahne ("Dynamic queue length thresholds for shared-memory packet switches", 1998), which lets one
 * take half, and many share. It shrinks to twice what it uses.
 *
 * Pure: what is free, and what the kernel can do, is the caller's to say. All in KiB.
 */
#ifndef BACKPRESSURE_CREDIT_SHARES_H
#define BACKPRESSURE_CREDIT_SHARES_H

#include <stdint.h>

#define CREDIT_FLOOR 4 /* the kernel's own floor is 4608 bytes with its overhead */
#define CREDIT_UNBOUNDED UINT64_MAX

/* A connection, and what it is measured by. */
struct credit_share {
    uint64_t grant;   /* what it has */
    uint64_t most;    /* what limits and the program itself let it have, at most */
    uint64_t free;    /* what nobody has, beside the reserve; CREDIT_UNBOUNDED without a ceiling */
    uint32_t kernels; /* as much as the kernel gives of its own: from here on it is not bounded */
    uint32_t locked;  /* the largest size below that at which the kernel can be held */
};

/* What the kernel can do of a wish: its own growth, or a size that it can be held at. */
uint32_t credit_shares_attainable(uint64_t wish, uint32_t kernels, uint32_t locked);

/* What a new connection is to have, of what is free with the reserve. `grant` and `locked` do not
 * matter; from `kernels` on it is the kernel's. */
uint64_t credit_shares_start(const struct credit_share *share);

/* Where the grant is to grow to, after a write came back short. */
struct credit_growth {
    uint64_t wish;    /* what it would have; 0: it has all it may, and is not to grow */
    uint32_t reached; /* what it gets; 0: so little is free that it runs short */
};
struct credit_growth credit_shares_growth(const struct credit_share *share);

/* What is left of the grant when the connection returns what it does not use; `start` is
 * credit_shares_start. The grant itself where there is too little in it to be worth the call. */
uint32_t credit_shares_shrunk(const struct credit_share *share, uint64_t start,
                              uint64_t queued_bytes);

/* The grant under other limits: as if it came anew, but with room for what is queued. */
uint32_t credit_shares_anew(const struct credit_share *share, uint64_t start,
                            uint64_t queued_bytes);

/* The grant after the program asked for a buffer: its word is as good as a write that came back
 * short, and is in `most`. */
uint32_t credit_shares_asked(const struct credit_share *share, uint64_t start);

#endif
