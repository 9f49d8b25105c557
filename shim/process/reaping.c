/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "process/reaping.h"

#include "base/trace.h"

/* A child whose parent died before it ran: after this long it hardly ever will. */
#define CLAIM_PATIENCE_NS (UINT64_C(10) * 1000000000)
/* A reaper that was killed at its work leaves it to the next after this long. */
#define REAP_PATIENCE_NS (UINT64_C(1) * 1000000000)
#define REAPER_GENERATION_BITS 20
#define CHECKED_PER_CLAIM 2

enum { LEVEL, SUM };
#define COUNTER(id, name, kind) [COUNTER_##id] = (kind) == SUM,
static const bool is_sum[COUNTERS] = {
#include "segment/counters.def"
};
#undef COUNTER

static const struct reaping_audience *audience;

void reaping_tell(const struct reaping_audience *wanted)
{
    audience = wanted;
}

void reaping_tell_inherits(uint32_t child)
{
    if (audience)
        audience->inherits(child);
}

static void clear_name(struct segment_process *process)
{
    atomic_store(&process->since_ns, 0);
    atomic_store(&process->flags, 0);
    atomic_store(&process->pid_namespace, 0);
    atomic_store(&process->started, 0);
}

/*
 * Who reaps an entry stands in its identity in place of the pid: the index of its own entry, and
 * the end of that one's generation; 0 for one that has none. Nobody takes the work over from a
 * reaper that may still be at it, however long it was stopped or waited for a processor: what it
 * did then would be done to whoever has the entry next. Meanwhile the kernel tells which of the
 * connections are gone.
 */
static uint32_t reaper_mark(uint32_t index, uint64_t identity)
{
    return index << REAPER_GENERATION_BITS |
           (process_generation(identity) & ((1U << REAPER_GENERATION_BITS) - 1));
}

static uint32_t own_mark(void)
{
    return service.self ? reaper_mark(service.self, atomic_load(&service_self()->identity)) : 0;
}

/* The times of its requests are the service's; what it has of requests by itself ends with it. */
static void forget_requests(struct segment_process *process)
{
    histogram_move(&process->request_wait, &service.segment->request_wait);
    histogram_move(&process->response, &service.segment->response);
    atomic_store(&process->requests.word, 0);
    atomic_store(&process->request_concurrency.ceiling, 0);
    atomic_store(&process->request_concurrency.window_ns, 0);
    atomic_store(&process->requests_waiting, 0);
    atomic_store(&process->streams, 0);
    atomic_store(&process->idle_since_ns, 0);
}

void reaping_reap(struct segment_process *process, uint64_t identity, bool proved)
{
    struct segment *segment = service.segment;
    uint32_t index = (uint32_t)(process - segment->process);
    uint64_t reaping = process_identity(identity, PROCESS_REAPING, own_mark());

    if (!atomic_compare_exchange_strong(&process->identity, &identity, reaping))
        return;
    atomic_store(&process->since_ns, monotonic_ns());
    atomic_store(&process->pending, 0); /* first: audits of the whole service wait for it */
    trace(TRACE_SEGMENT, "reap", TRACE_NO_FD, "pid", process_pid(identity), "conns",
          gauge_count(&process->conns));
    if (audience)
        audience->gone(index, proved);
    for (unsigned i = 0; i < COUNTERS; i++) {
        uint64_t amount = atomic_exchange(&process->counter[i], 0);
        if (is_sum[i])
            atomic_fetch_add(&segment->retired[i], amount);
    }
    atomic_store(&process->conns.word, 0);
    atomic_store(&process->credit.word, 0);
    atomic_store(&process->concurrency.ceiling, 0);
    atomic_store(&process->concurrency.window_ns, 0);
    forget_requests(process);
    clear_name(process);
    atomic_compare_exchange_strong(&process->identity, &reaping,
                                   process_identity(reaping, PROCESS_FREE, 0));
}

static uint64_t age_ns(const struct segment_process *process)
{
    return monotonic_ns() - atomic_load(&process->since_ns);
}

/* A claim is given up when who made it is gone, and the child it was for did not come for long. */
static bool claim_is_stale(struct segment_process *process, enum liveness claimant)
{
    uint64_t none = 0;
    /* Claimed a moment ago, or by one that was killed in that moment: its time begins now. */
    if (atomic_compare_exchange_strong(&process->since_ns, &none, monotonic_ns()) ||
        age_ns(process) <= CLAIM_PATIENCE_NS)
        return false;
    return claimant == LIVENESS_GONE ||
           (claimant == LIVENESS_UNKNOWN && gauge_count(&process->conns) == 0);
}

/* Of one without an entry nothing is known: a full table is left to time. */
static bool reaper_is_gone(uint32_t mark, const struct onlooker *here)
{
    uint32_t index = mark >> REAPER_GENERATION_BITS;
    if (index == 0 || index >= SEGMENT_PROCESSES)
        return true;
    uint64_t identity = atomic_load(&service.segment->process[index].identity);
    if (process_phase(identity) != PROCESS_LIVE || reaper_mark(index, identity) != mark)
        return true;
    return index != service.self &&
           liveness_of(service.segment, index, identity, here, true) == LIVENESS_GONE;
}

bool reaping_check(struct segment_process *process, const struct onlooker *here, bool thorough)
{
    uint64_t identity = atomic_load(&process->identity);
    enum process_phase phase = process_phase(identity);
    uint32_t pid = process_pid(identity), index = (uint32_t)(process - service.segment->process);
    bool gone = false;

    if (phase == PROCESS_LIVE)
        gone = index != service.self &&
               liveness_of(service.segment, index, identity, here, thorough) == LIVENESS_GONE;
    else if (phase == PROCESS_CLAIMED)
        gone = claim_is_stale(process, liveness_of(service.segment, index, identity, here, true));
    else if (phase == PROCESS_REAPING)
        gone = age_ns(process) > REAP_PATIENCE_NS && reaper_is_gone(pid, here);
    if (gone) {
        uint32_t held = gauge_count(&process->conns);
        reaping_reap(process, identity, phase != PROCESS_CLAIMED);
        if (held)
            segment_event(service.segment, EVENT_PROCESS_GONE, phase == PROCESS_REAPING ? 0 : pid,
                          held,
                          phase == PROCESS_CLAIMED ? "what it held counts until the kernel says "
                                                     "that it is gone"
                                                   : "what it held is free");
    }
    return gone;
}

void reaping_look_at_some(const struct onlooker *here)
{
    static _Atomic uint32_t cursor;
    struct segment *segment = service.segment;
    uint32_t used = atomic_load(&segment->processes_used);

    for (unsigned i = 0; i < CHECKED_PER_CLAIM && used > 1; i++) {
        uint32_t index = 1 + atomic_fetch_add(&cursor, 1) % (used - 1);
        if (index < SEGMENT_PROCESSES)
            reaping_check(&segment->process[index], here, true);
    }
}
