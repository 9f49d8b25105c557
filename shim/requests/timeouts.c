/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "requests/timeouts.h"

#include "base/due.h"
#include "base/real.h"
#include "base/sandbox.h"
#include "base/trace.h"
#include "output/watches.h"
#include "requests/idle.h"
#include "requests/look_ahead.h"

#include <errno.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define LOOKS_PER_LIMIT 8
#define LOOK_LEAST_NS (10 * DUE_MILLISECOND)
#define LOOK_MOST_NS (1000 * DUE_MILLISECOND)
#define LOOK_SHARE 50
#define URGENT_EVERY_NS (20 * DUE_MILLISECOND)
#define SLICE_LEAST_NS DUE_MILLISECOND
#define UNREAD_PIECE 2048
#define UNREAD_PIECES 32
#define CHOSEN_MOST 16 /* that one look ends for being idle */

/* What the last look saw of each connection. */
struct seen {
    _Atomic uint32_t generation, reads;
    _Atomic uint64_t rests_since_ns;
};
static struct seen seen[SEGMENT_CONNS];

static _Atomic uint64_t look_next_ns, urgent_next_ns;
static _Atomic bool stirred;           /* the program ran since the last look */
static _Atomic uint32_t resting;       /* connections that were idle, or waited for a head, then */
static _Atomic uint64_t may_go_ns;     /* when the longest idle one has been that for long enough */
static _Atomic uint64_t late_limit_ns; /* header-timeout at the last look, and since when */
static _Atomic uint64_t late_limit_since_ns;

static uint64_t head_limit(void)
{
    return segment_limit(service.segment, LIMIT_HEADER_TIMEOUT);
}

static bool wanted(void)
{
    return flows_mode() & FLOWS_REQUESTS &&
           (head_limit() != LIMIT_OFF || idle_limit() != LIMIT_OFF);
}

static uint64_t interval_ns(void)
{
    uint64_t idle = idle_limit(), head = head_limit(), shorter = idle < head ? idle : head;
    uint64_t interval = shorter / LOOKS_PER_LIMIT;
    interval = interval > LOOK_LEAST_NS ? interval : LOOK_LEAST_NS;
    return interval < LOOK_MOST_NS ? interval : LOOK_MOST_NS;
}

/* --- ending one --- */

static bool ours_alone(const struct flow *flow)
{
    const struct segment_conn *conn = flow_conn(flow);
    uint64_t holders = atomic_load(&conn->holders);
    for (unsigned i = 0; i < CONN_HOLDERS; i++) {
        uint64_t holder = holders >> 16 * i & 0xffff;
        if (holder && holder != service.self + 1)
            return false;
    }
    return holders && !(atomic_load(&conn->flags) & (CONN_SHARED | CONN_PASSED)) &&
           atomic_load(&conn->in_flight) == 0;
}

static bool nothing_on_the_way(int fd)
{
    int unread = 0, unsent = 0;
    return kernel_call(SYS_ioctl, fd, SIOCINQ, &unread) == 0 && unread == 0 &&
           kernel_call(SYS_ioctl, fd, SIOCOUTQ, &unsent) == 0 && unsent == 0;
}

/* Says it whole or not at all. What came of the head meanwhile is read away, so that closing with
 * input unread does not become a reset that overtakes the answer. */
static void say_late(int fd, const struct request *request)
{
    char text[REQUEST_REFUSAL_MAX], unread[UNREAD_PIECE];
    size_t length = request_timed_out(&request->stream, text, sizeof text);
    if (length && sandbox_permits(SYS_sendto))
        kernel_call(SYS_sendto, fd, text, length, MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0);
    for (unsigned i = 0; i < UNREAD_PIECES && sandbox_permits(SYS_recvfrom); i++)
        if (kernel_call(SYS_recvfrom, fd, unread, sizeof unread, MSG_DONTWAIT, NULL, NULL) <= 0)
            break;
}

/*
 * The program reads the end of input from now on. Before that is certain it is marked, and looked
 * at again: whoever reads it looks at the mark first and moves its phase after. `fd` is a number of
 * our own.
 */
static bool end_input(int fd, struct request *request, bool late)
{
    atomic_store(&request->refused_for_good, true);
    bool same = request_phase(request) == PHASE_REST && (late || nothing_on_the_way(fd));
    if (!same) {
        atomic_store(&request->refused_for_good, false);
        return false;
    }
    if (late)
        say_late(fd, request);
    return kernel_call(SYS_shutdown, fd, SHUT_RD) == 0;
}

static bool end(int fd, struct flow *flow, struct request *request, bool late)
{
    static const struct {
        enum counter counter;
        enum event_kind event;
    } by[] = {{COUNTER_IDLE_CLOSED, EVENT_IDLE_CLOSED},
              {COUNTER_HEADERS_TIMED_OUT, EVENT_HEADER_TIMEOUT}};
    int own = flow_hold(fd, flow);
    if (own < 0)
        return false;
    bool ended = end_input(own, request, late);
    if (ended) {
        trace(TRACE_WAIT, late ? "head-late" : "idle-close", fd, "slot", flow_slot(flow), NULL, 0);
        flows_tell(fd, by[late].event, 0);
        service_count(by[late].counter, 1);
    }
    kernel_call(SYS_close, own);
    return ended;
}

/* --- heads that are late --- */

void timeouts_read(struct request *request, bool begun)
{
    bool partial =
        !request_between(&request->stream) && !(request->stream.flags & REQUEST_HEAD_WHOLE);
    if (!partial)
        atomic_store_explicit(&request->head_ns, 0, memory_order_relaxed);
    else if (begun || atomic_load_explicit(&request->head_ns, memory_order_relaxed) == 0)
        atomic_store_explicit(&request->head_ns, monotonic_ns(), memory_order_relaxed);
}

/* The rest of the head may have come, and the program not have read it yet; or the client has gone,
 * which the program is to see by itself. */
static bool still_waited_for(int fd, const struct request *request)
{
    struct ahead ahead;
    look_ahead(fd, request, &ahead);
    if (ahead.there <= 0)
        return ahead.nothing;
    return ahead.step == REQUEST_GOES_ON && !(ahead.stream.flags & REQUEST_HEAD_WHOLE);
}

/* Whether it was ended. */
static bool late(int fd, struct flow *flow, struct request *request, uint64_t now)
{
    uint64_t since = atomic_load(&request->head_ns), from = atomic_load(&late_limit_since_ns);
    uint64_t limit = head_limit();
    since = since > from ? since : from;
    if (limit == LIMIT_OFF || since > now || now - since < limit || watches_withheld(flow) ||
        !ours_alone(flow) || !still_waited_for(fd, request))
        return false;
    return end(fd, flow, request, true);
}

/* --- connections that are idle --- */

/* By `rank` they are put in order: when the last answer began, which looks do not tell so exactly.
 */
struct candidate {
    int fd;
    uint64_t rank;
};

/* What one look finds: those that are idle for long enough, the longest first. */
struct look {
    uint64_t now, idle;
    uint64_t first_rank; /* of all that are idle, long enough or not; or 0 */
    uint64_t longest_ns; /* since when the longest one is, as looks tell; or 0 */
    uint32_t resting;
    unsigned chosen;
    struct candidate candidate[CHOSEN_MOST];
};

static void choose(struct look *look, int fd, uint64_t rank)
{
    unsigned at = look->chosen < CHOSEN_MOST ? look->chosen++ : CHOSEN_MOST;
    for (; at > 0 && look->candidate[at - 1].rank > rank; at--)
        if (at < CHOSEN_MOST)
            look->candidate[at] = look->candidate[at - 1];
    if (at < CHOSEN_MOST)
        look->candidate[at] = (struct candidate){fd, rank};
}

static uint64_t rank_of(const struct flow *flow, const struct request *request)
{
    uint64_t answered = atomic_load_explicit(&request->answered_ns, memory_order_relaxed);
    uint64_t accepted = atomic_load_explicit(&flow_conn(flow)->accepted_ns, memory_order_relaxed);
    return answered > accepted ? answered : accepted;
}

static void note_earlier(uint64_t *first, uint64_t time)
{
    if (*first == 0 || time < *first)
        *first = time;
}

/* Since when it is as it is now, as far as looks tell. */
static uint64_t rests_since(const struct flow *flow, const struct request *request, uint64_t now)
{
    struct seen *was = &seen[flow_slot(flow)];
    uint32_t generation = atomic_load(&request->generation), reads = atomic_load(&request->reads);
    uint64_t since = atomic_load(&was->rests_since_ns);
    if (since && atomic_load(&was->generation) == generation && atomic_load(&was->reads) == reads)
        return since;
    atomic_store(&was->generation, generation);
    atomic_store(&was->reads, reads);
    atomic_store(&was->rests_since_ns, now);
    return now;
}

static bool rests(const struct request *request)
{
    return request && request_phase(request) == PHASE_REST && !request->middle &&
           !atomic_load(&request->refused_for_good) &&
           !(request->stream.flags & SESSION_TRANSACTION);
}

static void look_at(int fd, struct flow *flow, void *context)
{
    struct look *look = context;
    struct request *request = request_of(flow);
    if (!rests(request)) {
        atomic_store_explicit(&seen[flow_slot(flow)].rests_since_ns, 0, memory_order_relaxed);
        return;
    }
    bool head = atomic_load(&request->head_ns) != 0 && head_limit() != LIMIT_OFF;
    if (head && late(fd, flow, request, look->now))
        return;
    look->resting += head || look->idle != LIMIT_OFF;
    if (look->idle == LIMIT_OFF || !request_between(&request->stream) || !ours_alone(flow))
        return;
    uint64_t since = rests_since(flow, request, look->now);
    note_earlier(&look->longest_ns, since);
    note_earlier(&look->first_rank, rank_of(flow, request));
    if (look->now - since >= look->idle)
        choose(look, fd, rank_of(flow, request));
}

static void end_idle(const struct look *look)
{
    for (unsigned i = 0; i < look->chosen; i++) {
        int fd = look->candidate[i].fd;
        struct flow *flow = flow_at(descriptor_at(fd));
        struct request *request = flow ? request_of(flow) : NULL;
        if (!rests(request) || !nothing_on_the_way(fd))
            continue;
        if (!idle_take(look->candidate[i].rank, look->now, interval_ns()))
            return;
        end(fd, flow, request, false);
    }
}

/* --- all of them --- */

static void note_limit(uint64_t now)
{
    uint64_t limit = head_limit();
    if (atomic_exchange(&late_limit_ns, limit) != limit)
        atomic_store(&late_limit_since_ns, now);
}

static void look_around(uint64_t now)
{
    struct look look = {.now = now, .idle = idle_limit()};
    uint64_t spent = spent_ns();
    atomic_store(&stirred, false);
    note_limit(now);
    flows_each(look_at, &look);
    idle_publish(look.first_rank);
    atomic_store(&may_go_ns, look.longest_ns ? look.longest_ns + look.idle : 0);
    atomic_store(&resting, look.resting);
    end_idle(&look);
    atomic_store(&look_next_ns, due_again(spent, LOOK_SHARE, interval_ns()));
}

/* Somebody wants a slot, and one may go: not only at the next look. */
static bool urgent(uint64_t now)
{
    uint64_t from = atomic_load_explicit(&may_go_ns, memory_order_relaxed);
    return from && from <= now && idle_wanted(now) &&
           due_claim(&urgent_next_ns, now, URGENT_EVERY_NS);
}

void timeouts_attend(void)
{
    if (__builtin_expect(
            !(atomic_load_explicit(&flows_mode_now, memory_order_relaxed) & FLOWS_REQUESTS), 1) ||
        !wanted())
        return;
    int saved = errno;
    uint64_t now = monotonic_ns();
    if (idle_limit() != LIMIT_OFF)
        idle_tell(now);
    if (urgent(now) || due_claim(&look_next_ns, now, LOOK_MOST_NS))
        look_around(now);
    else
        atomic_store_explicit(&stirred, true, memory_order_relaxed);
    errno = saved;
}

int64_t timeouts_next_look(void)
{
    if (!wanted() || !(atomic_load_explicit(&stirred, memory_order_relaxed) ||
                       atomic_load_explicit(&resting, memory_order_relaxed)))
        return -1;
    uint64_t now = monotonic_ns(), next = atomic_load(&look_next_ns);
    return next > now + SLICE_LEAST_NS ? (int64_t)(next - now) : (int64_t)SLICE_LEAST_NS;
}

int timeouts_slice_ms(const struct request *request)
{
    if (!wanted())
        return -1;
    bool head = atomic_load_explicit(&request->head_ns, memory_order_relaxed) != 0 &&
                head_limit() != LIMIT_OFF;
    return head || idle_limit() != LIMIT_OFF ? (int)(interval_ns() / DUE_MILLISECOND) : -1;
}

static void after_fork_in_child(void)
{
    atomic_store(&look_next_ns, 0);
    atomic_store(&stirred, true);
    atomic_store(&resting, 0);
    atomic_store(&may_go_ns, 0);
}

const struct flow_feature timeouts_feature = {.attend = timeouts_attend,
                                              .after_fork_in_child = after_fork_in_child};
