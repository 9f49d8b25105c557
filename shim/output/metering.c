/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "output/metering.h"

#include "output/credit.h"
#include "output/grants.h"
#include "output/watches.h"

#define WINDOW_LEAST 8
#define WINDOW_MOST (1U << 30)
/* What a byte of input might lead to, as long as nothing is known: an object of 1 MB for "GET k".
 */
#define RATIO_FEARED (128 * 1024)
#define RATIO_USUAL                                                                                \
    1024              /* and what it mostly does: with credit to spare, that is enough to fear     \
                       */
#define RATIO_ONE 16  /* a ratio of one, in the fixed point that ratios are kept in */
#define RATIO_DECAY 8 /* the share that a ratio may sink by in a turn */
#define DEAREST_DECAY 1024
#define REFUSALS_MOST 16 /* in one turn: a program that never waits where the shim can see it */

static _Atomic uint32_t turn = 1;
static _Atomic uint32_t dearest; /* the highest ratio of late, of any connection of this process */

void metering_new_turn(void)
{
    atomic_fetch_add_explicit(&turn, 1, memory_order_relaxed);
}

static uint32_t load(const _Atomic uint32_t *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}

static void store(_Atomic uint32_t *word, uint64_t value)
{
    atomic_store_explicit(word, value < WINDOW_MOST ? (uint32_t)value : WINDOW_MOST,
                          memory_order_relaxed);
}

static void compare_with_dearest(uint64_t ratio)
{
    uint32_t known = load(&dearest);
    store(&dearest, ratio > known ? ratio : known - known / DEAREST_DECAY);
}

/* Learns from what the connection did since its last turn began. */
static void learn(struct flow *flow, uint64_t more_output)
{
    uint64_t produced = atomic_load_explicit(&flow->produced, memory_order_relaxed);
    uint64_t output = produced - atomic_load_explicit(&flow->turn_produced, memory_order_relaxed);
    uint64_t input = (uint64_t)load(&flow->quiet) + load(&flow->turn_taken);

    output += more_output;
    atomic_store_explicit(&flow->turn_produced, produced, memory_order_relaxed);
    store(&flow->turn_taken, 0);
    if (output == 0 || input == 0) {
        store(&flow->quiet, input);
        return;
    }
    uint64_t ratio = output * RATIO_ONE / input, before = load(&flow->ratio);
    compare_with_dearest(ratio);
    before -= before / RATIO_DECAY;
    store(&flow->ratio, ratio > before ? ratio : before > 0 ? before : 1);
    if (more_output)
        store(&flow->window, load(&flow->window) / 2);
    else if (load(&flow->window) < input * 2)
        store(&flow->window, input * 2);
    store(&flow->quiet, 0);
}

static uint64_t room_kib(const struct flow *flow)
{
    uint32_t grant = load(&flow_conn(flow)->grant);
    return grant ? grant : credit_most(flow);
}

static uint64_t window(const struct flow *flow)
{
    uint64_t grown = load(&flow->window), ratio = load(&flow->ratio), fits;
    if (ratio == 0)
        fits = grown = grants_share() * 1024 / RATIO_FEARED;
    else
        fits = room_kib(flow) * 1024 * RATIO_ONE / ratio;
    uint64_t least = load(&flow->quiet); /* so much led to nothing: as much again is no risk */
    least = least > WINDOW_LEAST ? least : WINDOW_LEAST;
    fits = fits < grown ? fits : grown;
    return fits > least ? fits : least;
}

/* What may be read because there is credit to spare: so much as leads to no more than the
 * connection's share of that, be it as dear as any was of late. */
static uint64_t spared(const struct flow *flow)
{
    uint64_t spare = grants_spare() * 1024, ratio = load(&flow->ratio), known = load(&dearest);
    known = known ? known : RATIO_USUAL * RATIO_ONE;
    return spare * RATIO_ONE / (ratio > known ? ratio : known);
}

size_t metering_allowance(struct flow *flow, size_t asked)
{
    uint32_t now = load(&turn);
    if (!(flows_mode_seen() & FLOWS_PAUSE) || !(flow_signs(flow) & FLOW_NONBLOCKING))
        return asked;
    if (load(&flow->turn) != now || load(&flow->refusals) >= REFUSALS_MOST) {
        store(&flow->turn, now);
        store(&flow->refusals, 0);
        learn(flow, 0);
    }
    uint64_t allowed = window(flow), taken = load(&flow->turn_taken);
    if (__builtin_expect(allowed < taken + asked, 0)) {
        uint64_t more = spared(flow);
        allowed = more > allowed ? more : allowed;
    }
    allowed = allowed > taken ? allowed - taken : 0;
    if (allowed == 0) {
        if (load(&flow->refusals) == 0)
            watches_report_again(flow);
        store(&flow->refusals, load(&flow->refusals) + 1);
    }
    return asked < allowed ? asked : (size_t)allowed;
}

void metering_took(struct flow *flow, size_t asked, size_t allowed, size_t taken)
{
    store(&flow->turn_taken, (uint64_t)load(&flow->turn_taken) + taken);
    if (taken == allowed && allowed < asked)
        watches_report_again(flow);
}

void metering_overflowed(struct flow *flow, size_t bytes)
{
    if (flows_mode_seen() & FLOWS_PAUSE && flow_signs(flow) & FLOW_NONBLOCKING &&
        (load(&flow->turn_taken) || load(&flow->quiet)))
        learn(flow, bytes);
}
