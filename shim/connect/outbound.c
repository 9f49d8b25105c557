/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "connect/outbound.h"

#include "base/due.h"
#include "base/libc.h"
#include "base/memory.h"
#include "base/real.h"
#include "base/sandbox.h"
#include "base/sockdiag.h"
#include "base/tcp_state.h"
#include "base/trace.h"
#include "connect/backoff.h"
#include "process/descriptors.h"
#include "process/service.h"
#include "process/signals.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/syscall.h>
#include <sys/time.h>

#define OUTBOUND_MAX 65536
#define NEVER UINT64_MAX
#define UNASKED 0
#define TURN_MS 5 /* a place may become free in any thread */
#define AUDIT_SHARE 200
#define AUDIT_EVERY_NS (20 * DUE_MILLISECOND)
#define AUDIT_LONGEST_NS (1000 * DUE_MILLISECOND)
#define UNPACED UINT64_MAX

struct outbound {
    _Atomic uint32_t references; /* descriptors of this process; 0: the entry is free */
    _Atomic int destination;
    _Atomic int left_error; /* what an interrupted wait left for SO_ERROR */
    _Atomic bool connecting, inet;
    _Atomic uint64_t inode;
};

static struct outbound table[OUTBOUND_MAX];
static _Atomic uint32_t cursor;

static bool wanted(void)
{
    return backoff_wanted() || segment_limit(service.segment, LIMIT_CONNECT_RETRIES) != LIMIT_OFF ||
           service_limit(LIMIT_CONNECT_CONNS) != LIMIT_OFF ||
           service_limit(LIMIT_SEND_RATE) != LIMIT_OFF ||
           segment_limit(service.segment, LIMIT_CONN_SEND_RATE) != LIMIT_OFF;
}

static struct outbound *at(int fd)
{
    descriptor what = descriptor_at(fd);
    return descriptor_kind(what) == DESCRIPTOR_OUTBOUND && descriptor_index(what) < OUTBOUND_MAX
               ? &table[descriptor_index(what)]
               : NULL;
}

static int option(int fd, int name)
{
    int value = 0;
    socklen_t length = sizeof value;
    return kernel_call(SYS_getsockopt, fd, SOL_SOCKET, name, &value, &length) == 0 ? value : -1;
}

static bool is_connected(int fd)
{
    struct sockaddr_storage peer = {0};
    socklen_t length = sizeof peer;
    return kernel_call(SYS_getpeername, fd, &peer, &length) == 0;
}

/* --- pace --- */

static void pace(int fd, const struct outbound *entry)
{
    uint64_t all = service_limit(LIMIT_SEND_RATE), open = gauge_count(&service_self()->outbound);
    uint64_t rate = segment_limit(service.segment, LIMIT_CONN_SEND_RATE);
    if (!atomic_load(&entry->inet))
        return;
    if (all != LIMIT_OFF && open && all / open < rate)
        rate = all / open;
    rate = rate == LIMIT_OFF ? UNPACED : rate;
    kernel_call(SYS_setsockopt, fd, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof rate);
}

void outbound_pace_all(void)
{
    int end = descriptors_end(), saved = errno;
    for (int fd = 0; fd < end; fd++)
        if (at(fd))
            pace(fd, at(fd));
    errno = saved;
}

static void paced_anew(int fd, const struct outbound *entry)
{
    if (service_limit(LIMIT_SEND_RATE) != LIMIT_OFF)
        outbound_pace_all();
    else if (segment_limit(service.segment, LIMIT_CONN_SEND_RATE) != LIMIT_OFF)
        pace(fd, entry);
}

/* --- places under connect-conns --- */

/* Entries whose descriptor was closed unseen: its number is free, or another socket's by now. */
static void audit(void)
{
    static _Atomic uint64_t next_ns;
    uint64_t spent = spent_ns();
    if (!due_claim(&next_ns, monotonic_ns(), AUDIT_LONGEST_NS))
        return;
    int end = descriptors_end();
    for (int fd = 0; fd < end; fd++) {
        descriptor what = descriptor_at(fd);
        const struct outbound *entry = at(fd);
        if (entry && sockdiag_is(fd, atomic_load(&entry->inode)) == SOCKDIAG_OTHER)
            descriptor_lost(fd, what);
    }
    atomic_store(&next_ns, due_again(spent, AUDIT_SHARE, AUDIT_EVERY_NS));
}

static bool take_place(void)
{
    uint64_t ceiling = service_limit(LIMIT_CONNECT_CONNS);
    if (gauge_take(&service_self()->outbound, ceiling))
        return true;
    audit();
    return gauge_take(&service_self()->outbound, ceiling);
}

static void give_place(void)
{
    gauge_give(&service_self()->outbound);
}

static void track(int fd, int family, int destination, bool connecting)
{
    for (uint32_t i = 0; i < OUTBOUND_MAX; i++) {
        uint32_t index = atomic_fetch_add(&cursor, 1) % OUTBOUND_MAX, none = 0;
        struct outbound *entry = &table[index];
        if (!atomic_compare_exchange_strong(&entry->references, &none, 1))
            continue;
        atomic_store(&entry->destination, destination);
        atomic_store(&entry->left_error, 0);
        atomic_store(&entry->connecting, connecting);
        atomic_store(&entry->inet, family != AF_UNIX);
        atomic_store(&entry->inode, sockdiag_inode(fd));
        descriptor_put(fd, descriptor_make(DESCRIPTOR_OUTBOUND, index, 0));
        paced_anew(fd, entry);
        return;
    }
    give_place(); /* not bounded rather than refused */
}

/* The connect under way came to `error`, or to success with 0. */
static void settle(int fd, struct outbound *entry, int error)
{
    bool connecting = true;
    if (!atomic_compare_exchange_strong(&entry->connecting, &connecting, false))
        return;
    if (error == 0) {
        backoff_succeeded(atomic_load(&entry->destination));
        return;
    }
    if (backoff_may_pass(error))
        backoff_failed(atomic_load(&entry->destination), error);
    descriptor_put(fd, 0); /* no connection: it may be tried again on the same descriptor */
}

/* --- what became of those that do not block --- */

/* Whether anything is noted of where it goes to: backoff is wanted, and was when it connected. */
static bool noted(const struct outbound *entry)
{
    return atomic_load(&entry->destination) >= 0;
}

static void look(int fd, struct outbound *entry)
{
    if (noted(entry) && atomic_load(&entry->connecting) && is_connected(fd))
        settle(fd, entry, 0);
}

void outbound_error_read(int fd, int *error)
{
    struct outbound *entry = at(fd);
    if (!entry || !service_active() || in_vfork_child)
        return;
    int saved = errno;
    if (*error == 0)
        *error = atomic_exchange(&entry->left_error, 0);
    if (*error != 0)
        settle(fd, entry, *error);
    else
        look(fd, entry);
    errno = saved;
}

/* A server that accepts and resets refuses, too; one that answered before it did so does not. */
void outbound_was_reset(int fd)
{
    struct outbound *entry = at(fd);
    if (!entry || !service_active() || in_vfork_child || !backoff_wanted())
        return;
    struct tcp_state state = tcp_state_of(fd);
    int saved = errno;
    if (state.known && state.bytes_received == 0)
        backoff_failed(atomic_load(&entry->destination), ECONNRESET);
    errno = saved;
}

void outbound_retain(uint32_t index)
{
    if (index < OUTBOUND_MAX)
        atomic_fetch_add(&table[index].references, 1);
}

void outbound_departing(int fd, uint32_t index)
{
    if (index >= OUTBOUND_MAX || atomic_load(&table[index].references) != 1)
        return;
    struct outbound *entry = &table[index];
    if (!noted(entry))
        return;
    int saved = errno, error = option(fd, SO_ERROR);
    if (error == ECONNRESET && !atomic_load(&entry->connecting)) {
        outbound_was_reset(fd);
    } else if (error > 0 && atomic_exchange(&entry->connecting, false)) {
        if (backoff_may_pass(error))
            backoff_failed(atomic_load(&entry->destination), error);
    } else {
        look(fd, entry);
    }
    errno = saved;
}

void outbound_closed(uint32_t index)
{
    if (index >= OUTBOUND_MAX || atomic_fetch_sub(&table[index].references, 1) != 1)
        return;
    give_place();
}

void outbound_start(void)
{
    atomic_store(&service_self()->outbound.word, 0);
}

void outbound_after_fork_in_child(void)
{
    uint32_t open = 0;
    for (uint32_t i = 0; i < OUTBOUND_MAX; i++)
        open += atomic_load_explicit(&table[i].references, memory_order_relaxed) > 0;
    atomic_store(&service_self()->outbound.word, open);
}

/* --- connect --- */

struct attempt {
    int fd;
    const struct sockaddr *address;
    socklen_t length;
    int destination;
    enum { BLOCKS_UNASKED, BLOCKS, BLOCKS_NOT } blocks;
    uint64_t began_ns;
    uint64_t deadline_ns; /* NEVER without SO_SNDTIMEO; UNASKED until the connect has to wait */
    struct held_signals held;
};

static int fail(int error)
{
    errno = error;
    return -1;
}

/* No place: as when the system has run out of ports, or a listener of room. */
static int no_place(const struct attempt *attempt)
{
    trace(TRACE_CONNECT, "no-place", attempt->fd, "connect-conns",
          gauge_count(&service_self()->outbound), NULL, 0);
    return fail(attempt->address->sa_family == AF_UNIX ? EAGAIN : EADDRNOTAVAIL);
}

/* One connect by the kernel, for which there is a place. Accounts for what it comes to. */
static int try(struct attempt *attempt)
{
    int result = REAL(connect)(attempt->fd, attempt->address, attempt->length);
    int error = result < 0 ? errno : 0, family = attempt->address->sa_family;
    bool under_way = error == EINPROGRESS || error == EINTR || error == EALREADY;
    if (result == 0 || under_way)
        track(attempt->fd, family, attempt->destination, under_way);
    else
        give_place();
    if (result == 0)
        backoff_succeeded(attempt->destination);
    else if (backoff_may_pass(error))
        backoff_failed(attempt->destination, error);
    trace(TRACE_CONNECT, result == 0 ? "connected" : "try", attempt->fd, "errno", (uint64_t)error,
          NULL, 0);
    errno = error;
    return result;
}

/* When SO_SNDTIMEO ends it. The kernel is asked by connects alone that wait, or are made again. */
static uint64_t deadline(struct attempt *attempt)
{
    struct timeval timeout = {0};
    socklen_t length = sizeof timeout;
    if (attempt->deadline_ns != UNASKED)
        return attempt->deadline_ns;
    bool endless =
        kernel_call(SYS_getsockopt, attempt->fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, &length) < 0 ||
        (timeout.tv_sec == 0 && timeout.tv_usec == 0);
    attempt->deadline_ns = endless ? NEVER
                                   : attempt->began_ns + (uint64_t)timeout.tv_sec * 1000000000 +
                                         (uint64_t)timeout.tv_usec * 1000;
    return attempt->deadline_ns;
}

/* Asked only when it matters: what connects at once, or is under way, needs no answer. */
static bool blocks(struct attempt *attempt)
{
    if (attempt->blocks == BLOCKS_UNASKED)
        attempt->blocks =
            (int)kernel_call(SYS_fcntl, attempt->fd, F_GETFL) & O_NONBLOCK ? BLOCKS_NOT : BLOCKS;
    return attempt->blocks == BLOCKS;
}

/* One wait, which a cancelled thread leaves with its signals as they were. */
static enum wait_result wait_once(struct attempt *attempt, int timeout_ms, bool restartable)
{
    struct libc_cleanup cleanup;
    libc_cleanup_push(&cleanup, signals_let_in_at_end, &attempt->held);
    enum wait_result result = signals_poll(&attempt->held, -1, 0, timeout_ms, restartable);
    libc_cleanup_pop(&cleanup, false);
    return result;
}

/* Waits at most so long; false with errno set when the connect must end. */
static bool sleep_for(struct attempt *attempt, uint64_t wait_ns)
{
    uint64_t until = monotonic_ns() + wait_ns, now;
    uint64_t end = deadline(attempt);
    bool restartable = end == NEVER;
    until = until < end ? until : end;
    while ((now = monotonic_ns()) < until) {
        uint64_t left_ms = (until - now + DUE_MILLISECOND - 1) / DUE_MILLISECOND;
        int timeout = left_ms > INT32_MAX ? INT32_MAX : (int)left_ms;
        if (wait_once(attempt, timeout, restartable) == WAIT_INTERRUPTED)
            return fail(EINTR), false;
    }
    return true;
}

static bool out_of_time(struct attempt *attempt)
{
    return monotonic_ns() >= deadline(attempt);
}

/* A place under connect-conns, waited for. False with errno set when the connect must end. */
static bool wait_for_place(struct attempt *attempt)
{
    while (service_active() && !take_place()) {
        if (segment_limit(service.segment, LIMIT_WHEN_FULL) != WHEN_FULL_HOLD || !blocks(attempt))
            return no_place(attempt), false;
        if (out_of_time(attempt))
            return fail(EINPROGRESS), false; /* socket(7), SO_SNDTIMEO */
        if (!sleep_for(attempt, TURN_MS * DUE_MILLISECOND))
            return false;
    }
    return true;
}

/* A signal ends a wait between two tries. The program will ask for SO_ERROR: it is the last one. */
static int leave_error(const struct attempt *attempt, int error)
{
    if (errno == EINTR && error) {
        gauge_take(&service_self()->outbound, UINT64_MAX);
        track(attempt->fd, attempt->address->sa_family, attempt->destination, false);
        struct outbound *entry = at(attempt->fd);
        if (entry)
            atomic_store(&entry->left_error, error);
        errno = EINTR;
    }
    return -1;
}

/* Tries, and waits where the socket blocks: at a place's or a window's door, and between tries. */
static int connect_in_tries(struct attempt *attempt)
{
    uint64_t retries = segment_limit(service.segment, LIMIT_CONNECT_RETRIES);
    int error = 0;
    if (backoff_window(attempt->destination, &error)) {
        if (!blocks(attempt)) {
            trace(TRACE_CONNECT, "left-alone", attempt->fd, "errno", (uint64_t)error, NULL, 0);
            return fail(error);
        }
        if (!sleep_for(attempt, backoff_draw_for(attempt->destination)))
            return leave_error(attempt, error);
    }
    for (uint32_t retry = 0;; retry++) {
        if (!wait_for_place(attempt))
            return leave_error(attempt, error);
        if (!service_active())
            return REAL(connect)(attempt->fd, attempt->address, attempt->length);
        if (try(attempt) == 0)
            return 0;
        if (!backoff_may_pass(errno))
            return -1;
        error = errno;
        if (retries == LIMIT_OFF || retry >= retries || !blocks(attempt) || out_of_time(attempt) ||
            !backoff_may_retry())
            return fail(error);
        uint64_t wait_ns = backoff_draw(retry);
        trace(TRACE_CONNECT, "retry", attempt->fd, "number", retry + 1, "wait_us", wait_ns / 1000);
        if (!sleep_for(attempt, wait_ns))
            return leave_error(attempt, error);
        if (out_of_time(attempt))
            return fail(error);
        service_count(COUNTER_CONNECT_RETRIES, 1);
    }
}

/* A stream to somewhere, under limits that concern it. */
static bool concerned(int fd, const struct sockaddr *address, socklen_t length)
{
    if (!service_active() || in_vfork_child || !sandbox_serves(SANDBOX_CONNECTS) || !wanted() ||
        length < sizeof address->sa_family || length > sizeof(struct sockaddr_storage) ||
        !memory_there(MEMORY_DESTINATION, address, length))
        return false;
    int family = address->sa_family;
    return (family == AF_INET || family == AF_INET6 || family == AF_UNIX) &&
           option(fd, SO_TYPE) == SOCK_STREAM;
}

/* connect again on a descriptor that connects already: the kernel tells how far it is. */
static int connect_again(int fd, struct outbound *entry, const struct sockaddr *address,
                         socklen_t length)
{
    int result = REAL(connect)(fd, address, length), error = result < 0 ? errno : 0;
    if (result == 0 || error == EISCONN)
        settle(fd, entry, 0);
    else if (error != EALREADY && error != EINPROGRESS && error != EINTR)
        settle(fd, entry, error);
    errno = error;
    return result;
}

static int connect_anew(int fd, const struct sockaddr *address, socklen_t length)
{
    struct attempt attempt = {
        .fd = fd, .address = address, .length = length, .began_ns = monotonic_ns()};
    descriptor_put(fd, 0); /* the trace of an unseen close, or of an interrupted wait */
    attempt.destination = backoff_wanted() ? backoff_destination(address, length) : -1;
    service_count(COUNTER_CONNECTS, 1);
    backoff_connects();
    int result = connect_in_tries(&attempt);
    signals_let_in(&attempt.held);
    return result;
}

int outbound_connect(int fd, const struct sockaddr *address, socklen_t length)
{
    int saved = errno, result;
    if (!concerned(fd, address, length)) {
        errno = saved;
        return REAL(connect)(fd, address, length);
    }
    struct outbound *entry = at(fd);
    if (entry && atomic_load(&entry->left_error) == 0 &&
        sockdiag_is(fd, atomic_load(&entry->inode)) != SOCKDIAG_OTHER)
        result = connect_again(fd, entry, address, length);
    else
        result = connect_anew(fd, address, length);
    if (result == 0)
        errno = saved;
    return result;
}
