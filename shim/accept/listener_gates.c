/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "accept/listener_gates.h"

#include "accept/flood.h"
#include "accept/lateness.h"
#include "base/due.h"
#include "base/real.h"
#include "base/trace.h"
#include "fd/gate.h"
#include "process/descriptors.h"
#include "process/service.h"

#include <errno.h>
#include <sys/syscall.h>

/* Under a flood gates move many times a second. */
static void tell(enum event_kind kind, const char *text)
{
    static _Atomic uint64_t told_ns[2];
    if (due_to_tell(&told_ns[kind == EVENT_GATED]))
        service_event(kind, 0, text);
}

/* Whether the program attached a filter of its own. */
static bool has_own_filter(struct listener *listener, int fd)
{
    if (atomic_load(&listener->own_filter) == LISTENER_UNKNOWN)
        atomic_store(&listener->own_filter, gate_is_foreign(fd));
    return atomic_load(&listener->own_filter);
}

static void shut_gate(struct listener *listener, int fd)
{
    uint32_t open = 0;
    if (has_own_filter(listener, fd))
        return;
    atomic_store(&listener->seen_gated, 1);
    if (!atomic_compare_exchange_strong(&listener->shared->gated, &open, 1))
        return;
    atomic_store(&listener->shared->gated_once, 1);
    if (!gate_shut(fd))
        atomic_store(&listener->shared->gated, 0);
    else if (!atomic_load(&listener->shared->gated))
        gate_open(fd); /* opened by another process in between */
    else {
        trace(TRACE_ACCEPT, "gate-shut", fd, NULL, 0, NULL, 0);
        tell(EVENT_GATED, "new connections are turned away as SYNs");
    }
}

/* A gate that stays shut ends the service. So a process that knows of one opens it also when the
 * segment says that another did: that word may be damage, and opening twice does no harm. */
static void open_gate(struct listener *listener, int fd)
{
    bool seen = atomic_exchange(&listener->seen_gated, 0);
    bool shut =
        atomic_load(&listener->shared->gated) && atomic_exchange(&listener->shared->gated, 0);
    if ((!seen && !shut) || has_own_filter(listener, fd))
        return;
    trace(TRACE_ACCEPT, "gate-open", fd, NULL, 0, NULL, 0);
    gate_open(fd);
    if (atomic_load(&listener->shared->gated)) /* shut by another process in between */
        gate_shut(fd);
    if (shut)
        tell(EVENT_UNGATED, "new connections come in again");
}

static bool all_gated(void)
{
    for (uint32_t i = 0; i < listeners_count(); i++) {
        const struct listener *listener = listeners_number(i);
        if (listener && listeners_can_be_gated(listener) && !atomic_load(&listener->shared->gated))
            return false;
    }
    return true;
}

/* While refusals cost too much, a listener whose clients have to wait takes no more until they are
 * gone. */
static bool gate_wanted(int fd, const struct listener *listener, bool all, bool flooded)
{
    if (all)
        return true;
    if (flooded && (atomic_load(&listener->shared->gated) ||
                    atomic_load_explicit(&listener->shared->queue.crowded, memory_order_relaxed)))
        return lateness_queue(fd) > 0;
    return lateness_overfills(fd, listener);
}

/* By the few listeners there are: who has nothing to gate must not look through all descriptors. */
static bool any_stands(void)
{
    for (uint32_t i = 0; i < listeners_count(); i++) {
        const struct listener *listener = listeners_number(i);
        if (listener && listeners_can_be_gated(listener) && lateness_stands(listener))
            return true;
    }
    return false;
}

void listener_gates_follow(bool room)
{
    struct segment *segment = service.segment;
    if (!service_active() || listeners_count() == 0)
        return;
    bool flooded = flood_under_way();
    bool all = !room && (flooded || segment_limit(segment, LIMIT_QUEUE) == 0 ||
                         atomic_load(&segment->admission) != ADMISSION_OPEN);
    if (all ? all_gated() : !flooded && !listener_gates_shut() && !any_stands())
        return;
    int saved = errno;
    for (int fd = -1; (fd = descriptors_next_withheld(fd + 1)) >= 0;) {
        struct listener *listener = listeners_tracked(fd);
        if (!listener || !listeners_can_be_gated(listener))
            continue;
        if (gate_wanted(fd, listener, all, flooded))
            shut_gate(listener, fd);
        else
            open_gate(listener, fd);
    }
    errno = saved;
}

bool listener_gates_shut(void)
{
    for (uint32_t i = 0; i < listeners_count(); i++) {
        struct listener *listener = listeners_number(i);
        if (!listener || !listeners_can_be_gated(listener))
            continue;
        if (atomic_load(&listener->shared->gated))
            atomic_store(&listener->seen_gated, 1);
        if (atomic_load(&listener->seen_gated))
            return true;
    }
    return false;
}

void listener_gates_open(void)
{
    int saved = errno;
    for (int fd = -1; (fd = descriptors_next_withheld(fd + 1)) >= 0;) {
        struct listener *listener = listeners_tracked(fd);
        if (listener && listeners_can_be_gated(listener))
            open_gate(listener, fd);
    }
    errno = saved;
}

void listener_gates_release(void)
{
    for (int fd = -1; (fd = descriptors_next_withheld(fd + 1)) >= 0;) {
        struct listener *listener = listeners_tracked(fd);
        if (!listener)
            continue;
        if (listeners_can_be_gated(listener) && !has_own_filter(listener, fd))
            gate_open(fd); /* whether it was shut is forgotten; there is no harm if not */
        if (listener->asked_backlog >= 0)
            kernel_call(SYS_listen, fd, listener->asked_backlog);
    }
}

void listener_gates_ungate_accepted(const struct listener *listener, int fd)
{
    int saved = errno;
    if (listener->shared && atomic_load(&listener->shared->gated_once))
        gate_open(fd);
    errno = saved;
}
