/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "wait/slices.h"

#include "accept/connections.h"
#include "fd/listeners.h"
#include "process/service.h"

#define MILLISECOND INT64_C(1000000)
#define SLICE_NS (8 * MILLISECOND)
#define SLICE_DEALT_OUT_NS (16 * MILLISECOND)
#define SLICE_LONGEST_NS (100 * MILLISECOND)
#define SLICE_LEAST_NS (MILLISECOND / 4)
#define EAGER_TURNS 3 /* slots often free right after the ceiling is met */
/* Looks from one slot that becomes free to the next: it stays empty for half a look, on average. */
#define LOOKS_PER_SLOT 8

uint64_t slices_deadline(int64_t timeout_ns)
{
    return timeout_ns > 0 ? monotonic_ns() + (uint64_t)timeout_ns : 0;
}

struct slices slices_until(int64_t timeout_ns, uint64_t deadline_ns)
{
    return (struct slices){.timeout_ns = timeout_ns, .deadline_ns = deadline_ns};
}

int64_t slices_left_until(int64_t timeout_ns, uint64_t deadline_ns)
{
    if (timeout_ns <= 0)
        return timeout_ns;
    uint64_t now = monotonic_ns();
    return now < deadline_ns ? (int64_t)(deadline_ns - now) : 0;
}

int64_t slices_left(const struct slices *slices)
{
    return slices_left_until(slices->timeout_ns, slices->deadline_ns);
}

/* How many threads of the service wait in slices; a dead process's are forgotten when it is reaped.
 */
static int64_t watchers(void)
{
    const struct segment *segment = service.segment;
    uint32_t used = atomic_load_explicit(&segment->processes_used, memory_order_relaxed);
    int64_t count = 0;
    for (uint32_t i = 0; i < used && i < SEGMENT_PROCESSES; i++)
        count += atomic_load_explicit(&segment->process[i].slicing, memory_order_relaxed);
    return count > 0 ? count : 1;
}

/* How soon the next look is worth its cost. */
static int64_t pace(void)
{
    uint64_t gap = atomic_load_explicit(&service.segment->freed_gap_ns, memory_order_relaxed);
    uint64_t look = gap / LOOKS_PER_SLOT;
    return look < SLICE_LEAST_NS ? SLICE_LEAST_NS : look < SLICE_NS ? (int64_t)look : SLICE_NS;
}

static int64_t slice_length(unsigned turn)
{
    int64_t look = pace(), shared_by = watchers();
    if (turn < EAGER_TURNS && look > MILLISECOND << turn)
        return MILLISECOND << turn;
    int64_t longest = listeners_deal_out() ? SLICE_DEALT_OUT_NS : SLICE_LONGEST_NS;
    return shared_by * look < longest ? shared_by * look : longest;
}

int64_t slices_next(struct slices *slices, int64_t left)
{
    if (!slices->counted) {
        atomic_fetch_add(&service_self()->slicing, 1);
        slices->counted = 1;
        signals_hold(&slices->held);
    }
    int64_t slice = slice_length(slices->turn++);
    uint64_t rate_wait = reservation_rate_wait();
    if (rate_wait && rate_wait < (uint64_t)slice)
        slice = (int64_t)rate_wait;
    return left >= 0 && left < slice ? left : slice;
}

void slices_end(struct slices *slices)
{
    if (slices->counted && atomic_load(&service_self()->slicing) > 0)
        atomic_fetch_sub(&service_self()->slicing, 1);
    slices->counted = 0;
    signals_let_in(&slices->held);
}
