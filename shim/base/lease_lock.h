/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A lock between processes, of which any may be killed, stopped or preempted while it holds it.
 *
 * The lock is one word: who holds it, which turn of the holder it is, and when the holder gave its
 * last sign of life. It is free at 0. Whoever holds it keeps its own word, its lease.
 *
 *   free --take--> held --give--> free
 *                  held --keep--> held, with a new time
 *                  held --take_over--> held by another, once the lease is over
 *
 * Every step is one compare-exchange from the very word that the caller knows or has judged. So a
 * lease that was taken over is neither given back nor prolonged by the one that lost it, which
 * learns of it from that.
 *
 * A holder that was only slow goes on inside, beside the one that took over: the lock keeps order,
 * and what it guards must stay whole with two inside. All calls are async-signal-safe.
 */
#ifndef BACKPRESSURE_LEASE_LOCK_H
#define BACKPRESSURE_LEASE_LOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct lease_lock {
    _Atomic uint64_t word;
};

/* time << 32 | holder << 20 | turn; the time in units of 2^20 ns, a millisecond and a bit. */
typedef uint64_t lease;

#define LEASE_NONE UINT64_C(0)
/* Without a sign of life for so long, a holder may be taken over from. Far longer than anybody is
 * inside who runs, and than a busy scheduler keeps somebody waiting. */
#define LEASE_NS (UINT64_C(100) * 1000000)
#define LEASE_HOLDERS 4094 /* numbers of holders are below this */

/* A waiter's memory of the word that it saw last. Zeroes to begin with. */
struct lease_watch {
    lease seen;
    uint64_t since_ns;
};

/* Takes a lock that is free. `now_ns` is CLOCK_MONOTONIC. The caller's lease, or LEASE_NONE. */
lease lease_take(struct lease_lock *lock, uint32_t holder, uint64_t now_ns);

/*
 * What the waiter finds: LEASE_NONE when the lock is free, otherwise the word of the holder. `over`
 * tells whether that lease is over: the holder's time is LEASE_NS ago, and this very word stood for
 * half as long under the waiter's eyes, as clocks may differ (time_namespaces(7), libfaketime).
 */
lease lease_look(const struct lease_lock *lock, struct lease_watch *watch, uint64_t now_ns,
                 bool *over);

/* Takes the lock from the holder whose word was judged. LEASE_NONE when the word has changed. */
lease lease_take_over(struct lease_lock *lock, lease judged, uint32_t holder, uint64_t now_ns);

/* A sign of life. False, and `mine` as it was, when the lease was taken over. */
bool lease_keep(struct lease_lock *lock, lease *mine, uint64_t now_ns);

/* Gives the lock back. False when the lease was taken over: then it is another's, and stays so. */
bool lease_give(struct lease_lock *lock, lease mine);

/* Whether it is still the caller's. */
bool lease_held(const struct lease_lock *lock, lease mine);

/* The number of the holder that this word names. */
uint32_t lease_holder(lease word);

/* The same turn of the same holder, whatever the signs of life in between. */
static inline bool lease_same_turn(lease one, lease other)
{
    return (uint32_t)one == (uint32_t)other;
}

#endif
