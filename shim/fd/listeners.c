/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "fd/listeners.h"

#include "base/address.h"
#include "base/due.h"
#include "base/real.h"
#include "base/sockdiag.h"
#include "base/trace.h"
#include "fd/listener_table.h"
#include "process/descriptors.h"
#include "process/processes.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>

#define LATELY_NS UINT64_C(1000000000)
/* Among the reasons not to welcome everybody: limits that concern single clients. */
#define SINGLE_CLIENTS (1U << 16)
#define FULL_SAID_EVERY_NS (UINT64_C(600) * 1000000000)
#define FULL_AGAIN_NS UINT64_C(1000000000) /* so often a full table is looked at again */
#define FIND_CLOSED_EVERY_NS UINT64_C(1000000000)

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

/* A table of listeners that is full is said now and then, and not for each listener. */
static void say_full(void)
{
    if (due_claim(&service.segment->listeners_full_ns, monotonic_ns(), FULL_SAID_EVERY_NS))
        service_event(EVENT_TABLE_FULL, SEGMENT_LISTENERS, "listeners");
}

/* A socket's own end, as the kernel has it. */
struct own_end {
    struct sockaddr_storage address;
    socklen_t length;
};

static struct own_end own_end_of(int fd)
{
    struct own_end end = {.length = sizeof end.address};
    if (kernel_call(SYS_getsockname, fd, &end.address, &end.length) < 0)
        end.length = 0;
    return end;
}

/* The entry of the service's table, with its address; NULL when there is none to be had. */
static struct segment_listener *share(const struct own_end *end, uint64_t cookie)
{
    static _Atomic uint64_t next_reap_ns;
    char address[SEGMENT_ADDRESS_MAX];
    bool fresh = false;

    if (cookie == 0)
        return NULL;
    struct segment_listener *entry = listener_table_register(cookie, &fresh);
    if (!entry && due_claim(&next_reap_ns, monotonic_ns(), FULL_AGAIN_NS) &&
        processes_reap(true) > 0)
        entry = listener_table_register(cookie, &fresh);
    if (!entry)
        say_full();
    if (!entry || !fresh)
        return entry;
    address_text((const struct sockaddr *)&end->address, end->length, address, sizeof address);
    words_store(entry->address, address, sizeof address);
    return entry;
}

/* The table was full, or the entry was given to another socket: see listener_table.h. */
static __attribute__((noinline)) void share_again(struct listener *listener, int fd)
{
    static _Atomic uint64_t next_ns;
    struct segment_listener *before = listener->shared;
    if (!before && !due_claim(&next_ns, monotonic_ns(), FULL_AGAIN_NS))
        return;
    int saved = errno;
    struct own_end end = own_end_of(fd);
    struct segment_listener *entry = share(&end, listener->cookie), *expected = before;
    bool mine = atomic_compare_exchange_strong(&listener->shared, &expected, entry);
    listener_table_leave(mine ? before : entry);
    errno = saved;
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
    trace(TRACE_WAIT, holding ? "holding" : "holding-over", TRACE_NO_FD, "listener",
          listeners_index(listener), NULL, 0);
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

/* Listeners of this process whose close the shim did not see: their numbers are free, or other
 * sockets' by now. True when there were any. */
static bool find_closed(void)
{
    bool found = false;
    for (int fd = -1; (fd = descriptors_next_withheld(fd + 1)) >= 0;) {
        const struct listener *listener = listeners_tracked(fd);
        if (!listener || sockdiag_identity(fd) == listener->cookie)
            continue;
        descriptor_put(fd, 0);
        found = true;
    }
    return found;
}

static struct listener *take_entry(void)
{
    for (uint32_t i = 0; i < LISTENERS_MAX; i++) {
        uint32_t none = 0;
        if (!atomic_compare_exchange_strong(&listeners[i].references, &none, 1))
            continue;
        uint32_t end = atomic_load(&listeners_end);
        while (end <= i && !atomic_compare_exchange_weak(&listeners_end, &end, i + 1))
            ;
        return &listeners[i];
    }
    return NULL;
}

/* Tracks a listening stream socket. What only accept, or a gate, goes by is asked then. */
static struct listener *track(int fd, const struct own_end *end, uint64_t cookie, bool tcp)
{
    int family = end->address.ss_family;
    struct listener *listener = take_entry();
    if (!listener && find_closed())
        listener = take_entry();
    if (!listener) {
        say_full();
        return NULL;
    }
    listener->family = family;
    listener->auditable = family == AF_UNIX || tcp;
    listener->cookie = cookie;
    listener->asked_backlog = -1;
    atomic_store(&listener->deals_out, LISTENER_UNKNOWN);
    atomic_store(&listener->own_filter, LISTENER_UNKNOWN);
    atomic_store(&listener->unread, 1);
    atomic_store(&listener->seen_gated, 0);
    atomic_store(&listener->refused_ns, 0);
    atomic_store(&listener->accepts, 0);
    atomic_store(&listener->shared, share(end, cookie));
    listeners_note_holding(listener, false);
    descriptor_put(fd, descriptor_make(DESCRIPTOR_LISTENER, listeners_index(listener), 0));
    return listener;
}

static bool is_stream(int fd, int family, bool tcp)
{
    return (family == AF_INET || family == AF_INET6 || family == AF_UNIX) &&
           (tcp || option(fd, SO_TYPE) == SOCK_STREAM);
}

bool listeners_learn(int fd)
{
    if ((unsigned)fd >= DESCRIPTORS_MAX || option(fd, SO_ACCEPTCONN) != 1)
        return false;
    struct own_end end = own_end_of(fd);
    int family = end.address.ss_family;
    bool tcp = family != AF_UNIX && option(fd, SO_PROTOCOL) == IPPROTO_TCP;
    if (!is_stream(fd, family, tcp) || !track(fd, &end, sockdiag_identity(fd), tcp))
        return false;
    if (segment_limit(service.segment, LIMIT_QUEUE) != LIMIT_OFF)
        kernel_call(SYS_listen, fd, segment_backlog(service.segment, 0));
    return true;
}

/* A descriptor that the program just listened on. */
static struct listener *listened(int fd)
{
    static _Atomic uint64_t next_look_ns;
    uint64_t cookie = sockdiag_identity(fd);
    struct listener *listener = listeners_tracked(fd);
    if (listener && listener->cookie == cookie)
        return listener;
    /* The trace of a close that the shim did not see; where there is one, there may be others. */
    if (listener || due_claim(&next_look_ns, monotonic_ns(), FIND_CLOSED_EVERY_NS))
        find_closed();
    if ((unsigned)fd >= DESCRIPTORS_MAX)
        return NULL;
    struct own_end end = own_end_of(fd);
    int family = end.address.ss_family;
    bool tcp = family != AF_UNIX && option(fd, SO_PROTOCOL) == IPPROTO_TCP;
    return is_stream(fd, family, tcp) ? track(fd, &end, cookie, tcp) : NULL;
}

struct listener *listeners_at(int fd)
{
    struct listener *listener = listeners_tracked(fd);
    if (!listener && listeners_learn(fd))
        listener = listeners_tracked(fd);
    if (!listener)
        return NULL;
    struct segment_listener *shared = listener->shared;
    if (__builtin_expect(!shared || !listener_table_is(shared, listener->cookie), 0))
        share_again(listener, fd);
    listeners_make_known(listener, fd);
    return listener;
}

static const struct listeners_audience *audience;

void listeners_tell(const struct listeners_audience *wanted)
{
    audience = wanted;
}

void listeners_retain(uint32_t index)
{
    if (index < LISTENERS_MAX)
        atomic_fetch_add(&listeners[index].references, 1);
}

void listeners_closed(int fd, uint32_t index)
{
    if (audience)
        audience->descriptor_closed(fd);
    if (index >= LISTENERS_MAX)
        return;
    struct listener *listener = &listeners[index];
    /* Before it is free for another: whoever takes it finds its own. */
    struct segment_listener *shared = listener->shared;
    if (atomic_load(&listener->references) == 1)
        listeners_note_holding(listener, false);
    if (atomic_fetch_sub(&listener->references, 1) != 1)
        return;
    listener_table_leave(shared);
    if (audience)
        audience->closed(index);
}

void listeners_after_fork_in_child(void)
{
    uint32_t end = atomic_load_explicit(&listeners_end, memory_order_relaxed);
    for (uint32_t i = 0; i < end; i++)
        atomic_store(&listeners[i].own_turn.lock.word, LEASE_NONE);
    listener_table_forget_unheld();
}

uint32_t listeners_index(const struct listener *listener)
{
    return (uint32_t)(listener - listeners);
}

bool listeners_deal_out(void)
{
    for (int fd = -1; (fd = descriptors_next_withheld(fd + 1)) >= 0;) {
        struct listener *listener = listeners_tracked(fd);
        if (!listener)
            continue;
        if (atomic_load_explicit(&listener->deals_out, memory_order_relaxed) == LISTENER_UNKNOWN)
            atomic_store(&listener->deals_out, option(fd, SO_REUSEPORT) == 1);
        if (atomic_load_explicit(&listener->deals_out, memory_order_relaxed))
            return true;
    }
    return false;
}

bool listeners_exist(void)
{
    return atomic_load_explicit(&listeners_end, memory_order_relaxed) != 0;
}

struct listener *listeners_tracked(int fd)
{
    descriptor what = descriptor_at(fd);
    return descriptor_kind(what) == DESCRIPTOR_LISTENER && descriptor_index(what) < LISTENERS_MAX
               ? &listeners[descriptor_index(what)]
               : NULL;
}

uint32_t listeners_count(void)
{
    return atomic_load_explicit(&listeners_end, memory_order_relaxed);
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
    struct segment_listener *shared = listener->shared;
    /* While a turn is overtaken the flag is not the program's: see turns.h. */
    if (!shared || !atomic_load(&shared->turn.unblocked))
        atomic_store(&listener->nonblocking, flags >= 0 && flags & O_NONBLOCK);
    atomic_store(&listener->unread, 0);
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
        struct listener *listener = listened(fd);
        if (listener)
            listener->asked_backlog = asked;
        struct segment_listener *shared = listener ? listener->shared : NULL;
        if (shared)
            atomic_store(&shared->asked_backlog, (uint32_t)asked + 1);
    }
    return result;
}

static uint64_t configuration_now(void)
{
    const struct segment *segment = service.segment;
    return (uint64_t)atomic_load_explicit(&segment->limits_sequence, memory_order_relaxed) << 32 |
           atomic_load_explicit(&segment->admission, memory_order_relaxed);
}

/* What listener_gates_shut and lateness_stands ask of each; in one pass, since every wait comes
 * here.
 */
static bool ungated_and_calm(const struct listener *listener)
{
    return !atomic_load_explicit(&listener->shared->gated, memory_order_relaxed) &&
           !atomic_load_explicit(&listener->seen_gated, memory_order_relaxed) &&
           !atomic_load_explicit(&listener->shared->queue.standing_until_ns, memory_order_relaxed);
}

bool listeners_calm(void)
{
    uint32_t end = atomic_load_explicit(&listeners_end, memory_order_relaxed);
    if (listeners_holding() ||
        atomic_load_explicit(&seen_configuration, memory_order_relaxed) != configuration_now())
        return false;
    for (uint32_t i = 0; i < end; i++)
        if (listeners_can_be_gated(&listeners[i]) && !ungated_and_calm(&listeners[i]))
            return false;
    return true;
}

static void note_single_clients(bool concerned)
{
    uint32_t bit = concerned ? SINGLE_CLIENTS : 0;
    uint32_t seen = atomic_load(&reasons);
    while (!atomic_compare_exchange_weak(&reasons, &seen, (seen & ~SINGLE_CLIENTS) | bit))
        ;
}

void listeners_refresh(bool (*single_clients_concerned)(void))
{
    struct segment *segment = service.segment;
    uint64_t configuration = configuration_now();
    uint64_t before = atomic_load_explicit(&seen_configuration, memory_order_relaxed);

    if (before == configuration || !service_active() ||
        !atomic_compare_exchange_strong(&seen_configuration, &before, configuration))
        return;
    int saved = errno;
    bool changed = before != UINT64_MAX;
    note_single_clients(single_clients_concerned());
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
    errno = saved;
}
