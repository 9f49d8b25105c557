/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "accept/accepting.h"

#include "accept/accept_wait.h"
#include "accept/admission.h"
#include "accept/audit.h"
#include "accept/connections.h"
#include "accept/exemption.h"
#include "accept/lateness.h"
#include "accept/newcomers.h"
#include "accept/since_wait.h"
#include "accept/turns.h"
#include "accept/waiting_room.h"
#include "base/libc.h"
#include "base/memory.h"
#include "base/real.h"
#include "base/sandbox.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MILLISECOND UINT64_C(1000000)
/* Refusals that one thread makes before it lets another have the listener. */
#define REFUSALS_PER_TURN 16
/* Refusals in one call of a non-blocking accept, or of a wait, so that the program's own clients
 * get their turn. */
#define REFUSALS_PER_CALL 64
/* So many EAGAINs without a wait in between are a loop that the shim cannot see into. */
#define IDLE_ACCEPTS 16
#define IDLE_NAP_NS (2 * MILLISECOND)

/* No slot: holds, or accepts one that is to be refused, exempt or parked. */
static struct accept_outcome without_slot(struct admission *admission, enum reservation why)
{
    if (why == RESERVATION_PAUSED)
        return accept_without(ACCEPT_FULL);
    if (why == RESERVATION_FULL && !reservation_full_for_certain())
        return accept_without(reservation_room() == RESERVED ? ACCEPT_TURNED_AWAY : ACCEPT_FULL);
    if (newcomers_when_full() == WHEN_FULL_HOLD &&
        !admission_takes_to_look_at(admission->wait.listener))
        return accept_without(ACCEPT_FULL);
    if (!newcomers_attended(admission) && admission_report_again(admission->wait.fd))
        return accept_without(ACCEPT_LEFT_TO_WAITS);
    return newcomers_take(admission);
}

/* With `client`, somebody waits in the kernel's queue: accept will not block. */
static struct accept_outcome attempt_with(struct admission *admission, bool client)
{
    struct accept_outcome outcome = accept_without(ACCEPT_NOBODY);
    bool parked = waiting_room_occupied() && !admission->screening;
    if (parked && (outcome = newcomers_admit_exempt(admission)).end != ACCEPT_NOBODY)
        return outcome;
    enum reservation room = reservation_make();
    admission->reserved = room == RESERVED;
    if (!admission->reserved)
        return client ? without_slot(admission, room) : outcome;
    if (parked)
        outcome = newcomers_admit_parked(admission);
    if (client && outcome.end == ACCEPT_NOBODY)
        return newcomers_take(admission);
    newcomers_give_slot_back(admission);
    return outcome;
}

static struct accept_outcome attempt(struct admission *admission)
{
    int cancel_state = PTHREAD_CANCEL_ENABLE;
    struct accept_outcome outcome;
    bool client = true;
    struct turn turn;

    if (!admission->blocking && admission->refusals >= REFUSALS_PER_CALL)
        return accept_without(ACCEPT_FULL);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
    if (admission->blocking &&
        !turns_take(admission->wait.listener, admission->wait.fd, admission_lets_in, &turn)) {
        pthread_setcancelstate(cancel_state, NULL);
        return accept_without(ACCEPT_FULL);
    }
    for (unsigned refused = 0;; refused++) {
        /* A token of accept-rate is not to be taken, even for a moment, when there is nobody. */
        if (admission->blocking || segment_limit(service.segment, LIMIT_ACCEPT_RATE) != LIMIT_OFF)
            client = admission_client_waits(admission->wait.fd);
        outcome = client || waiting_room_occupied() ? attempt_with(admission, client)
                                                    : accept_without(ACCEPT_NOBODY);
        if (!admission->blocking || outcome.end != ACCEPT_TURNED_AWAY ||
            refused >= REFUSALS_PER_TURN || !turns_keep(&turn))
            break;
    }
    if (admission->blocking)
        turns_give(&turn, admission->wait.fd);
    if (admission->owes_wake)
        newcomers_wake(admission);
    pthread_setcancelstate(cancel_state, NULL);
    return outcome;
}

/* --- before the program is told --- */

/* Whether the next in the kernel's queue may be turned away though there is a slot. What peer-conns
 * says is known only of who was accepted: a program whose accept blocks is told of nobody unseen,
 * others while somebody was turned away lately. */
static bool doubtful(const struct listener *listener)
{
    if (listeners_welcome_all())
        return false;
    if (lateness_target() != LIMIT_OFF && lateness_suspects(listener))
        return true;
    return segment_limit(service.segment, LIMIT_PEER_CONNS) != LIMIT_OFF &&
           (!atomic_load(&listener->nonblocking) || listeners_refused_lately(listener));
}

/* A process that has accepted nobody may only watch: who is promised to it would wait for ever. */
static bool may_promise(const struct listener *listener)
{
    return atomic_load_explicit(&listener->accepts, memory_order_relaxed);
}

/* What a wait makes of an attempt that was made for it. */
static const enum report reports[ACCEPT_ENDS] = {
    [ACCEPT_ADMITTED] = REPORT_NOW,      [ACCEPT_FAILED] = REPORT_NOW,
    [ACCEPT_TURNED_AWAY] = REPORT_LATER, [ACCEPT_FULL] = REPORT_LATER,
    [ACCEPT_NOBODY] = REPORT_NOBODY,     [ACCEPT_PROMISED] = REPORT_NOW,
    [ACCEPT_LEFT_TO_WAITS] = REPORT_NOW,
};

static enum report turn_away_until_welcome(struct listener *listener, int fd)
{
    struct admission admission = {
        .wait = {.fd = fd, .listener = listener, .deadline_ns = ACCEPT_WAIT_FOREVER},
        .flags = SOCK_CLOEXEC,
        .blocking = !atomic_load(&listener->nonblocking),
        .screening = true,
    };
    struct accept_outcome outcome;
    int saved = errno;
    do {
        outcome = attempt(&admission);
    } while (outcome.end == ACCEPT_TURNED_AWAY && admission.refusals < REFUSALS_PER_CALL);
    if (admission.refusals)
        newcomers_bill(&admission);
    errno = saved;
    return reports[outcome.end];
}

enum report accepting_screen(struct listener *listener, int fd)
{
    listeners_make_known(listener, fd);
    if (!service_active() || admission_pending(listener))
        return REPORT_NOW;
    if (!admission_visible(listener)) {
        admission_holds(listener, fd);
        return REPORT_LATER;
    }
    bool room = reservation_room() == RESERVED;
    bool promises = room || exemption_possible() || newcomers_when_full() == WHEN_FULL_HOLD;
    if ((room && !doubtful(listener)) || (promises && !may_promise(listener)))
        return REPORT_NOW;
    return turn_away_until_welcome(listener, fd);
}

/* --- accepting --- */

static int fail(int error)
{
    errno = error;
    return -1;
}

static int accept_broken(const struct admission *admission)
{
    return (int)kernel_call(SYS_accept4, admission->wait.fd, admission->address, admission->length,
                            admission->flags);
}

static int nobody_now(struct admission *admission, bool full)
{
    if (full && accept_wait_broken(admission->wait.fd))
        return accept_broken(admission);
    if (full) {
        admission_holds(admission->wait.listener, admission->wait.fd);
        admission_attend();
        admission_hold(admission->wait.fd);
        if (since_wait_found_no_slot() > IDLE_ACCEPTS) {
            struct timespec nap = {.tv_sec = 0, .tv_nsec = IDLE_NAP_NS};
            audit_run();
            kernel_call(SYS_nanosleep, &nap, NULL);
        }
    }
    return fail(EAGAIN);
}

static int accept_nonblocking(struct admission *admission)
{
    struct accept_outcome outcome;
    while ((outcome = attempt(admission)).end == ACCEPT_TURNED_AWAY)
        ;
    if (outcome.end > ACCEPT_FAILED)
        return nobody_now(admission, outcome.end == ACCEPT_FULL);
    since_wait_found_a_slot();
    return outcome.fd;
}

/*
 * The thread came to accept because a wait of its own reported somebody. When there is no slot for
 * him any more, or he was turned away, it has other clients to go on with, and must not be left
 * waiting where the kernel's accept would have found him. POSIX knows no EAGAIN from a listener
 * that blocks. ECONNABORTED it knows, as the word for a client who is gone between the report and
 * the accept: apache's prefork goes on after it, and ends the child after EAGAIN; libevent, libuv
 * and sshd go on after either; vsftpd, xinetd and tcpserver after any error; EINTR would be tried
 * again at once, by python itself, and wait.
 */
static bool reported_by_a_wait(void)
{
    return since_wait_first_accept() &&
           atomic_load_explicit(&admission_waited_for, memory_order_relaxed);
}

/* The program's own call. In a sandbox what it accepts is counted all the same. */
static int pass_on(int fd, struct sockaddr *address, socklen_t *length, int flags, bool plain)
{
    int accepted =
        plain ? REAL(accept)(fd, address, length) : REAL(accept4)(fd, address, length, flags);
    if (accepted < 0 || !service_active() || in_vfork_child || sandbox_serves(SANDBOX_CEILINGS))
        return accepted;
    int saved = errno;
    const struct listener *listener = listeners_at(fd);
    if (listener)
        connections_count(accepted, listener->family);
    errno = saved;
    return accepted;
}

/* In a process that serves one client at a time, as those of a prefork server, nobody waits for the
 * thread: it is the first to have a slot that is freed when it waits in accept. */
static bool anybody_inside(void)
{
    return gauge_count(&service_self()->conns) > 0;
}

static int accept_until_served(struct admission *admission)
{
    bool reported = reported_by_a_wait(), told = reported;
    for (;; told = false) {
        libc_test_cancel();
        if (!admission_active())
            return pass_on(admission->wait.fd, admission->address, admission->length,
                           admission->flags, admission->plain);
        bool pending = admission_pending(admission->wait.listener);
        if (!pending && reported && listeners_refused_lately(admission->wait.listener) &&
            !admission_client_waits(admission->wait.fd))
            return fail(ECONNABORTED);
        if (told)
            signals_hold_handled(&admission->wait.held);
        else if (!pending && !accept_wait_for_client(&admission->wait))
            return -1;
        struct accept_outcome outcome = attempt(admission);
        bool full = outcome.end == ACCEPT_FULL;
        if (full && accept_wait_broken(admission->wait.fd))
            return accept_broken(admission);
        if (full && reported && anybody_inside())
            return fail(ECONNABORTED);
        if (full && !accept_wait_for_slot(&admission->wait))
            return -1;
        if (outcome.end <= ACCEPT_FAILED)
            return outcome.fd;
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

/* Whether the client's address can be handed out. Where it cannot, the kernel takes a client, and
 * says EFAULT: accept(2). */
static bool address_there(const struct listener *listener, const struct sockaddr *address,
                          const socklen_t *length)
{
    socklen_t most = listener->family == AF_INET    ? sizeof(struct sockaddr_in)
                     : listener->family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                                    : sizeof(sa_family_t);
    if (!memory_there(MEMORY_RESULT, length, sizeof *length) || (int)*length < 0)
        return false;
    return memory_there(MEMORY_ADDRESS, address, *length < most ? *length : most);
}

static int accept_under_limits(int fd, struct sockaddr *address, socklen_t *length, int flags,
                               bool plain)
{
    int saved = errno;

    if (!admission_active() || in_vfork_child)
        return pass_on(fd, address, length, flags, plain);
    /* What the kernel would refuse at once, it refuses: bad flags, a bad length. (musl 1.2.3 calls
     * accept when it hears of bad flags, and lets somebody in whom nobody counted.) */
    if (flags & ~(SOCK_CLOEXEC | SOCK_NONBLOCK))
        return (int)REAL(syscall)(SYS_accept4, fd, address, length, flags);
    struct listener *listener = listeners_at(fd);
    if (!listener || (address && !address_there(listener, address, length)))
        return pass_on(fd, address, length, flags, plain);
    struct admission admission = {
        .wait = {.fd = fd, .listener = listener, .deadline_ns = ACCEPT_WAIT_FOREVER},
        .flags = flags,
        .plain = plain,
        .address = address,
        .length = length,
        .blocking = !atomic_load(&listener->nonblocking),
    };
    atomic_store_explicit(&listener->accepts, 1, memory_order_relaxed);
    uint64_t timeout = atomic_load(&listener->receive_timeout_ns);
    if (timeout)
        admission.wait.deadline_ns = monotonic_ns() + timeout;
    admission_attend();
    int accepted = admission.blocking ? accept_blocking(&admission)
                                      : (libc_test_cancel(), accept_nonblocking(&admission));
    since_wait_accepted();
    if (accepted >= 0)
        errno = saved;
    if (admission.refusals) {
        saved = errno;
        newcomers_bill(&admission);
        errno = saved;
    }
    return accepted;
}

int accepting_accept(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
    return accept_under_limits(fd, address, length, flags, false);
}

int accepting_accept_plain(int fd, struct sockaddr *address, socklen_t *length)
{
    return accept_under_limits(fd, address, length, 0, true);
}
