/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "accept/admission.h"

#include "accept/audit.h"
#include "accept/connections.h"
#include "accept/exemption.h"
#include "accept/flood.h"
#include "accept/lateness.h"
#include "accept/listener_gates.h"
#include "accept/newcomers.h"
#include "accept/shedding.h"
#include "accept/since_wait.h"
#include "accept/waiting_room.h"
#include "base/due.h"
#include "base/polling.h"
#include "base/real.h"
#include "base/trace.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

_Thread_local uint64_t since_wait __attribute__((tls_model("initial-exec"))) = SINCE_WAIT_NEVER;
_Atomic bool admission_waited_for;

static const struct admission_waits *waits;

void admission_serve(const struct admission_waits *wanted)
{
    waits = wanted;
}

/* Limits that may turn a client away though there is a slot. */
static bool single_clients_concerned(void)
{
    return lateness_target() != LIMIT_OFF ||
           segment_limit(service.segment, LIMIT_PEER_CONNS) != LIMIT_OFF;
}

bool admission_hindered(bool active)
{
    uint32_t hindered = atomic_fetch_and(&service.hindered, ~(uint32_t)SERVICE_DETACHED);
    if (hindered & SERVICE_DETACHED) {
        int saved = errno;
        waits->show_everything();
        listener_gates_release();
        errno = saved;
    }
    return active && !(hindered & SERVICE_SANDBOXED);
}

void admission_before_sandbox(void)
{
    waits->show_everything();
    listener_gates_open();
    shedding_let_everybody_go();
    for (uint32_t i = 0; i < LISTENERS_MAX; i++)
        waiting_room_close(i);
}

bool admission_calm(void)
{
    return !flood_under_way() && !shedding_lingering() && !waiting_room_occupied() &&
           listeners_calm() && reservation_roomy();
}

bool admission_shut(void)
{
    if (!service_active())
        return false;
    enum reservation room = reservation_room();
    return room == RESERVATION_PAUSED ||
           (room != RESERVED && newcomers_when_full() == WHEN_FULL_HOLD && !exemption_possible() &&
            lateness_target() == LIMIT_OFF);
}

/*
 * Under hold: while no slot becomes free at all, nobody is accepted who could be found to be late.
 * Then one at a time is taken out of the kernel's queue, to see how long it waited.
 */
static bool wants_a_look(const struct listener *listener)
{
    uint64_t target = lateness_target(), since, freed;
    if (target == LIMIT_OFF || waiting_room_count(listeners_index(listener)) > 0)
        return false;
    since = atomic_load_explicit(&listener->holding_since_ns, memory_order_relaxed);
    freed = atomic_load_explicit(&service.segment->freed_ns, memory_order_relaxed);
    return since && monotonic_ns() - (since > freed ? since : freed) > target;
}

bool admission_takes_to_look_at(const struct listener *listener)
{
    return wants_a_look(listener) ||
           (exemption_possible() && waiting_room_has_space(listeners_index(listener)));
}

bool admission_lets_in(const struct listener *listener)
{
    if (!service_active())
        return true;
    enum reservation room = reservation_room();
    if (room == RESERVED)
        return true;
    if (room == RESERVATION_PAUSED)
        return false;
    if (newcomers_when_full() != WHEN_FULL_HOLD)
        return true; /* to be refused in accept */
    return admission_takes_to_look_at(listener);
}

bool admission_visible(struct listener *listener)
{
    if (!admission_lets_in(listener))
        return false;
    if (reservation_room() == RESERVED || newcomers_when_full() != WHEN_FULL_HOLD)
        listeners_note_holding(listener, false);
    return true;
}

/* listeners_welcome_all, or only queue-delay stands against it, and nobody was late for long: then
 * a wait need not look who it is that comes. */
static bool nobody_doubted(void)
{
    if (listeners_welcome_all())
        return true;
    if (listeners_holding() || segment_limit(service.segment, LIMIT_PEER_CONNS) != LIMIT_OFF)
        return false;
    for (uint32_t i = 0; i < listeners_count(); i++) {
        const struct listener *listener = listeners_number(i);
        if (listener && lateness_suspects(listener))
            return false;
    }
    return true;
}

bool admission_all_visible(void)
{
    return nobody_doubted() && (!service_active() || reservation_room() == RESERVED);
}

bool admission_pending(const struct listener *listener)
{
    uint32_t index = listeners_index(listener);
    return waiting_room_occupied() &&
           (waiting_room_exempt(index) ||
            ((!service_active() || reservation_room() == RESERVED) && waiting_room_ready(index)));
}

void admission_attend(void)
{
    if (!admission_active())
        return;
    listeners_refresh(single_clients_concerned);
    reservation_attend();
    if (shedding_lingering())
        shedding_attend();
    if (waiting_room_occupied())
        newcomers_attend();
    if (reservation_room() == RESERVATION_FULL) {
        audit_run();
        reservation_make_room();
    }
    listener_gates_follow(reservation_room() == RESERVED);
}

bool admission_needs_attention_here(void)
{
    return shedding_lingering() || waiting_room_occupied();
}

bool admission_needs_attention(void)
{
    return admission_needs_attention_here() || listener_gates_shut();
}

bool admission_client_waits(int fd)
{
    return polling_ready(fd, POLLIN);
}

void admission_holds(struct listener *listener, int fd)
{
    static _Atomic uint64_t told_ns;
    char address[SEGMENT_ADDRESS_MAX] = "";

    if (atomic_load_explicit(&listener->holding, memory_order_relaxed) ||
        !admission_client_waits(fd) || !listeners_note_holding(listener, true))
        return;
    service_count(COUNTER_HELD, 1);
    trace(TRACE_ACCEPT, "hold", fd, "total-conns", gauge_count(&service.segment->conns), NULL, 0);
    if (!due_to_tell(&told_ns))
        return;
    if (listener->shared)
        words_load(address, listener->shared->address, sizeof address);
    service_event(EVENT_HELD, gauge_count(&service.segment->conns), address);
}

void admission_hold(int fd)
{
    waits->hold(fd);
}

bool admission_report_again(int fd)
{
    return waits->report_again(fd);
}
