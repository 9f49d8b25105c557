/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Work that is done at a bounded rate: after each time it rests for a multiple of what it cost. And
 * what is told once a second at most. Times are CLOCK_MONOTONIC's, in nanoseconds. All of it is
 * async-signal-safe; who comes too early, or while another is at it, is told no at once.
 */
#ifndef BACKPRESSURE_DUE_H
#define BACKPRESSURE_DUE_H

#include "base/clock.h"

#include <stdatomic.h>
#include <stdbool.h>

#define DUE_MILLISECOND UINT64_C(1000000)
#define DUE_TOLD_EVERY_NS (1000 * DUE_MILLISECOND)

/* When work that began at `spent_before` is due again: its cost times `share` from now, at least
 * `least`. */
static inline uint64_t due_again(uint64_t spent_before, uint64_t share, uint64_t least)
{
    uint64_t pause = (spent_ns() - spent_before) * share;
    return monotonic_ns() + (pause > least ? pause : least);
}

/* True for the one caller that is to do what is due; the others leave it to that one. */
static inline bool due_claim(_Atomic uint64_t *next, uint64_t now, uint64_t longest)
{
    uint64_t due = atomic_load(next);
    /* A time far ahead is a damaged word, not a plan. */
    if (due > now && due - now < 3600 * UINT64_C(1000000000))
        return false;
    return atomic_compare_exchange_strong(next, &due, now + longest);
}

/* True for one caller a second. `*told` is when that was last, 0 at first; a time that seems to be
 * ahead of now counts as long ago. */
static inline bool due_to_tell(_Atomic uint64_t *told)
{
    uint64_t now = monotonic_ns(), before = atomic_load(told);
    return (before == 0 || now - before > DUE_TOLD_EVERY_NS) &&
           atomic_compare_exchange_strong(told, &before, now);
}

#endif
