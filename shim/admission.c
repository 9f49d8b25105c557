/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "admission.h"

#include "accept_wait.h"
#include "audit.h"
#include "connections.h"
#include "credit.h"
#include "due.h"
#include "flood.h"
#include "flows.h"
#include "lateness.h"
#include "libc.h"
#include "peers.h"
#include "readiness.h"
#include "real.h"
#include "service.h"
#include "shedding.h"
#include "waiting_room.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MILLISECOND UINT64_C(1000000)
#define EVENT_EVERY_NS (1000 * MILLISECOND) /* of one kind, in one process */
/* Longer than anybody holds a listener's lock: one that was stopped or killed inside is passed. */
#define LOCK_PATIENCE_NS (20 * MILLISECOND)
#define LOCK_YIELDS 4 /* then the holder was preempted, or many wait */
#define LOCK_NAP_NS 100000
#define LOCK_NAP_LONGEST_NS 1000000
/* Refusals that one thread makes before it lets another have the listener. */
#define REFUSALS_PER_TURN 16
/* Refusals in one call of a non-blocking accept, so that the program's own clients get their turn.
 */
#define REFUSALS_PER_CALL 64
#define REFUSALS_PER_BILL 16
#define WAIT_SAMPLE_EVERY_NS (10 * MILLISECOND) /* of accept waits, without queue-delay */
/* So many EAGAINs without a wait in between are a loop that the shim cannot see into. */
#define IDLE_ACCEPTS 16
#define IDLE_NAP_NS (2 * MILLISECOND)

struct admission {
    struct accept_wait wait;
    int flags;
    struct sockaddr *address;
    socklen_t *length;
    bool blocking;
    bool owes_wake; /* a slot was given back, and nobody was told */
    unsigned refusals;
    uint64_t billed_ns; /* processor time when refusals were billed last */
};

/* What one attempt came to, besides a descriptor. */
enum { TRY_AGAIN = -2, MUST_WAIT = -3, NOBODY = -4 };

_Thread_local unsigned admission_idle_accepts __attribute__((tls_model("initial-exec")));

static enum when_full when_full(void)
{
    return (enum when_full)segment_limit(service.segment, LIMIT_WHEN_FULL);
}

/* How those are turned away that hold keeps waiting for too long. */
static enum when_full refusal(void)
{
    return when_full() == WHEN_FULL_RESET ? WHEN_FULL_RESET : WHEN_FULL_BUSY;
}

static bool anybody_exempt(void)
{
    return segment_limit(service.segment, LIMIT_EXEMPT) != 0;
}

void admission_let_go(void)
{
    if (!atomic_exchange(&service.detached, false))
        return;
    int saved = errno;
    readiness_show_everything();
    listeners_release();
    errno = saved;
}

bool admission_calm(void)
{
    return flows_idle() && !flood_under_way() && !shedding_lingering() &&
           !waiting_room_occupied() && listeners_calm() && connections_roomy();
}

bool admission_shut(void)
{
    if (!service_active())
        return false;
    enum reservation room = connections_room();
    return room == RESERVATION_PAUSED || (room != RESERVED && when_full() == WHEN_FULL_HOLD &&
                                          !anybody_exempt() && lateness_target() == LIMIT_OFF);
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

/* Under hold, at the ceiling: whether somebody is accepted all the same, to be parked or shed. */
static bool takes_to_look_at(const struct listener *listener)
{
    return wants_a_look(listener) ||
           (anybody_exempt() && waiting_room_has_space(listeners_index(listener)));
}

bool admission_lets_in(const struct listener *listener)
{
    if (!service_active())
        return true;
    enum reservation room = connections_room();
    if (room == RESERVED)
        return true;
    if (room == RESERVATION_PAUSED)
        return false;
    if (when_full() != WHEN_FULL_HOLD)
        return true; /* to be refused in accept */
    return takes_to_look_at(listener);
}

bool admission_visible(struct listener *listener)
{
    if (!admission_lets_in(listener))
        return false;
    if (connections_room() == RESERVED || when_full() != WHEN_FULL_HOLD)
        listeners_note_holding(listener, false);
    return true;
}

bool admission_all_visible(void)
{
    return !listeners_holding() && (!service_active() || connections_room() == RESERVED);
}

bool admission_pending(const struct listener *listener)
{
    return waiting_room_occupied() && (!service_active() || connections_room() == RESERVED) &&
           waiting_room_ready(listeners_index(listener));
}

static void shed_parked_at(uint32_t index, struct listener *listener, uint64_t target)
{
    uint64_t since;
    while ((since = waiting_room_since(index)) > 0 &&
           lateness_sheds(-1, listener, (struct queue_client){monotonic_ns() - since, false},
                          target)) {
        int fd = waiting_room_take_first(index);
        if (fd >= 0)
            shedding_refuse(fd, refusal(), true);
    }
}

/* Who waits for a slot in the waiting room may be late by now. */
static void shed_parked(void)
{
    uint64_t target = waiting_room_occupied() ? lateness_target() : LIMIT_OFF;
    if (target == LIMIT_OFF || connections_room() == RESERVED)
        return;
    for (uint32_t i = 0; i < LISTENERS_MAX; i++) {
        struct listener *listener = waiting_room_count(i) ? listeners_number(i) : NULL;
        if (listener)
            shed_parked_at(i, listener, target);
    }
}

void admission_attend(void)
{
    if (!admission_active())
        return;
    listeners_refresh();
    flows_attend();
    shedding_attend();
    shed_parked();
    if (connections_room() == RESERVATION_FULL) {
        audit_run();
        if (!credit_room())
            credit_reclaim();
    }
    listeners_gate(connections_room() == RESERVED);
}

bool admission_needs_attention_here(void)
{
    return shedding_lingering() || waiting_room_occupied();
}

bool admission_needs_attention(void)
{
    return admission_needs_attention_here() || listeners_gated();
}

/* --- one at a time between poll and accept, so that nobody blocks in accept with a slot reserved
 * --- */

/* False when there is no slot any more for whoever gets the listener: the wait is in vain. */
static bool lock_listener(struct listener *listener)
{
    if (!listener->shared)
        return true;
    _Atomic uint64_t *lock = &listener->shared->lock;
    struct timespec nap = {.tv_sec = 0, .tv_nsec = LOCK_NAP_NS};
    uint64_t started = monotonic_ns(), holder = 0;
    unsigned turns = 0;
    while (!atomic_compare_exchange_weak(lock, &holder, started)) {
        if (holder && monotonic_ns() - started > LOCK_PATIENCE_NS &&
            atomic_compare_exchange_strong(lock, &holder, started))
            return true;
        holder = 0;
        if (++turns <= LOCK_YIELDS) {
            kernel_call(SYS_sched_yield);
            continue;
        }
        if (!admission_lets_in(listener))
            return false;
        kernel_call(SYS_nanosleep, &nap, NULL);
        if (nap.tv_nsec < LOCK_NAP_LONGEST_NS)
            nap.tv_nsec *= 2;
    }
    return true;
}

/* A turn goes on: whoever waits knows that its holder is well. */
static void keep_listener(struct listener *listener)
{
    if (listener->shared)
        atomic_store(&listener->shared->lock, monotonic_ns());
}

static void unlock_listener(struct listener *listener)
{
    if (listener->shared)
        atomic_store(&listener->shared->lock, 0);
}

static bool client_waits(int fd)
{
    struct pollfd listener = {.fd = fd, .events = POLLIN};
    struct timespec now = {0, 0};
    return kernel_call(SYS_ppoll, &listener, 1, &now, NULL, 0) > 0;
}

void admission_holds(struct listener *listener, int fd)
{
    static _Atomic uint64_t told_ns;
    uint64_t now, before = atomic_load(&told_ns);
    char address[SEGMENT_ADDRESS_MAX] = "";

    if (atomic_load_explicit(&listener->holding, memory_order_relaxed) || !client_waits(fd) ||
        !listeners_note_holding(listener, true))
        return;
    service_count(COUNTER_HELD, 1);
    now = monotonic_ns();
    if ((before && now - before < EVENT_EVERY_NS) ||
        !atomic_compare_exchange_strong(&told_ns, &before, now))
        return;
    if (listener->shared)
        words_load(address, listener->shared->address, sizeof address);
    service_event(EVENT_HELD, gauge_count(&service.segment->conns), address);
}

/* The kernel's accept, which must not be left half way: cancellation waits until it is accounted.
 */
static int accept_real(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
    return (int)kernel_call(SYS_accept4, fd, address, length, flags);
}

/* --- what becomes of an accepted connection --- */

static bool is_exempt(const struct sockaddr_storage *from)
{
    uint8_t address[16] = {[10] = 0xff, [11] = 0xff};
    if (!anybody_exempt())
        return false;
    if (from->ss_family == AF_INET)
        memcpy(address + 12, &((const struct sockaddr_in *)from)->sin_addr, 4);
    else if (from->ss_family == AF_INET6)
        memcpy(address, &((const struct sockaddr_in6 *)from)->sin6_addr, 16);
    else
        return false;
    struct limits limits;
    segment_read_limits(service.segment, &limits);
    return limits_exempt(&limits, address);
}

/* Hands the address out as accept(2) does: cut to the room there is, with its full length. */
static void hand_out_address(const struct admission *admission, const struct sockaddr_storage *from,
                             socklen_t from_length)
{
    if (!admission->address || !admission->length)
        return;
    socklen_t room = *admission->length;
    memcpy(admission->address, from, room < from_length ? room : from_length);
    *admission->length = from_length;
}

static void flags_for(int fd, int flags)
{
    if (!(flags & SOCK_CLOEXEC))
        kernel_call(SYS_fcntl, fd, F_SETFD, 0);
}

/* Admits somebody from the waiting room, with the slot that is reserved; -1 when nobody can be. */
static int admit_parked(const struct admission *admission)
{
    struct sockaddr_storage from = {0};
    socklen_t length = sizeof from;
    uint32_t peer;
    uint64_t target = lateness_target();
    if (target != LIMIT_OFF)
        shed_parked_at(listeners_index(admission->wait.listener), admission->wait.listener, target);
    int fd = waiting_room_next(listeners_index(admission->wait.listener), &peer);
    if (fd < 0)
        return -1;
    flags_for(fd, admission->flags);
    if (kernel_call(SYS_getpeername, fd, &from, &length) < 0)
        length = 0; /* the client has gone; accept(2) hands such connections out, too */
    hand_out_address(admission, &from, length);
    listeners_ungate_accepted(admission->wait.listener, fd);
    connections_commit(fd, admission->wait.listener->family, admission->wait.listener->auditable,
                       peer);
    return fd;
}

/* Charges what refusals cost since the last time: the clock is a system call, so not for each. */
static void bill_refusals(struct admission *admission)
{
    uint64_t spent = spent_ns();
    if (admission->billed_ns)
        flood_refused(spent - admission->billed_ns);
    admission->billed_ns = spent;
}

static int refuse(struct admission *admission, int fd, enum when_full how, bool late)
{
    if (admission->refusals++ % REFUSALS_PER_BILL == 0)
        bill_refusals(admission);
    shedding_refuse(fd, how, late);
    return TRY_AGAIN;
}

static int park(struct admission *admission, int fd, struct peer_key key, uint64_t waited_ns)
{
    service_count(COUNTER_HELD, 1);
    if (!waiting_room_park(listeners_index(admission->wait.listener), fd, key,
                           monotonic_ns() - waited_ns))
        return refuse(admission, fd, WHEN_FULL_RESET, false);
    return TRY_AGAIN;
}

/* Gives the reserved slot back. While this thread has the listener for itself, whoever was woken
 * for the slot could but wait for the listener: with a refusal after the other, a process for each.
 */
static void give_slot_back(struct admission *admission)
{
    if (!admission->blocking) {
        connections_cancel();
        return;
    }
    connections_cancel_quietly();
    admission->owes_wake = true;
}

static void wake_if_owed(struct admission *admission)
{
    if (admission->owes_wake && service_active())
        segment_wake(service.segment, false);
    admission->owes_wake = false;
}

/* Over peer-conns: others must not wait behind it, so it cannot stay in the kernel's queue. */
static int turn_away_peer(struct admission *admission, int fd, struct peer_key key,
                          uint64_t waited_ns)
{
    give_slot_back(admission);
    if (when_full() != WHEN_FULL_HOLD)
        return refuse(admission, fd, when_full(), false);
    return park(admission, fd, key, waited_ns);
}

/* How long the client of the accepted `fd` waited: with queue-delay the kernel is asked about each,
 * otherwise now and then, to tell operators. */
static struct queue_client ask_about(const struct admission *admission, int fd)
{
    static _Atomic uint64_t next_look_ns;
    struct queue_client client = {.waited_ns = 0};
    if (admission->wait.listener->family == AF_UNIX ||
        (lateness_target() == LIMIT_OFF &&
         !due_claim(&next_look_ns, monotonic_ns(), WAIT_SAMPLE_EVERY_NS)))
        return client;
    client = lateness_ask(fd);
    histogram_add(&service.segment->accept_wait, client.waited_ns);
    return client;
}

static bool is_late(const struct admission *admission, struct queue_client client)
{
    uint64_t target = lateness_target();
    return target != LIMIT_OFF &&
           lateness_sheds(admission->wait.fd, admission->wait.listener, client, target);
}

/* Accepts one. `reserved` tells whether there is a slot for it, or it came to be refused. */
static int accept_one(struct admission *admission, bool reserved)
{
    struct sockaddr_storage from = {0};
    socklen_t length = sizeof from;
    struct listener *listener = admission->wait.listener;
    uint32_t peer;

    int fd = accept_real(admission->wait.fd, (struct sockaddr *)&from, &length, admission->flags);
    if (fd < 0) {
        int saved = errno;
        if (reserved)
            give_slot_back(admission);
        if (saved == EAGAIN && listener->shared)
            atomic_store_explicit(&listener->shared->crowded, 0, memory_order_relaxed);
        errno = saved;
        return saved == EAGAIN ? NOBODY : -1;
    }
    if (is_exempt(&from)) {
        if (reserved)
            give_slot_back(admission);
        listeners_ungate_accepted(listener, fd);
        descriptor_put(fd, 0);
        service_count(COUNTER_EXEMPTED, 1);
        hand_out_address(admission, &from, length);
        return fd;
    }
    struct peer_key key = peers_key(&from);
    struct queue_client client = ask_about(admission, fd);
    if (is_late(admission, client)) {
        if (reserved)
            give_slot_back(admission);
        return refuse(admission, fd, refusal(), true);
    }
    if (!reserved) {
        if (when_full() != WHEN_FULL_HOLD)
            return refuse(admission, fd, when_full(), false);
        return park(admission, fd, key, client.waited_ns);
    }
    if (!peers_reserve(key, true, &peer))
        return turn_away_peer(admission, fd, key, client.waited_ns);
    listeners_ungate_accepted(listener, fd);
    connections_commit(fd, listener->family, listener->auditable, peer);
    hand_out_address(admission, &from, length);
    return fd;
}

/* No slot: holds, or accepts one that is to be refused, exempt or parked. */
static int without_slot(struct admission *admission, enum reservation why)
{
    if (why == RESERVATION_PAUSED)
        return MUST_WAIT;
    if (why == RESERVATION_FULL && !connections_full_for_certain())
        return connections_room() == RESERVED ? TRY_AGAIN : MUST_WAIT;
    if (when_full() == WHEN_FULL_HOLD && !takes_to_look_at(admission->wait.listener))
        return MUST_WAIT;
    return accept_one(admission, false);
}

/* With `client`, somebody waits in the kernel's queue: accept will not block. */
static int attempt_with(struct admission *admission, bool client)
{
    enum reservation room = connections_reserve();
    if (room != RESERVED)
        return client ? without_slot(admission, room) : NOBODY;
    int fd = waiting_room_occupied() ? admit_parked(admission) : -1;
    if (fd >= 0)
        return fd;
    if (client)
        return accept_one(admission, true);
    give_slot_back(admission);
    return NOBODY;
}

static int attempt(struct admission *admission)
{
    int cancel_state = PTHREAD_CANCEL_ENABLE, outcome;
    bool client = true;

    if (!admission->blocking && admission->refusals >= REFUSALS_PER_CALL)
        return MUST_WAIT;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
    if (admission->blocking && !lock_listener(admission->wait.listener)) {
        pthread_setcancelstate(cancel_state, NULL);
        return MUST_WAIT;
    }
    for (unsigned refused = 0;; refused++) {
        /* A token of accept-rate is not to be taken, even for a moment, when there is nobody. */
        if (admission->blocking || segment_limit(service.segment, LIMIT_ACCEPT_RATE) != LIMIT_OFF)
            client = client_waits(admission->wait.fd);
        outcome = client || waiting_room_occupied() ? attempt_with(admission, client) : NOBODY;
        if (!admission->blocking || outcome != TRY_AGAIN || refused >= REFUSALS_PER_TURN)
            break;
        keep_listener(admission->wait.listener);
    }
    if (admission->blocking)
        unlock_listener(admission->wait.listener);
    wake_if_owed(admission);
    pthread_setcancelstate(cancel_state, NULL);
    return outcome;
}

/* --- accepting --- */

static int fail(int error)
{
    errno = error;
    return -1;
}

static int nobody_now(struct admission *admission, int outcome)
{
    if (outcome == MUST_WAIT && accept_wait_broken(admission->wait.fd))
        return accept_real(admission->wait.fd, admission->address, admission->length,
                           admission->flags);
    if (outcome == MUST_WAIT) {
        admission_holds(admission->wait.listener, admission->wait.fd);
        admission_attend();
        readiness_hold(admission->wait.fd);
        if (++admission_idle_accepts > IDLE_ACCEPTS) {
            struct timespec nap = {.tv_sec = 0, .tv_nsec = IDLE_NAP_NS};
            audit_run();
            kernel_call(SYS_nanosleep, &nap, NULL);
        }
    }
    return fail(EAGAIN);
}

static int accept_nonblocking(struct admission *admission)
{
    int outcome;
    while ((outcome = attempt(admission)) == TRY_AGAIN)
        ;
    if (outcome == MUST_WAIT || outcome == NOBODY)
        return nobody_now(admission, outcome);
    admission_idle_accepts = 0;
    return outcome;
}

static int accept_until_served(struct admission *admission)
{
    for (;;) {
        libc_test_cancel();
        if (!admission_active())
            return REAL(accept4)(admission->wait.fd, admission->address, admission->length,
                                 admission->flags);
        if (!admission_pending(admission->wait.listener) &&
            !accept_wait_for_client(&admission->wait))
            return -1;
        int outcome = attempt(admission);
        if (outcome == MUST_WAIT && accept_wait_broken(admission->wait.fd))
            return accept_real(admission->wait.fd, admission->address, admission->length,
                               admission->flags);
        if (outcome == MUST_WAIT && !accept_wait_for_slot(&admission->wait))
            return -1;
        if (outcome >= -1)
            return outcome;
    }
}

static int accept_blocking(struct admission *admission)
{
    struct libc_cleanup cleanup;
    libc_cleanup_push(&cleanup, signals_let_in_at_end, &admission->wait.held);
    int accepted = accept_until_served(admission);
    libc_cleanup_pop(&cleanup, true);
    return accepted;
}

int admission_accept(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
    int saved = errno;

    if (!admission_active() || in_vfork_child)
        return REAL(accept4)(fd, address, length, flags);
    /* What the kernel would refuse at once, it refuses: bad flags, a bad length. (musl 1.2.3 calls
     * accept when it hears of bad flags, and lets somebody in whom nobody counted.) */
    if (flags & ~(SOCK_CLOEXEC | SOCK_NONBLOCK))
        return (int)kernel_call(SYS_accept4, fd, address, length, flags);
    if (address && (!length || (int)*length < 0))
        return REAL(accept4)(fd, address, length, flags);
    struct listener *listener = listeners_at(fd);
    if (!listener)
        return REAL(accept4)(fd, address, length, flags);
    struct admission admission = {
        .wait = {.fd = fd, .listener = listener, .deadline_ns = ACCEPT_WAIT_FOREVER},
        .flags = flags,
        .address = address,
        .length = length,
        .blocking = !atomic_load(&listener->nonblocking),
    };
    uint64_t timeout = atomic_load(&listener->receive_timeout_ns);
    if (timeout)
        admission.wait.deadline_ns = monotonic_ns() + timeout;
    admission_attend();
    int accepted = admission.blocking ? accept_blocking(&admission)
                                      : (libc_test_cancel(), accept_nonblocking(&admission));
    if (accepted >= 0)
        errno = saved;
    if (admission.refusals) {
        saved = errno;
        bill_refusals(&admission);
        errno = saved;
    }
    return accepted;
}
