/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The segment's file has holes at first, so that a small service costs little memory: it is charged
 * to the control group of who touches it first. Each table grows in steps as it is used. A step is
 * brought into being before anything in it is read or written, by a call that fails where the file
 * system is full and an access would raise SIGBUS.
 *
 * Linked into bpctl too. Async-signal-safe.
 */
#ifndef BACKPRESSURE_GROWTH_H
#define BACKPRESSURE_GROWTH_H

#include "segment/layout.h"

/* Makes sure that `length` bytes of a mapped file exist, changing none. False when they cannot be
 * had. A system call, or one for each page. */
bool growth_touch(void *from, size_t length);

/* Makes entries exist up to and with `index`; false when there is no room. */
bool growth_extend(struct segment *segment, enum growing_table table, uint32_t index);

/* The same, a load and a comparison when they do exist. */
static inline bool growth_reach(struct segment *segment, enum growing_table table, uint32_t index)
{
    uint32_t ready = atomic_load_explicit(&segment->ready[table], memory_order_relaxed);
    return __builtin_expect(index < ready, 1) || growth_extend(segment, table, index);
}

/* Makes the entries of `peer` exist from `first` on, `count` of them at most SEGMENT_PEERS_STEP,
 * wrapping around. */
bool growth_reach_peers(struct segment *segment, uint32_t first, uint32_t count);

/* Whether the entry `index` of `peer` exists. */
static inline bool growth_has_peer(const struct segment *segment, uint32_t index)
{
    uint32_t step = index / SEGMENT_PEERS_STEP;
    uint64_t word = atomic_load_explicit(&segment->peers_ready[step / 64], memory_order_relaxed);
    return word >> step % 64 & 1;
}

#endif
