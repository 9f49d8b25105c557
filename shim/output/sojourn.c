/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "output/sojourn.h"

#include "accept/concurrency.h"
#include "base/due.h"
#include "base/tcp_state.h"

#include <sys/socket.h>

#define SAMPLE_EVERY_NS DUE_MILLISECOND
#define UNMEASURED 1 /* a request is in the program, and nobody asked since when */

/* When the input that was just read had arrived; 0 when the kernel does not tell. */
static uint64_t arrival(int fd, uint64_t now)
{
    struct tcp_state state = tcp_state_of(fd);
    return state.known && state.input_ago < now ? now - state.input_ago : 0;
}

bool sojourn_watched(void)
{
    uint64_t until = atomic_load_explicit(&service.segment->timed_until_ns, memory_order_relaxed);
    uint64_t now = until ? monotonic_ns() : 0;
    return until > now && until - now <= SEGMENT_WATCH_NS;
}

void sojourn_read(int fd, struct flow *flow)
{
    static _Atomic uint64_t next_ns;
    if (atomic_load_explicit(&flow->asked_ns, memory_order_relaxed))
        return;
    uint64_t now = monotonic_ns(), since = UNMEASURED;
    if (due_claim(&next_ns, now, SAMPLE_EVERY_NS)) {
        since = flow->family == AF_UNIX ? now : arrival(fd, now);
        /* What waited in the accept queue was not yet in the program. */
        uint64_t accepted = atomic_load(&flow_conn(flow)->accepted_ns);
        since = since > accepted ? since : accepted;
    }
    atomic_store_explicit(&flow->asked_ns, since, memory_order_relaxed);
}

void sojourn_wrote(struct flow *flow)
{
    uint64_t since = atomic_load_explicit(&flow->asked_ns, memory_order_relaxed);
    if (since == 0)
        return;
    atomic_store_explicit(&flow->asked_ns, 0, memory_order_relaxed);
    uint64_t now = monotonic_ns();
    uint64_t sojourn = since == UNMEASURED || since > now ? 0 : now - since;
    if (sojourn)
        histogram_add(&service.segment->sojourn, sojourn);
    if (concurrency_wanted())
        concurrency_answered(sojourn);
    else if (sojourn && !sojourn_watched())
        flows_work_out_anew();
}

static uint32_t mode(void)
{
    return concurrency_wanted() || sojourn_watched() ? FLOWS_TIME : 0;
}

const struct flow_feature sojourn_feature = {.mode = mode};
