/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "lateness.h"

#include "real.h"
#include "service.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#define MILLISECOND UINT64_C(1000000)
/* RFC 8289, 3.1: long against the target, and short against the patience of clients. */
#define INTERVAL_LEAST_NS (100 * MILLISECOND)
#define INTERVAL_TARGETS 10
/* Below its capacity, a server that a neighbour slows down for a moment has a queue above the
 * target for an interval now and then, hardly ever for two; what overloads it by a third or more is
 * found by its growth, long before. */
#define PROOF_INTERVALS 2
#define GROWN 2
#define GROWN_BY_LEAST 32
/* A flood makes the queue grow by this much so many times, with no loss in between. A pause of the
 * program makes it grow once, and a burst is over before its first client is late. */
#define CLIMB_STEP 4
#define CLIMB_STEPS 4
/* A queue that lost a quarter in that time is being worked off: so after a pause of the program.
 */
#define SHRUNK_NUMERATOR 3
#define SHRUNK_DENOMINATOR 4
/* While a queue stands, those are served who have waited this part of the target at most: the
 * program's own time for them comes on top. */
#define FRESH_NUMERATOR 3
#define FRESH_DENOMINATOR 4

uint64_t lateness_target(void)
{
    uint64_t target = segment_limit(service.segment, LIMIT_QUEUE_DELAY);
    if (target != QUEUE_DELAY_WITH_AUTO)
        return target;
    return limit_is_auto(segment_limit(service.segment, LIMIT_TOTAL_CONNS)) ||
                   limit_is_auto(service_limit(LIMIT_CONNS))
               ? QUEUE_DELAY_AUTO_NS
               : LIMIT_OFF;
}

static bool ask(int fd, struct tcp_info *info)
{
    socklen_t length = sizeof *info;
    int saved = errno;
    bool known = kernel_call(SYS_getsockopt, fd, IPPROTO_TCP, TCP_INFO, info, &length) == 0;
    errno = saved;
    return known;
}

struct lateness_client lateness_ask(int fd)
{
    struct tcp_info info = {0};
    if (!ask(fd, &info))
        return (struct lateness_client){0};
    return (struct lateness_client){info.tcpi_last_ack_recv * MILLISECOND,
                                    info.tcpi_state == TCP_CLOSE_WAIT};
}

/* Of a listener, tcpi_unacked is the length of the accept queue, and tcpi_sacked its backlog. */
static struct tcp_info queue_of(int fd)
{
    struct tcp_info info = {0};
    ask(fd, &info);
    return info;
}

uint32_t lateness_queue(int fd)
{
    return queue_of(fd).tcpi_unacked;
}

bool lateness_stands(const struct listener *listener)
{
    if (!listener->shared)
        return false;
    _Atomic uint64_t *standing = &listener->shared->standing_until_ns;
    uint64_t until = atomic_load_explicit(standing, memory_order_relaxed);
    if (until == 0 || until > monotonic_ns())
        return until != 0;
    /* It is over: nobody has to ask the clock until a queue stands again. */
    atomic_compare_exchange_strong(standing, &until, 0);
    return false;
}

bool lateness_overfills(int fd, const struct listener *listener)
{
    if (!lateness_stands(listener))
        return false;
    struct tcp_info queue = queue_of(fd);
    return queue.tcpi_unacked * 2 > queue.tcpi_sacked;
}

/* The first who is late: the queue may be a burst, which will have been worked off in a while. */
static void suspect(int fd, struct segment_listener *shared, uint64_t until)
{
    uint32_t queue = lateness_queue(fd);
    atomic_store_explicit(&shared->late_queue, queue ? queue : 1, memory_order_relaxed);
    atomic_store_explicit(&shared->late_mark, queue, memory_order_relaxed);
    atomic_store_explicit(&shared->late_marks, 0, memory_order_relaxed);
    atomic_store_explicit(&shared->late_from_ns, until, memory_order_relaxed);
}

/* Shown the queue at each late client, tells whether it went up all the steps. */
static bool climbs(struct segment_listener *shared, uint32_t queue)
{
    uint32_t mark = atomic_load_explicit(&shared->late_mark, memory_order_relaxed);
    uint32_t marks = atomic_load_explicit(&shared->late_marks, memory_order_relaxed);
    if (queue >= mark && queue < mark + CLIMB_STEP)
        return false;
    marks = queue < mark ? 0 : marks + 1;
    atomic_store_explicit(&shared->late_mark, queue, memory_order_relaxed);
    atomic_store_explicit(&shared->late_marks, marks, memory_order_relaxed);
    return marks >= CLIMB_STEPS;
}

/* A burst does not go on growing, or turn others away. The first who are late are no proof of it.
 */
static bool overflows(int fd, struct segment_listener *shared, bool just_late)
{
    struct tcp_info queue = queue_of(fd);
    uint32_t before = atomic_load_explicit(&shared->late_queue, memory_order_relaxed);
    bool doubled =
        queue.tcpi_unacked >= GROWN * before && queue.tcpi_unacked >= before + GROWN_BY_LEAST;
    bool full = queue.tcpi_unacked && queue.tcpi_unacked >= queue.tcpi_sacked;
    return climbs(shared, queue.tcpi_unacked) || (!just_late && (doubled || full));
}

/* Without a listener to ask (fd -1) a queue is never found to shrink. */
static bool shrinks(int fd, const struct segment_listener *shared)
{
    uint32_t before = atomic_load_explicit(&shared->late_queue, memory_order_relaxed);
    return fd >= 0 && before > 1 &&
           (uint64_t)lateness_queue(fd) * SHRUNK_DENOMINATOR <= (uint64_t)before * SHRUNK_NUMERATOR;
}

bool lateness_sheds(int fd, struct listener *listener, struct lateness_client client,
                    uint64_t target_ns)
{
    struct segment_listener *shared = listener->shared;
    if (!shared)
        return false;
    uint64_t now = monotonic_ns(), interval = target_ns * INTERVAL_TARGETS;
    interval = interval > INTERVAL_LEAST_NS ? interval : INTERVAL_LEAST_NS;
    uint64_t proof = PROOF_INTERVALS * interval;
    atomic_store_explicit(&shared->crowded, client.waited_ns * 2 >= target_ns,
                          memory_order_relaxed);
    uint64_t from = atomic_load_explicit(&shared->late_from_ns, memory_order_relaxed);
    uint64_t until = atomic_load_explicit(&shared->standing_until_ns, memory_order_relaxed);
    bool stands = until > now;
    uint64_t most = stands ? target_ns / FRESH_DENOMINATOR * FRESH_NUMERATOR : target_ns;
    if (client.waited_ns < most) {
        if (from)
            atomic_store_explicit(&shared->late_from_ns, 0, memory_order_relaxed);
        return stands && client.closed;
    }
    if (!stands && from == 0) {
        suspect(fd, shared, now + proof);
        return false;
    }
    bool just_late = now + proof < from + target_ns;
    if (!stands && now < from && !overflows(fd, shared, just_late))
        return false;
    if (!stands && now >= from && shrinks(fd, shared)) {
        suspect(fd, shared, now + proof);
        return false;
    }
    /* It stands until nobody was late for as long. */
    atomic_store_explicit(&shared->standing_until_ns, now + interval, memory_order_relaxed);
    return true;
}
