/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "output/stalls.h"

#include "base/due.h"
#include "base/polling.h"
#include "base/real.h"
#include "base/tcp_state.h"
#include "base/trace.h"
#include "output/backstop.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

#define LOOKS_PER_STALL 8
#define LOOK_LEAST_NS (10 * DUE_MILLISECOND)
#define LOOK_MOST_NS (1000 * DUE_MILLISECOND)
#define LOOK_SHARE 50
#define SLICE_LEAST_NS DUE_MILLISECOND
#define WAS_RESET UINT64_MAX /* since when it stands, until the program closes it */

static _Atomic uint64_t look_next_ns;
static _Atomic bool stirred;         /* the program ran since the last look */
static _Atomic uint32_t outstanding; /* connections that called for another look at the last one */

static bool wanted(void)
{
    return flows_mode() & FLOWS_STALL;
}

static uint64_t interval_ns(void)
{
    uint64_t interval = service_limit(LIMIT_STALL) / LOOKS_PER_STALL;
    interval = interval > LOOK_LEAST_NS ? interval : LOOK_LEAST_NS;
    return interval < LOOK_MOST_NS ? interval : LOOK_MOST_NS;
}

/* --- one connection --- */

/* What changes when the peer takes something. */
struct progress {
    uint64_t taken;   /* bytes acknowledged; where nobody says, bytes queued */
    uint64_t offered; /* bytes the program wrote, as far as they were seen; 0 where that is known */
};

/* False when the connection is over, or nothing can be said of it. */
static bool progress_of(int fd, const struct flow *flow, uint32_t queued, struct progress *progress)
{
    struct tcp_state state = {0};
    *progress = (struct progress){queued, atomic_load(&flow->produced)};
    if (flow->family != AF_UNIX)
        state = tcp_state_of(fd);
    if (state.is_closed)
        return false;
    if (!state.tells_acked)
        return progress->offered > 0;
    *progress = (struct progress){state.bytes_acked, 0};
    return true;
}

static void start_clock(struct flow *flow, const struct progress *progress, uint64_t now)
{
    atomic_store(&flow->stood_taken, progress->taken);
    atomic_store(&flow->stood_offered, progress->offered);
    atomic_store(&flow->stood_since_ns, now);
}

/* AF_UNIX has no reset; its peer sees the end. */
static bool dissolved(int fd, const struct flow *flow)
{
    return (flow->family != AF_UNIX && tcp_dissolve(fd)) ||
           kernel_call(SYS_shutdown, fd, SHUT_RDWR) == 0;
}

static bool has_hung_up(int fd)
{
    struct pollfd nothing = {.fd = fd};
    return polling_now(&nothing, 1) > 0 && nothing.revents & POLLHUP;
}

/* Another thread may close `fd` now, and the number be somebody else's: a number of our own holds
 * on to what it was when the table still had it. */
static void reset(int fd, const struct flow *flow, uint32_t queued)
{
    int own = (int)kernel_call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 0);
    /* Another process that holds it may have reset it before. */
    if (flow_at(descriptor_at(fd)) == flow && !has_hung_up(own >= 0 ? own : fd)) {
        flows_tell(fd, EVENT_STALL_RESET, queued);
        trace(TRACE_OUTPUT, "stall-reset", fd, "queued", queued, NULL, 0);
        if (dissolved(own >= 0 ? own : fd, flow))
            service_count(COUNTER_STALLS_RESET, 1);
    }
    if (own >= 0)
        kernel_call(SYS_close, own);
}

static bool check(int fd, struct flow *flow)
{
    struct progress progress;
    uint64_t since = atomic_load(&flow->stood_since_ns), now = monotonic_ns();
    if (since == WAS_RESET)
        return false;
    uint32_t queued = flow_queued(fd);
    if (queued == 0 || !progress_of(fd, flow, queued, &progress)) {
        if (since)
            atomic_store(&flow->stood_since_ns, 0);
        return false;
    }
    bool moved = since == 0 || progress.taken != atomic_load(&flow->stood_taken) ||
                 progress.offered != atomic_load(&flow->stood_offered);
    if (moved) {
        start_clock(flow, &progress, now);
        return true;
    }
    if (now < since || now - since < service_limit(LIMIT_STALL))
        return true;
    /* Only one thread resets it. */
    if (atomic_compare_exchange_strong(&flow->stood_since_ns, &since, WAS_RESET))
        reset(fd, flow, queued);
    return false;
}

bool stalls_check(int fd, struct flow *flow)
{
    if (!wanted())
        return false;
    int saved = errno;
    bool is_outstanding = check(fd, flow);
    errno = saved;
    return is_outstanding;
}

static void adjust(int fd, struct flow *flow)
{
    (void)fd;
    uint64_t since = atomic_load(&flow->stood_since_ns);
    if (since != WAS_RESET)
        atomic_compare_exchange_strong(&flow->stood_since_ns, &since, 0);
}

/* --- all of them --- */

void stalls_note_running(void)
{
    if (!wanted() || atomic_load_explicit(&stirred, memory_order_relaxed))
        return;
    uint64_t now = monotonic_ns(), next = atomic_load(&look_next_ns);
    if (next <= now) /* it slept: what it wrote just now has the time of a look to go */
        atomic_compare_exchange_strong(&look_next_ns, &next, now + interval_ns());
    atomic_store(&stirred, true);
}

/* A blocking descriptor's thread may write and then sleep where nobody stirs. */
static void look_at(int fd, struct flow *flow, void *context)
{
    uint32_t *count = context;
    if (flow_signs(flow) & FLOW_UNGUARDED)
        backstop_set(fd, flow);
    bool is_outstanding = check(fd, flow);
    *count += is_outstanding || !(flow_signs(flow) & FLOW_NONBLOCKING);
}

void stalls_look(void)
{
    static _Thread_local bool looking __attribute__((tls_model("initial-exec")));
    if (!wanted() || looking || !due_claim(&look_next_ns, monotonic_ns(), LOOK_MOST_NS))
        return;
    int saved = errno;
    uint64_t spent = spent_ns();
    uint32_t count = 0;
    looking = true;
    atomic_store(&stirred, false);
    flows_each(look_at, &count);
    atomic_store(&outstanding, count);
    looking = false;
    atomic_store(&look_next_ns, due_again(spent, LOOK_SHARE, interval_ns()));
    errno = saved;
}

int64_t stalls_until_look(void)
{
    if (!wanted() || !(atomic_load(&stirred) || atomic_load(&outstanding)))
        return -1;
    uint64_t now = monotonic_ns(), next = atomic_load(&look_next_ns);
    return next > now + SLICE_LEAST_NS ? (int64_t)(next - now) : (int64_t)SLICE_LEAST_NS;
}

static void after_fork_in_child(void)
{
    atomic_store(&look_next_ns, 0);
    atomic_store(&stirred, false);
}

static uint32_t mode(void)
{
    return service_limit(LIMIT_STALL) != LIMIT_OFF ? FLOWS_STALL : 0;
}

static void attend(void)
{
    stalls_attend();
}

const struct flow_feature stalls_feature = {
    .mode = mode, .adjust = adjust, .attend = attend, .after_fork_in_child = after_fork_in_child};
