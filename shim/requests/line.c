/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "requests/line.h"

#include "base/due.h"
#include "base/spinlock.h"
#include "base/tcp_state.h"
#include "base/trace.h"
#include "output/watches.h"
#include "policy/patience.h"
#include "requests/delay.h"
#include "requests/in_flight.h"
#include "requests/refusals.h"
#include "requests/wakes.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>

#define MILLISECOND UINT64_C(1000000)
/* A process that leaves a free place for so long is passed over. */
#define OVERLOOKED_NS (10 * MILLISECOND)
#define RING_EVERY_NS (MILLISECOND / 2)

static struct spinlock lock;
static _Atomic uint32_t first; /* slot + 1 */
static uint32_t last;
static _Atomic uint32_t length;
static _Atomic uint64_t first_asked_ns;
/* Whoever has the lock is to serve the line when it has given it back. */
static _Atomic bool again;

/*
 * A turn, as the segment shows it: the time of arrival in units of 4096 ns above bit 17, in bit 16
 * whether a thread waits for it in a read, below it the slot. The smallest is the first.
 */
#define TURN_TIME_SHIFT 12
#define TURN_SHIFT 17
#define TURN_BLOCKED (UINT64_C(1) << 16)

static uint64_t turn_of(const struct request *request)
{
    return (request_order(request) >> TURN_TIME_SHIFT) << TURN_SHIFT |
           (request->blocked ? TURN_BLOCKED : 0) | request_slot(request);
}

uint32_t line_length(void)
{
    return atomic_load_explicit(&length, memory_order_relaxed);
}

/* --- the list; the lock is held --- */

static struct request *at(uint32_t place)
{
    return place ? &requests[place - 1] : NULL;
}

/* Who is next: the first of those who are still likely to be there when they are answered. */
static struct request *next_in_turn(void)
{
    uint64_t now = monotonic_ns(), fresh = patience_fresh(&service.segment->patience, now);
    struct request *request = at(first);
    while (fresh != UINT64_MAX && request && now - request->asked_ns > fresh)
        request = at(request->next);
    return request ? request : at(first);
}

static void show_first(void)
{
    struct request *request = next_in_turn();
    atomic_store(&service.segment->turn[service.self], request ? turn_of(request) : 0);
    atomic_store_explicit(&service_self()->requests_waiting, line_length(), memory_order_relaxed);
    request = at(first);
    atomic_store_explicit(&first_asked_ns, request ? request->asked_ns : 0, memory_order_relaxed);
}

static void give_lock(void)
{
    spinlock_give(&lock);
    if (atomic_load(&again))
        line_serve();
}

static void insert(struct request *request)
{
    uint32_t place = request_slot(request) + 1, before = last;
    while (before && request_order(at(before)) > request_order(request))
        before = at(before)->before;
    request->before = before;
    request->next = before ? at(before)->next : first;
    if (request->next)
        at(request->next)->before = place;
    else
        last = place;
    if (before)
        at(before)->next = place;
    else
        first = place;
    atomic_fetch_add(&length, 1);
}

static void unlink_request(struct request *request)
{
    if (request->before)
        at(request->before)->next = request->next;
    else
        first = request->next;
    if (request->next)
        at(request->next)->before = request->before;
    else
        last = request->before;
    request->next = request->before = 0;
    atomic_fetch_sub(&length, 1);
}

void line_join(struct request *request, int fd, bool blocked)
{
    spinlock_take(&lock);
    if (request_moves(request, PHASE_REST, PHASE_WAITING)) {
        request->fd = fd;
        request->blocked = blocked;
        insert(request);
        show_first();
    }
    give_lock();
}

void line_leave(struct request *request)
{
    if (request_phase(request) != PHASE_WAITING)
        return;
    spinlock_take(&lock);
    bool was_first = at(first) == request, left = request_moves(request, PHASE_WAITING, PHASE_REST);
    if (left) {
        unlink_request(request);
        show_first();
    }
    give_lock();
    if (left && was_first) /* the next one may be who a free place is waiting for */
        line_serve();
}

/* --- whose turn it is --- */

/* The process, other than this one, whose turn comes first; and its turn, 0 when nobody waits. */
static uint64_t first_elsewhere(uint32_t *process)
{
    const struct segment *segment = service.segment;
    uint32_t used = atomic_load_explicit(&segment->processes_used, memory_order_relaxed);
    uint64_t least = 0;
    for (uint32_t i = 0; i < used && i < SEGMENT_PROCESSES; i++) {
        uint64_t turn = atomic_load_explicit(&segment->turn[i], memory_order_relaxed);
        if (i == service.self || turn == 0 || (least && turn >= least))
            continue;
        least = turn;
        *process = i;
    }
    return least;
}

uint32_t line_waiting(void)
{
    const struct segment *segment = service.segment;
    uint32_t used = atomic_load_explicit(&segment->processes_used, memory_order_relaxed);
    uint32_t waiting = line_length();
    for (uint32_t i = 0; i < used && i < SEGMENT_PROCESSES; i++)
        waiting +=
            i != service.self && atomic_load_explicit(&segment->turn[i], memory_order_relaxed) != 0;
    return waiting;
}

bool line_stands(void)
{
    uint32_t process;
    return line_length() != 0 || first_elsewhere(&process) != 0;
}

/* The thread, of whatever process, that sleeps in a read of the slot's connection. */
static void call_thread(uint32_t slot)
{
    _Atomic uint32_t *word = &service.segment->conn[slot].turn;
    atomic_fetch_add(word, 1);
    kernel_call(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void ring(uint32_t process, uint64_t turn)
{
    static _Atomic uint64_t rung, rung_ns;
    uint64_t now = monotonic_ns(), before = atomic_load(&rung_ns);
    if (atomic_load(&rung) == turn && now - before < RING_EVERY_NS)
        return;
    atomic_store(&rung, turn);
    atomic_store(&rung_ns, now);
    if (turn & TURN_BLOCKED)
        call_thread((uint32_t)turn & (SEGMENT_CONNS - 1));
    else
        wakes_ring(process);
}

/* Whether somebody of another process goes first, who arrived before `turn` (0: nobody of ours).
 * There is room: that one is told, and after a while passed over. */
static bool others_go_first(uint64_t turn)
{
    static _Atomic uint64_t awaited, awaited_since_ns;
    uint32_t process = 0;
    uint64_t other = first_elsewhere(&process);
    if (other == 0 || (turn && other > turn))
        return false;
    uint64_t now = monotonic_ns();
    if (atomic_load(&awaited) != other) {
        atomic_store(&awaited_since_ns, now);
        atomic_store(&awaited, other);
    } else if (now - atomic_load(&awaited_since_ns) > OVERLOOKED_NS) {
        trace(TRACE_WAIT, "turn-passed-over", TRACE_NO_FD, "process", process, NULL, 0);
        atomic_compare_exchange_strong(&service.segment->turn[process], &other, 0);
        return others_go_first(turn);
    }
    ring(process, other);
    return true;
}

/* --- serving; the lock is held --- */

enum served {
    SERVED_NOBODY,
    SERVED_GRANTED, /* a place was given */
    SERVED_REFUSED, /* it had waited too long, or its client is gone */
};

/* Who may be past the time after which others gave up is looked at, one in a millisecond. */
#define GONE_LOOK_NS MILLISECOND
#define GONE_LEAST_NS (100 * MILLISECOND)
#define GONE_AMONG 64 /* the first so many, one after the other */

static struct request *suspected_gone(uint64_t now)
{
    static _Atomic uint64_t next_look;
    static uint32_t place; /* the lock is held */
    if (!due_claim(&next_look, now, GONE_LOOK_NS))
        return NULL;
    struct request *request = at(first);
    for (uint32_t i = place++ % GONE_AMONG; i && request && request->next; i--)
        request = at(request->next);
    return request && !request->firm && now - request->asked_ns > GONE_LEAST_NS ? request : NULL;
}

/* A client that has closed its side while it waits: mostly it gave up. Its request is answered as
 * one that came too late, so that the program sees the end, and no place is spent on it. */
static struct request *gone(void)
{
    struct ahead ahead;
    uint64_t now = monotonic_ns();
    struct request *request = suspected_gone(now);
    struct tcp_state state = request ? tcp_state_of(request->fd) : (struct tcp_state){0};
    uint64_t waited = request ? now - request->asked_ns : 0;
    uint64_t patience = waited > state.acked_ago ? waited - state.acked_ago : 0;
    /* Who closes its side right behind its request has said all, and waits for the answer. */
    if (!state.is_closed && (!state.peer_ended || patience < GONE_LEAST_NS))
        return NULL;
    patience_gave_up(&service.segment->patience, patience ? patience : waited, now);
    if (request->in_hand)
        return request;
    look_ahead(request->fd, request, &ahead);
    if (ahead.there > 0 &&
        refuse_ahead(request->fd, request, &ahead, WHEN_FULL_BUSY, REFUSED_LATE) == REFUSAL_NOT)
        return NULL;
    return request;
}

/* Whether the first of the line was shed, or is to be by the thread that has it in hand. Nobody
 * closes its descriptor meanwhile: that takes it out of the line before (line_leave). */
static bool shed(struct request *request)
{
    struct ahead ahead;
    enum when_full how = (enum when_full)segment_limit(service.segment, LIMIT_WHEN_FULL);
    if (request->firm ||
        !delay_sheds(request->fd, request->asked_ns, monotonic_ns(), line_length()))
        return false;
    if (request->in_hand)
        return true;
    look_ahead(request->fd, request, &ahead);
    return ahead.there <= 0 ||
           refuse_ahead(request->fd, request, &ahead, how, REFUSED_LATE) != REFUSAL_NOT;
}

/* Whoever kept a place from before stands in front of others that have waited for longer this time:
 * so some are looked at on each turn, one after the other. */
#define LATE_AMONG 16

static struct request *waits_longest(void)
{
    static uint32_t place; /* the lock is held */
    struct request *longest = at(first);
    struct request *request = at(place);
    if (!request || request_phase(request) != PHASE_WAITING)
        request = longest;
    for (unsigned i = 0; i < LATE_AMONG && request; i++) {
        if (request->asked_ns < longest->asked_ns)
            longest = request;
        request = at(request->next);
    }
    place = request ? request_slot(request) + 1 : 0;
    return longest;
}

static enum served refused(struct request *request)
{
    unlink_request(request);
    atomic_store(&request->late, request->in_hand);
    request_moves(request, PHASE_WAITING, PHASE_REST);
    show_first();
    return SERVED_REFUSED;
}

static enum served serve(struct request **who)
{
    show_first(); /* this process may have been passed over */
    if ((*who = gone()) || shed(*who = waits_longest()))
        return refused(*who);
    if (!in_flight_room())
        return SERVED_NOBODY;
    bool eldest = patience_of_eldest(&service.segment->patience);
    struct request *request = *who = eldest ? at(first) : next_in_turn();
    if (others_go_first(turn_of(request)) || !in_flight_take(request_slot(request), false))
        return SERVED_NOBODY;
    unlink_request(request);
    request->above = false;
    request_moves(request, PHASE_WAITING, PHASE_GRANTED);
    show_first();
    return SERVED_GRANTED;
}

static void tell(struct request *request)
{
    if (request->blocked)
        call_thread(request_slot(request));
    else
        watches_release(request_flow(request));
}

/* Nobody waits for the lock: hundreds of threads may want the same just now. */
static bool serve_next(struct request **who, enum served *served)
{
    atomic_store(&again, true);
    if (!spinlock_try(&lock))
        return false;
    atomic_store(&again, false);
    *served = first ? serve(who) : SERVED_NOBODY;
    spinlock_give(&lock);
    return true;
}

void line_serve(void)
{
    int saved = errno;
    enum served served = SERVED_GRANTED;
    struct request *request;
    if (line_length() && !in_flight_room())
        in_flight_full_for_certain();
    while (line_length() && (served != SERVED_NOBODY || atomic_load(&again)) &&
           serve_next(&request, &served)) {
        if (served == SERVED_GRANTED)
            request_begins(request, monotonic_ns());
        if (served != SERVED_NOBODY)
            tell(request);
    }
    if (line_length() == 0 && in_flight_room())
        others_go_first(0);
    errno = saved;
}

/* Even if nobody wakes us: places of a process that was killed, and limits that were raised. */
#define LONGEST_NS (8 * (int64_t)MILLISECOND)

/* Who is not the first of the service is told when there is room for it; but that one may be
 * stopped. */
#define BEHIND_NS (200 * (int64_t)MILLISECOND)
/* Late, and not shed: the queue may be a burst. */
#define LATE_AGAIN_NS (20 * (int64_t)MILLISECOND)

/* When the first of this process has waited for longer than queue-delay. */
static int64_t late_in(uint64_t target)
{
    uint64_t now = monotonic_ns(),
             asked = atomic_load_explicit(&first_asked_ns, memory_order_relaxed);
    uint64_t waited = asked && now > asked ? now - asked : 0;
    return waited < target ? (int64_t)(target - waited) + (int64_t)MILLISECOND : LATE_AGAIN_NS;
}

int64_t line_next_look(void)
{
    uint32_t process;
    if (line_length() == 0)
        return -1;
    uint64_t target = delay_target(), other = first_elsewhere(&process);
    bool behind = other && other < atomic_load_explicit(&service.segment->turn[service.self],
                                                        memory_order_relaxed);
    int64_t next = behind ? BEHIND_NS : LONGEST_NS;
    uint64_t wait = behind ? 0 : in_flight_rate_wait();
    if (wait && wait < (uint64_t)next)
        next = (int64_t)wait;
    int64_t late = target == LIMIT_OFF ? next : late_in(target);
    return late < next ? late : next;
}

bool line_is_first(const struct request *request)
{
    return atomic_load_explicit(&first, memory_order_relaxed) == request_slot(request) + 1;
}

void line_forget_process(uint32_t process)
{
    atomic_store(&service.segment->turn[process], 0);
}

void line_after_fork_in_child(void)
{
    spinlock_reset(&lock);
    first = last = 0;
    atomic_store(&length, 0);
    atomic_store(&again, false);
}
