/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "accept/newcomers.h"

#include "accept/connections.h"
#include "accept/exemption.h"
#include "accept/flood.h"
#include "accept/lateness.h"
#include "accept/listener_gates.h"
#include "accept/peers.h"
#include "accept/shedding.h"
#include "accept/since_wait.h"
#include "accept/waiting_room.h"
#include "base/due.h"
#include "base/real.h"
#include "base/trace.h"
#include "process/descriptors.h"
#include "process/service.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/syscall.h>

#define MILLISECOND UINT64_C(1000000)
#define REFUSALS_PER_BILL 16
#define WAIT_SAMPLE_EVERY_NS (10 * MILLISECOND) /* of accept waits, without queue-delay */

enum when_full newcomers_when_full(void)
{
    return (enum when_full)segment_limit(service.segment, LIMIT_WHEN_FULL);
}

/* How those are turned away that hold keeps waiting for too long. */
static enum when_full refusal(void)
{
    return newcomers_when_full() == WHEN_FULL_RESET ? WHEN_FULL_RESET : WHEN_FULL_BUSY;
}

/* --- who waits in the waiting room --- */

static void shed_parked_at(uint32_t index, struct listener *listener, uint64_t target)
{
    uint64_t since;
    while ((since = waiting_room_since(index)) > 0 &&
           lateness_sheds(-1, listener, (struct queue_client){monotonic_ns() - since, false},
                          target)) {
        int fd = waiting_room_take_first(index);
        if (fd >= 0)
            shedding_refuse(fd, SHEDDING_KNOWN, refusal(), true, true);
    }
}

static void refuse_parked_at(uint32_t index)
{
    int fd;
    while ((fd = waiting_room_take_first(index)) >= 0)
        shedding_refuse(fd, SHEDDING_KNOWN, newcomers_when_full(), false, true);
}

void newcomers_attend(void)
{
    enum reservation room = reservation_room();
    uint64_t target = lateness_target();
    bool holds = newcomers_when_full() == WHEN_FULL_HOLD || room != RESERVATION_FULL;
    if (room == RESERVED || (holds && target == LIMIT_OFF))
        return;
    for (uint32_t i = 0; i < LISTENERS_MAX; i++) {
        struct listener *listener = waiting_room_count(i) ? listeners_number(i) : NULL;
        if (listener && !holds)
            refuse_parked_at(i);
        else if (listener)
            shed_parked_at(i, listener, target);
    }
}

static struct accept_outcome admitted(int fd)
{
    return (struct accept_outcome){ACCEPT_ADMITTED, fd};
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

/* It may have been accepted under other flags than this accept's; unparked with FD_CLOEXEC. */
static struct sockaddr_storage hand_out_parked(const struct admission *admission, int fd)
{
    struct sockaddr_storage from = {0};
    socklen_t length = sizeof from;
    if (!(admission->flags & SOCK_CLOEXEC))
        kernel_call(SYS_fcntl, fd, F_SETFD, 0);
    kernel_call(SYS_fcntl, fd, F_SETFL, admission->flags & SOCK_NONBLOCK ? O_NONBLOCK : 0);
    if (kernel_call(SYS_getpeername, fd, &from, &length) < 0)
        length = 0; /* the client has gone; accept(2) hands such connections out, too */
    hand_out_address(admission, &from, length);
    listener_gates_ungate_accepted(admission->wait.listener, fd);
    return from;
}

/* accept(2): on Linux nothing of the listener's flags is inherited. */
static struct connection_origin origin_of(const struct admission *admission)
{
    return (struct connection_origin){
        .family = admission->wait.listener->family,
        .status = admission->flags & SOCK_NONBLOCK ? O_NONBLOCK : 0,
    };
}

/* Who is exempt by address is not counted. Who came in for the sake of one request has a slot above
 * the ceilings: what else it asks on this connection is not exempt. */
static void track_exempt(const struct admission *admission, int fd,
                         const struct sockaddr_storage *from)
{
    if (!exemption_by_address(from))
        connections_count(fd, admission->wait.listener->family);
}

struct accept_outcome newcomers_admit_parked(struct admission *admission)
{
    struct listener *listener = admission->wait.listener;
    uint32_t index = listeners_index(listener), peer;
    uint64_t target = lateness_target();
    if (target != LIMIT_OFF)
        shed_parked_at(index, listener, target);
    int fd = waiting_room_next(index, &peer);
    if (fd < 0)
        return accept_without(ACCEPT_NOBODY);
    hand_out_parked(admission, fd);
    admission->reserved = false;
    connections_commit(fd, origin_of(admission), listener->auditable, peer);
    trace(TRACE_ACCEPT, "commit-parked", fd, "listener", (uint64_t)admission->wait.fd,
          "total-conns", gauge_count(&service.segment->conns));
    return admitted(fd);
}

struct accept_outcome newcomers_admit_exempt(const struct admission *admission)
{
    int fd = waiting_room_next_exempt(listeners_index(admission->wait.listener));
    if (fd < 0)
        return accept_without(ACCEPT_NOBODY);
    descriptor_put(fd, 0);
    struct sockaddr_storage from = hand_out_parked(admission, fd);
    track_exempt(admission, fd, &from);
    return admitted(fd);
}

/* --- turning away --- */

bool newcomers_attended(const struct admission *admission)
{
    return admission->screening || admission->blocking || since_wait_comes_back();
}

void newcomers_bill(struct admission *admission)
{
    uint64_t spent = spent_ns();
    if (admission->billed_ns)
        flood_refused(spent - admission->billed_ns);
    admission->billed_ns = spent;
}

static struct accept_outcome refuse(struct admission *admission, int fd, enum when_full how,
                                    bool late)
{
    if (admission->refusals++ % REFUSALS_PER_BILL == 0)
        newcomers_bill(admission);
    listeners_note_refusal(admission->wait.listener);
    trace(TRACE_ACCEPT, late ? "refuse-late" : "refuse", fd, "listener",
          (uint64_t)admission->wait.fd, "refusals", admission->refusals);
    shedding_refuse(fd, listeners_index(admission->wait.listener), how, late,
                    newcomers_attended(admission));
    return accept_without(ACCEPT_TURNED_AWAY);
}

/* In the waiting room, or where that is full away. `end` is what that comes to. */
static struct accept_outcome park(struct admission *admission, int fd, struct guest guest,
                                  enum accept_end end)
{
    if (!waiting_room_park(listeners_index(admission->wait.listener), fd, guest))
        return refuse(admission, fd, WHEN_FULL_RESET, false);
    return accept_without(end);
}

/* The one way by which a slot goes back. With `wakes`, somebody else may have it. */
static void give_slot_back(struct admission *admission, bool wakes)
{
    if (!admission->reserved)
        return;
    admission->reserved = false;
    if (wakes && !admission->blocking) {
        reservation_cancel();
    } else {
        reservation_cancel_quietly();
        admission->owes_wake |= wakes;
    }
}

void newcomers_give_slot_back(struct admission *admission)
{
    give_slot_back(admission, true);
}

void newcomers_wake(struct admission *admission)
{
    if (service_active())
        segment_wake(service.segment, false);
    admission->owes_wake = false;
}

/* --- taking one out of the kernel's queue --- */

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

/*
 * The kernel's accept, which must not be left half way: cancellation waits until it is accounted.
 * Where the program's descriptors have run out, it shall not be for those that the shim has.
 */
static int accept_real(const struct admission *admission, struct sockaddr_storage *from,
                       socklen_t *length)
{
    int fd;
    do {
        *length = sizeof *from;
        fd = (int)kernel_call(SYS_accept4, admission->wait.fd, from, length, admission->flags);
    } while (fd < 0 && errno == EMFILE && (shedding_give_back() || waiting_room_give_back()));
    return fd;
}

/* --- what becomes of who was taken out --- */

/* In the order in which it is asked. */
enum fate {
    FATE_EXEMPT,   /* let in, uncounted */
    FATE_LATE,     /* waited too long */
    FATE_FULL,     /* there is no slot; he came to be turned away */
    FATE_PEER,     /* his address has as many connections as it may have */
    FATE_PROMISED, /* welcome, when the program asks */
    FATE_ADMITTED,
};

struct newcomer {
    int fd;
    socklen_t length;
    struct sockaddr_storage from;
    struct peer_key key;
    struct queue_client client;
    uint32_t peer; /* of FATE_ADMITTED: the place under peer-conns */
};

static enum fate judge(const struct admission *admission, struct newcomer *newcomer)
{
    newcomer->key = peer_table_key(&newcomer->from);
    if (exemption_by_address(&newcomer->from))
        return FATE_EXEMPT;
    newcomer->client = ask_about(admission, newcomer->fd);
    if (is_late(admission, newcomer->client))
        return FATE_LATE;
    if (!admission->reserved)
        return FATE_FULL;
    if (!peers_reserve(newcomer->key, true, &newcomer->peer))
        return FATE_PEER;
    if (!admission->screening)
        return FATE_ADMITTED;
    peers_cancel(newcomer->peer);
    return FATE_PROMISED;
}

static struct accept_outcome let_in_exempt(struct admission *admission,
                                           const struct newcomer *newcomer)
{
    service_count(COUNTER_EXEMPTED, 1);
    trace(TRACE_ACCEPT, "exempt", newcomer->fd, NULL, 0, NULL, 0);
    if (admission->screening)
        return park(admission, newcomer->fd, (struct guest){.kind = GUEST_EXEMPT}, ACCEPT_PROMISED);
    listener_gates_ungate_accepted(admission->wait.listener, newcomer->fd);
    descriptor_put(newcomer->fd, 0);
    track_exempt(admission, newcomer->fd, &newcomer->from);
    hand_out_address(admission, &newcomer->from, newcomer->length);
    return admitted(newcomer->fd);
}

/* Others must not wait behind this one, so it cannot stay in the kernel's queue. */
static struct accept_outcome hold(struct admission *admission, const struct newcomer *newcomer)
{
    service_count(COUNTER_HELD, 1);
    listeners_note_refusal(admission->wait.listener);
    struct guest guest = {.key = newcomer->key,
                          .kind = GUEST_HELD,
                          .since_ns = monotonic_ns() - newcomer->client.waited_ns};
    return park(admission, newcomer->fd, guest, ACCEPT_TURNED_AWAY);
}

/* There is no place, or he is late: unless the request is exempt he is refused, or held. */
static struct accept_outcome turn_away(struct admission *admission, const struct newcomer *newcomer,
                                       bool late)
{
    enum when_full how = late ? refusal() : newcomers_when_full();
    enum busy_recognition exempt = exemption_by_request(newcomer->fd);
    if (exempt == BUSY_RECOGNISED)
        return let_in_exempt(admission, newcomer);
    if (how != WHEN_FULL_HOLD || exempt == BUSY_UNDECIDED)
        return refuse(admission, newcomer->fd, how, late);
    return hold(admission, newcomer);
}

static struct accept_outcome turn_away_peer(struct admission *admission,
                                            const struct newcomer *newcomer)
{
    trace(TRACE_ACCEPT, "cancel-peer-conns", newcomer->fd, "waited_us",
          newcomer->client.waited_ns / 1000, NULL, 0);
    if (newcomers_when_full() != WHEN_FULL_HOLD)
        return refuse(admission, newcomer->fd, newcomers_when_full(), false);
    return hold(admission, newcomer);
}

static struct accept_outcome commit(struct admission *admission, const struct newcomer *newcomer)
{
    admission->reserved = false;
    listener_gates_ungate_accepted(admission->wait.listener, newcomer->fd);
    connections_commit(newcomer->fd, origin_of(admission), admission->wait.listener->auditable,
                       newcomer->peer);
    trace(TRACE_ACCEPT, "commit", newcomer->fd, "listener", (uint64_t)admission->wait.fd,
          "total-conns", gauge_count(&service.segment->conns));
    hand_out_address(admission, &newcomer->from, newcomer->length);
    return admitted(newcomer->fd);
}

static struct accept_outcome nobody_came(struct admission *admission)
{
    const struct listener *listener = admission->wait.listener;
    int saved = errno;
    give_slot_back(admission, true);
    errno = saved;
    if (saved != EAGAIN)
        return accept_without(ACCEPT_FAILED);
    if (listener->shared)
        atomic_store_explicit(&listener->shared->queue.crowded, 0, memory_order_relaxed);
    return accept_without(ACCEPT_NOBODY);
}

struct accept_outcome newcomers_take(struct admission *admission)
{
    struct newcomer newcomer; /* judge fills in the rest, for those whom it concerns */
    newcomer.from.ss_family = AF_UNSPEC;
    newcomer.fd = accept_real(admission, &newcomer.from, &newcomer.length);
    if (newcomer.fd < 0)
        return nobody_came(admission);
    enum fate fate = judge(admission, &newcomer);
    if (fate == FATE_ADMITTED)
        return commit(admission, &newcomer);
    /* Before anything else, since it takes time to turn somebody away. Who was promised a slot
     * comes back for it in a moment: nobody is woken. */
    give_slot_back(admission, fate != FATE_PROMISED);
    if (fate == FATE_EXEMPT)
        return let_in_exempt(admission, &newcomer);
    if (fate == FATE_PROMISED)
        return park(admission, newcomer.fd,
                    (struct guest){.key = newcomer.key, .kind = GUEST_PROMISED}, ACCEPT_PROMISED);
    if (fate == FATE_PEER)
        return turn_away_peer(admission, &newcomer);
    return turn_away(admission, &newcomer, fate == FATE_LATE);
}
