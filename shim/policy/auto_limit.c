/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "policy/auto_limit.h"

#define MILLISECOND UINT64_C(1000000)
#define SECOND (1000 * MILLISECOND)
#define WINDOW_LEAST_NS (100 * MILLISECOND)
#define WINDOW_MOST_NS SECOND /* then a single answer is enough */
#define WINDOW_SAMPLES 10
#define EPOCH_NS (20 * SECOND)
#define SOJOURN_MOST_NS (10 * SECOND) /* its square, ten thousand times, fits a word */
#define SPARE_LEAST 3
#define PROBE_WINDOWS 2 /* the first still has those that came before */
#define PROBE_SHARE 4
#define PROBE_FIRST 3 /* windows */
#define PROBE_AGAIN 5
#define PROBE_SELDOM 60
#define TOLD_STEP 4 /* a change by more than a quarter is an event */

static uint32_t load(const _Atomic uint32_t *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}

static void store(_Atomic uint32_t *word, uint64_t value)
{
    atomic_store_explicit(word, value < UINT32_MAX ? (uint32_t)value : UINT32_MAX,
                          memory_order_relaxed);
}

static uint64_t root(uint64_t square)
{
    uint64_t low = 0, high = UINT64_C(1) << 16;
    while (high - low > 1) {
        uint64_t middle = (low + high) / 2;
        if (middle * middle <= square)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* What a window came to. */
struct window {
    uint64_t length_ns, mean_us, sojourn_us;
    uint64_t answers, conns, conns_most; /* conns in hundredths, on average */
};

/* The smallest sojourn of this epoch and the one before. */
static uint64_t least_sojourn(struct segment_concurrency *found, uint64_t sojourn_us, uint64_t now)
{
    uint64_t epoch = atomic_load(&found->epoch_ns);
    if (epoch == 0 || now - epoch > EPOCH_NS) {
        store(&found->least_before_us, load(&found->least_now_us));
        store(&found->least_now_us, sojourn_us);
        atomic_store(&found->epoch_ns, now);
    }
    if (sojourn_us < load(&found->least_now_us))
        store(&found->least_now_us, sojourn_us);
    uint64_t least = load(&found->least_now_us), before = load(&found->least_before_us);
    return before && before < least ? before : least;
}

static uint64_t target_of(const struct window *window, uint64_t ceiling, uint64_t least_us)
{
    uint64_t spare = root(ceiling) > SPARE_LEAST ? root(ceiling) : SPARE_LEAST;
    /* Answers per second times seconds, in hundredths, and at least one at work. */
    uint64_t in_service = window->answers * window->mean_us * 1000 * 100 /
                          (window->length_ns ? window->length_ns : 1);
    in_service = in_service > 100 ? in_service : 100;
    uint64_t conns = window->conns > in_service ? window->conns : in_service;
    return (conns * least_us / (window->sojourn_us ? window->sojourn_us : 1) +
            spare * conns * 100 / in_service) /
           100;
}

static void begin_probe(struct segment_concurrency *found, uint64_t ceiling)
{
    store(&found->ceiling_before, ceiling);
    store(&found->probing, PROBE_WINDOWS);
    store(&found->verdict, CONCURRENCY_PROBING);
    store(&found->ceiling, ceiling / PROBE_SHARE ? ceiling / PROBE_SHARE : 1);
}

/* The last window of a probe ended: what it showed is in `least_us` already. */
static void end_probe(struct segment_concurrency *found, uint64_t least_before_us,
                      uint64_t least_us)
{
    bool found_less = least_us + least_us / 8 < least_before_us;
    store(&found->next_probe, found_less ? PROBE_AGAIN : PROBE_SELDOM);
    store(&found->ceiling, load(&found->ceiling_before));
}

/* The window ended: moves the ceiling. Whether that is worth an operator's notice. */
static bool decide(struct segment_concurrency *found, uint64_t limit, const struct window *window,
                   uint64_t now)
{
    uint64_t ceiling = segment_ceiling(limit, found), least_before = load(&found->least_us);
    uint64_t least = least_sojourn(found, window->sojourn_us, now);
    uint32_t probing = load(&found->probing);

    store(&found->sojourn_us, window->sojourn_us);
    store(&found->least_us, least);
    store(&found->answers_per_s, window->answers * SECOND / window->length_ns);
    if (probing) {
        store(&found->probing, probing - 1);
        if (probing == 1)
            end_probe(found, least_before, least);
        return false;
    }
    if (window->conns_most < ceiling) {
        store(&found->verdict, CONCURRENCY_UNUSED);
        return false;
    }
    uint32_t until_probe = load(&found->next_probe);
    until_probe = until_probe ? until_probe : PROBE_FIRST;
    store(&found->next_probe, until_probe - 1);
    if (until_probe == 1 && ceiling > limit_auto_least(limit)) {
        begin_probe(found, ceiling);
        return false;
    }
    uint64_t target = target_of(window, ceiling, least), next = (ceiling + target + 1) / 2;
    next = next < limit_auto_least(limit) ? limit_auto_least(limit) : next;
    next = next > limit_auto_most(limit) ? limit_auto_most(limit) : next;
    store(&found->ceiling, next);
    store(&found->verdict, next > ceiling   ? CONCURRENCY_RAISED
                           : next < ceiling ? CONCURRENCY_LOWERED
                                            : CONCURRENCY_STEADY);
    return next > ceiling + ceiling / TOLD_STEP || next + next / TOLD_STEP < ceiling;
}

/* Adds the answer to the window under way. */
static void add(struct segment_concurrency *found, struct auto_limit_answer answer)
{
    atomic_fetch_add(&found->conns_sum, answer.inside);
    if (answer.inside > load(&found->conns_most))
        store(&found->conns_most, answer.inside);
    if (answer.sojourn_ns == 0)
        return;
    uint64_t bounded = answer.sojourn_ns < SOJOURN_MOST_NS ? answer.sojourn_ns : SOJOURN_MOST_NS;
    uint64_t us = bounded / 1000 + 1;
    atomic_fetch_add(&found->sum_us, us);
    atomic_fetch_add(&found->sum_of_squares, us * us);
    atomic_fetch_add(&found->samples, 1);
}

/* Ends the window under way, if it is over, and begins the next. Only one caller gets true. */
static bool end_window(struct segment_concurrency *found, uint32_t answers, uint32_t inside,
                       uint64_t now, struct window *window)
{
    uint64_t began = atomic_load(&found->window_ns);
    uint32_t samples = load(&found->samples);
    bool over = began && (now - began >= WINDOW_MOST_NS
                              ? samples > 0
                              : now - began >= WINDOW_LEAST_NS && samples >= WINDOW_SAMPLES);
    if ((began && !over) || !atomic_compare_exchange_strong(&found->window_ns, &began, now))
        return false;
    uint64_t sum = atomic_exchange(&found->sum_us, 0);
    uint64_t squares = atomic_exchange(&found->sum_of_squares, 0);
    *window = (struct window){
        .length_ns = now - began,
        .mean_us = samples ? sum / samples : 0,
        .sojourn_us = sum ? squares / sum : 0,
        .answers = answers,
        .conns = answers ? (uint64_t)atomic_exchange(&found->conns_sum, 0) * 100 / answers : 0,
        .conns_most = load(&found->conns_most),
    };
    store(&found->answers, 0);
    store(&found->samples, 0);
    store(&found->conns_most, inside);
    return began != 0 && window->sojourn_us != 0;
}

struct auto_limit_change auto_limit_answered(struct segment_concurrency *found, uint64_t limit,
                                             struct auto_limit_answer answer, uint64_t now)
{
    struct auto_limit_change change = {.raised = false};
    struct window window;
    uint32_t answers = atomic_fetch_add(&found->answers, 1) + 1;
    add(found, answer);
    if (!end_window(found, answers, answer.inside, now, &window))
        return change;
    uint64_t before = segment_ceiling(limit, found);
    change.worth_telling = decide(found, limit, &window, now);
    change.ceiling = segment_ceiling(limit, found);
    change.raised = change.ceiling > before;
    change.sojourn_us = window.sojourn_us;
    change.least_us = load(&found->least_us);
    return change;
}
