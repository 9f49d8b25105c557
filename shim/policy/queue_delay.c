/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "policy/queue_delay.h"

#define MILLISECOND UINT64_C(1000000)
/* RFC 8289, 3.1: long against the target, and short against the patience of clients. */
#define INTERVAL_LEAST_NS (100 * MILLISECOND)
#define INTERVAL_TARGETS 10
/* Below its capacity, a server that a neighbour slows down for a moment has a queue above the
 * target for an interval now and then, hardly ever for two; what overloads it by a third or more is
 * found by its growth, long before. */
#define PROOF_INTERVALS 2
#define GROWN 2
#define GROWN_BY_LEAST 32
/* A flood makes the queue grow by this much so many times, with no loss in between. A pause of the
 * program makes it grow once, and a burst is over before its first client is late. */
#define CLIMB_STEP 4
#define CLIMB_STEPS 4
/* A queue that lost a quarter in that time is being worked off: so after a pause of the program.
 */
#define SHRUNK_NUMERATOR 3
#define SHRUNK_DENOMINATOR 4
/* While a queue stands, those are served who have waited this part of the target at most: the
 * program's own time for them comes on top. */
#define FRESH_NUMERATOR 3
#define FRESH_DENOMINATOR 4

static uint32_t load(const _Atomic uint32_t *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}

static void store(_Atomic uint32_t *word, uint32_t value)
{
    atomic_store_explicit(word, value, memory_order_relaxed);
}

static struct queue_depth depth(struct queue_look look)
{
    return look.depth(look.context);
}

/* The first who is late: the queue may be a burst, which will have been worked off in a while. */
static void suspect(struct segment_queue *state, struct queue_look look, uint64_t until)
{
    uint32_t waiting = depth(look).waiting;
    store(&state->late_queue, waiting ? waiting : 1);
    store(&state->late_mark, waiting);
    store(&state->late_marks, 0);
    atomic_store_explicit(&state->late_from_ns, until, memory_order_relaxed);
}

/* Shown the queue at each late client, tells whether it went up all the steps. */
static bool climbs(struct segment_queue *state, uint32_t waiting)
{
    uint32_t mark = load(&state->late_mark), marks = load(&state->late_marks);
    if (waiting >= mark && waiting < mark + CLIMB_STEP)
        return false;
    marks = waiting < mark ? 0 : marks + 1;
    store(&state->late_mark, waiting);
    store(&state->late_marks, marks);
    return marks >= CLIMB_STEPS;
}

/* A burst does not go on growing, or turn others away. The first who are late are no proof of it.
 */
static bool overflows(struct segment_queue *state, struct queue_look look, bool just_late)
{
    struct queue_depth queue = depth(look);
    uint32_t before = load(&state->late_queue);
    bool doubled = queue.waiting >= GROWN * before && queue.waiting >= before + GROWN_BY_LEAST;
    bool full = queue.waiting && queue.waiting >= queue.backlog;
    return climbs(state, queue.waiting) || (!just_late && (doubled || full));
}

static bool shrinks(const struct segment_queue *state, struct queue_look look)
{
    uint32_t before = load(&state->late_queue);
    return look.tells && before > 1 &&
           (uint64_t)depth(look).waiting * SHRUNK_DENOMINATOR <=
               (uint64_t)before * SHRUNK_NUMERATOR;
}

uint64_t queue_delay_most(const struct segment_queue *state, uint64_t target_ns, uint64_t now)
{
    bool stands = atomic_load_explicit(&state->standing_until_ns, memory_order_relaxed) > now;
    return stands ? target_ns / FRESH_DENOMINATOR * FRESH_NUMERATOR : target_ns;
}

static uint64_t interval_of(uint64_t target_ns)
{
    uint64_t interval = target_ns * INTERVAL_TARGETS;
    return interval > INTERVAL_LEAST_NS ? interval : INTERVAL_LEAST_NS;
}

/* Of those who come, one in so many, or more, is turned away: that is no burst. */
#define OVERLOADED_ONE_IN 5

void queue_delay_counts(struct segment_queue *state, bool turned_away, uint64_t target_ns,
                        uint64_t now)
{
    uint64_t standing = atomic_load_explicit(&state->standing_until_ns, memory_order_relaxed);
    uint64_t until = atomic_load_explicit(&state->counts_until_ns, memory_order_relaxed);
    if (standing <= now)
        return;
    atomic_fetch_add_explicit(turned_away ? &state->turned_away : &state->begun, 1,
                              memory_order_relaxed);
    if (until > now && until - now <= interval_of(target_ns))
        return;
    uint64_t away = load(&state->turned_away), all = away + load(&state->begun);
    if (until && away * OVERLOADED_ONE_IN > all)
        atomic_store_explicit(&state->standing_until_ns, now + interval_of(target_ns),
                              memory_order_relaxed);
    store(&state->turned_away, 0);
    store(&state->begun, 0);
    atomic_store_explicit(&state->counts_until_ns, now + interval_of(target_ns) / 2,
                          memory_order_relaxed);
}

bool queue_delay_sheds(struct segment_queue *state, struct queue_client client, uint64_t target_ns,
                       struct queue_look look, uint64_t now)
{
    uint64_t interval = interval_of(target_ns);
    uint64_t proof = PROOF_INTERVALS * interval;
    uint64_t from = atomic_load_explicit(&state->late_from_ns, memory_order_relaxed);
    uint64_t until = atomic_load_explicit(&state->standing_until_ns, memory_order_relaxed);
    bool stands = until > now;
    uint64_t most = queue_delay_most(state, target_ns, now);

    store(&state->crowded, client.waited_ns * 2 >= target_ns);
    if (client.waited_ns < most) {
        if (from)
            atomic_store_explicit(&state->late_from_ns, 0, memory_order_relaxed);
        return stands && client.closed;
    }
    if (!stands && from == 0) {
        suspect(state, look, now + proof);
        return false;
    }
    bool just_late = now + proof < from + target_ns;
    if (!stands && now < from && !overflows(state, look, just_late))
        return false;
    if (!stands && now >= from && shrinks(state, look)) {
        suspect(state, look, now + proof);
        return false;
    }
    /* It stands until nobody was late for as long. */
    atomic_store_explicit(&state->standing_until_ns, now + interval, memory_order_relaxed);
    return true;
}
