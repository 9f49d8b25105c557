/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "listeners.h"

#include "address.h"
#include "connections.h"
#include "descriptors.h"
#include "flood.h"
#include "gate.h"
#include "growth.h"
#include "lateness.h"
#include "processes.h"
#include "readiness.h"
#include "real.h"
#include "service.h"
#include "sockdiag.h"
#include "waiting_room.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>

#define TELL_EVERY_NS UINT64_C(1000000000)
#define LATELY_NS UINT64_C(1000000000)
/* Among the reasons not to welcome everybody: limits that concern single clients. */
#define SINGLE_CLIENTS (1U << 16)

static struct listener listeners[LISTENERS_MAX];
static _Atomic uint32_t listeners_end;
static _Atomic uint32_t holding_listeners;
static _Atomic uint32_t reasons; /* the same, and SINGLE_CLIENTS */
static _Atomic uint64_t seen_configuration = UINT64_MAX;

static int option(int fd, int name)
{
    int value = 0;
    socklen_t length = sizeof value;
    return kernel_call(SYS_getsockopt, fd, SOL_SOCKET, name, &value, &length) == 0 ? value : -1;
}

static struct segment_listener *share(int fd, uint64_t cookie)
{
    struct segment *segment = service.segment;
    struct segment_listener *entry = NULL;
    char address[SEGMENT_ADDRESS_MAX];
    uint32_t used = atomic_load(&segment->listeners_used);

    for (uint32_t i = 0; i < used && i < SEGMENT_LISTENERS; i++)
        if (atomic_load(&segment->listener[i].cookie) == cookie)
            return &segment->listener[i];
    for (uint32_t i = 0; !entry && i < SEGMENT_LISTENERS; i++) {
        struct segment_listener *candidate = &segment->listener[i];
        if (!growth_reach(segment, GROWING_LISTENERS, i))
            break;
        uint64_t before = atomic_load(&candidate->cookie);
        if (before && processes_judge(atomic_load(&candidate->keeper)) != LIVENESS_GONE)
            continue;
        if (!atomic_compare_exchange_strong(&candidate->cookie, &before, cookie))
            continue;
        entry = candidate;
        while (used <= i && !atomic_compare_exchange_weak(&segment->listeners_used, &used, i + 1))
            ;
    }
    if (!entry) {
        service_event(EVENT_TABLE_FULL, SEGMENT_LISTENERS, "listeners");
        return NULL;
    }
    address_of(fd, false, address, sizeof address);
    words_store(entry->address, address, sizeof address);
    atomic_store(&entry->gated, 0);
    atomic_store(&entry->gated_once, 0);
    atomic_store(&entry->crowded, 0);
    atomic_store(&entry->late_from_ns, 0);
    atomic_store(&entry->standing_until_ns, 0);
    atomic_store(&entry->lock, 0);
    return entry;
}

bool listeners_note_holding(struct listener *listener, bool holding)
{
    int before = !holding;
    if (atomic_load_explicit(&listener->holding, memory_order_relaxed) == holding ||
        !atomic_compare_exchange_strong(&listener->holding, &before, holding))
        return false;
    atomic_store(&listener->holding_since_ns, holding ? monotonic_ns() : 0);
    atomic_fetch_add(&holding_listeners, holding ? 1U : UINT32_MAX);
    atomic_fetch_add(&reasons, holding ? 1U : UINT32_MAX);
    return true;
}

bool listeners_holding(void)
{
    return atomic_load_explicit(&holding_listeners, memory_order_relaxed) != 0;
}

bool listeners_welcome_all(void)
{
    return atomic_load_explicit(&reasons, memory_order_relaxed) == 0;
}

void listeners_note_refusal(struct listener *listener)
{
    atomic_store_explicit(&listener->refused_ns, monotonic_ns(), memory_order_relaxed);
}

bool listeners_refused_lately(const struct listener *listener)
{
    uint64_t refused = atomic_load_explicit(&listener->refused_ns, memory_order_relaxed);
    return refused && monotonic_ns() - refused < LATELY_NS;
}

int listeners_learn(int fd)
{
    if ((unsigned)fd >= DESCRIPTORS_MAX || option(fd, SO_ACCEPTCONN) != 1 ||
        option(fd, SO_TYPE) != SOCK_STREAM)
        return -1;
    int family = option(fd, SO_DOMAIN);
    if (family != AF_INET && family != AF_INET6 && family != AF_UNIX)
        return -1;
    uint64_t cookie = sockdiag_identity(fd);
    for (uint32_t i = 0; i < LISTENERS_MAX; i++) {
        struct listener *listener = &listeners[i];
        uint32_t none = 0;
        if (!atomic_compare_exchange_strong(&listener->references, &none, 1))
            continue;
        listener->family = family;
        listener->auditable = family == AF_UNIX || option(fd, SO_PROTOCOL) == IPPROTO_TCP;
        listener->cookie = cookie;
        listener->asked_backlog = -1;
        listener->deals_out = option(fd, SO_REUSEPORT) == 1;
        listener->shared = share(fd, cookie);
        if (listener->shared)
            atomic_store(&listener->shared->keeper, processes_self());
        atomic_store(&listener->own_filter, gate_is_foreign(fd));
        atomic_store(&listener->seen_gated, 0);
        atomic_store(&listener->refused_ns, 0);
        atomic_store(&listener->accepts, 0);
        listeners_note_holding(listener, false);
        uint32_t end = atomic_load(&listeners_end);
        while (end <= i && !atomic_compare_exchange_weak(&listeners_end, &end, i + 1))
            ;
        descriptor_put(fd, descriptor_make(DESCRIPTOR_LISTENER, i, 0));
        listeners_reread(fd);
        if (segment_limit(service.segment, LIMIT_QUEUE) != LIMIT_OFF)
            kernel_call(SYS_listen, fd, segment_backlog(service.segment, 0));
        return (int)i;
    }
    return -1;
}

struct listener *listeners_at(int fd)
{
    descriptor what = descriptor_at(fd);
    if (descriptor_kind(what) == DESCRIPTOR_LISTENER && descriptor_index(what) < LISTENERS_MAX)
        return &listeners[descriptor_index(what)];
    int index = listeners_learn(fd);
    return index < 0 ? NULL : &listeners[index];
}

void listeners_retain(uint32_t index)
{
    if (index < LISTENERS_MAX)
        atomic_fetch_add(&listeners[index].references, 1);
}

void listeners_closed(int fd, uint32_t index)
{
    readiness_listener_closed(fd);
    if (index < LISTENERS_MAX && atomic_fetch_sub(&listeners[index].references, 1) == 1)
        waiting_room_close(index);
}

uint32_t listeners_index(const struct listener *listener)
{
    return (uint32_t)(listener - listeners);
}

bool listeners_deal_out(void)
{
    uint32_t end = atomic_load_explicit(&listeners_end, memory_order_relaxed);
    for (uint32_t i = 0; i < end; i++)
        if (atomic_load_explicit(&listeners[i].references, memory_order_relaxed) &&
            listeners[i].deals_out)
            return true;
    return false;
}

bool listeners_exist(void)
{
    return atomic_load_explicit(&listeners_end, memory_order_relaxed) != 0;
}

struct listener *listeners_tracked(int fd)
{
    descriptor what = descriptor_at(fd);
    return descriptor_kind(what) == DESCRIPTOR_LISTENER ? &listeners[descriptor_index(what)] : NULL;
}

struct listener *listeners_number(uint32_t index)
{
    return atomic_load(&listeners[index].references) ? &listeners[index] : NULL;
}

void listeners_reread(int fd)
{
    struct listener *listener = listeners_tracked(fd);
    struct timeval timeout = {0};
    socklen_t length = sizeof timeout;

    if (!listener)
        return;
    int saved = errno;
    long flags = kernel_call(SYS_fcntl, fd, F_GETFL);
    atomic_store(&listener->nonblocking, flags >= 0 && flags & O_NONBLOCK);
    kernel_call(SYS_getsockopt, fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, &length);
    atomic_store(&listener->receive_timeout_ns,
                 (uint64_t)timeout.tv_sec * 1000000000 + (uint64_t)timeout.tv_usec * 1000);
    errno = saved;
}

void listeners_option_set(int fd, int name)
{
    struct listener *listener = listeners_tracked(fd);
    if (!listener)
        return;
    if (name == SO_ATTACH_FILTER || name == SO_ATTACH_BPF)
        atomic_store(&listener->own_filter, 1);
    else if (name == SO_DETACH_FILTER)
        atomic_store(&listener->own_filter, 0);
    else if (name == SO_RCVTIMEO_OLD || name == SO_RCVTIMEO_NEW)
        listeners_reread(fd);
}

int listeners_listen(int fd, int backlog)
{
    int asked = backlog < 0 ? INT32_MAX : backlog; /* listen(2): the kernel caps it at somaxconn */
    if (!service_active() || in_vfork_child)
        return REAL(listen)(fd, backlog);
    bool bounded = segment_limit(service.segment, LIMIT_QUEUE) != LIMIT_OFF;
    int result = REAL(listen)(fd, bounded ? segment_backlog(service.segment, asked) : backlog);
    if (result == 0) {
        struct listener *listener = listeners_at(fd);
        if (listener)
            listener->asked_backlog = asked;
        if (listener && listener->shared)
            atomic_store(&listener->shared->asked_backlog, (uint32_t)asked + 1);
    }
    return result;
}

/* Under a flood gates move many times a second. */
static void tell(enum event_kind kind, const char *text)
{
    static _Atomic uint64_t told_ns[2];
    _Atomic uint64_t *told = &told_ns[kind == EVENT_GATED];
    uint64_t now = monotonic_ns(), before = atomic_load(told);
    if ((before == 0 || now - before > TELL_EVERY_NS) &&
        atomic_compare_exchange_strong(told, &before, now))
        service_event(kind, 0, text);
}

static void shut_gate(struct listener *listener, int fd)
{
    uint32_t open = 0;
    atomic_store(&listener->seen_gated, 1);
    if (!atomic_compare_exchange_strong(&listener->shared->gated, &open, 1))
        return;
    atomic_store(&listener->shared->gated_once, 1);
    if (!gate_shut(fd))
        atomic_store(&listener->shared->gated, 0);
    else if (!atomic_load(&listener->shared->gated))
        gate_open(fd); /* opened by another process in between */
    else
        tell(EVENT_GATED, "new connections are turned away as SYNs");
}

/* A gate that stays shut ends the service. So a process that knows of one opens it also when the
 * segment says that another did: that word may be damage, and opening twice does no harm. */
static void open_gate(struct listener *listener, int fd)
{
    bool seen = atomic_exchange(&listener->seen_gated, 0);
    bool shut =
        atomic_load(&listener->shared->gated) && atomic_exchange(&listener->shared->gated, 0);
    if (!seen && !shut)
        return;
    gate_open(fd);
    if (atomic_load(&listener->shared->gated)) /* shut by another process in between */
        gate_shut(fd);
    if (shut)
        tell(EVENT_UNGATED, "new connections come in again");
}

static bool can_be_gated(const struct listener *listener)
{
    return atomic_load_explicit(&listener->references, memory_order_relaxed) && listener->shared &&
           listener->family != AF_UNIX && !atomic_load(&listener->own_filter);
}

static bool all_gated(void)
{
    uint32_t end = atomic_load_explicit(&listeners_end, memory_order_relaxed);
    for (uint32_t i = 0; i < end; i++)
        if (can_be_gated(&listeners[i]) && !atomic_load(&listeners[i].shared->gated))
            return false;
    return true;
}

/* While refusals cost too much, a listener whose clients have to wait takes no more until they are
 * gone. */
static bool gate_wanted(int fd, const struct listener *listener, bool all, bool flooded)
{
    if (all)
        return true;
    if (flooded && (atomic_load(&listener->shared->gated) ||
                    atomic_load_explicit(&listener->shared->crowded, memory_order_relaxed)))
        return lateness_queue(fd) > 0;
    return lateness_overfills(fd, listener);
}

/* By the few listeners there are: who has nothing to gate must not look through all descriptors. */
static bool any_stands(void)
{
    uint32_t end = atomic_load_explicit(&listeners_end, memory_order_relaxed);
    for (uint32_t i = 0; i < end; i++)
        if (can_be_gated(&listeners[i]) && lateness_stands(&listeners[i]))
            return true;
    return false;
}

void listeners_gate(bool room)
{
    struct segment *segment = service.segment;
    if (!service_active() || atomic_load(&listeners_end) == 0)
        return;
    bool flooded = flood_under_way();
    bool all = !room && (flooded || segment_limit(segment, LIMIT_QUEUE) == 0 ||
                         atomic_load(&segment->admission) != ADMISSION_OPEN);
    if (all ? all_gated() : !flooded && !listeners_gated() && !any_stands())
        return;
    int saved = errno;
    for (int fd = -1; (fd = descriptors_next_withheld(fd + 1)) >= 0;) {
        struct listener *listener = listeners_tracked(fd);
        if (!listener || !can_be_gated(listener))
            continue;
        if (gate_wanted(fd, listener, all, flooded))
            shut_gate(listener, fd);
        else
            open_gate(listener, fd);
    }
    errno = saved;
}

bool listeners_gated(void)
{
    uint32_t end = atomic_load_explicit(&listeners_end, memory_order_relaxed);
    for (uint32_t i = 0; i < end; i++) {
        if (!can_be_gated(&listeners[i]))
            continue;
        if (atomic_load(&listeners[i].shared->gated))
            atomic_store(&listeners[i].seen_gated, 1);
        if (atomic_load(&listeners[i].seen_gated))
            return true;
    }
    return false;
}

void listeners_open_gates(void)
{
    int saved = errno;
    for (int fd = -1; (fd = descriptors_next_withheld(fd + 1)) >= 0;) {
        struct listener *listener = listeners_tracked(fd);
        if (listener && can_be_gated(listener))
            open_gate(listener, fd);
    }
    errno = saved;
}

void listeners_release(void)
{
    for (int fd = -1; (fd = descriptors_next_withheld(fd + 1)) >= 0;) {
        struct listener *listener = listeners_tracked(fd);
        if (!listener)
            continue;
        if (can_be_gated(listener))
            gate_open(fd); /* whether it was shut is forgotten; there is no harm if not */
        if (listener->asked_backlog >= 0)
            kernel_call(SYS_listen, fd, listener->asked_backlog);
    }
}

void listeners_ungate_accepted(const struct listener *listener, int fd)
{
    int saved = errno;
    if (listener->shared && atomic_load(&listener->shared->gated_once))
        gate_open(fd);
    errno = saved;
}

static uint64_t configuration_now(void)
{
    const struct segment *segment = service.segment;
    return (uint64_t)atomic_load_explicit(&segment->limits_sequence, memory_order_relaxed) << 32 |
           atomic_load_explicit(&segment->admission, memory_order_relaxed);
}

/* listeners_gated and any_stands ask the same of each; in one pass, since every wait comes here. */
static bool ungated_and_calm(const struct listener *listener)
{
    return !atomic_load_explicit(&listener->shared->gated, memory_order_relaxed) &&
           !atomic_load_explicit(&listener->seen_gated, memory_order_relaxed) &&
           !atomic_load_explicit(&listener->shared->standing_until_ns, memory_order_relaxed);
}

bool listeners_calm(void)
{
    uint32_t end = atomic_load_explicit(&listeners_end, memory_order_relaxed);
    if (listeners_holding() ||
        atomic_load_explicit(&seen_configuration, memory_order_relaxed) != configuration_now())
        return false;
    for (uint32_t i = 0; i < end; i++)
        if (can_be_gated(&listeners[i]) && !ungated_and_calm(&listeners[i]))
            return false;
    return true;
}

static void note_single_clients(void)
{
    uint32_t bit = lateness_target() != LIMIT_OFF ||
                           segment_limit(service.segment, LIMIT_PEER_CONNS) != LIMIT_OFF
                       ? SINGLE_CLIENTS
                       : 0;
    uint32_t seen = atomic_load(&reasons);
    while (!atomic_compare_exchange_weak(&reasons, &seen, (seen & ~SINGLE_CLIENTS) | bit))
        ;
}

void listeners_refresh(void)
{
    struct segment *segment = service.segment;
    uint64_t configuration = configuration_now();
    uint64_t before = atomic_load_explicit(&seen_configuration, memory_order_relaxed);

    if (before == configuration || !service_active() ||
        !atomic_compare_exchange_strong(&seen_configuration, &before, configuration))
        return;
    int saved = errno;
    bool changed = before != UINT64_MAX;
    note_single_clients();
    for (int fd = -1; changed && (fd = descriptors_next_withheld(fd + 1)) >= 0;) {
        struct listener *listener = listeners_tracked(fd);
        if (!listener)
            continue;
        /* A listener that came ready-made says nothing of what was asked for: only `queue` counts.
         */
        bool bounded = segment_limit(segment, LIMIT_QUEUE) != LIMIT_OFF;
        if (bounded || listener->asked_backlog >= 0)
            kernel_call(SYS_listen, fd, segment_backlog(segment, listener->asked_backlog));
    }
    listeners_gate(connections_room() == RESERVED);
    errno = saved;
}
