/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What this process knows of the bytes on each admitted connection, and whether anything is to be
 * done about them. One entry a slot, in this process's own memory.
 *
 * While no limit concerns bytes, flow_of() finds nothing and every call goes straight to the
 * kernel.
 */
#ifndef BACKPRESSURE_FLOWS_H
#define BACKPRESSURE_FLOWS_H

#include "base/internal.h"
#include "process/descriptors.h"
#include "process/service.h"

#include <sys/socket.h>
#include <sys/uio.h>

/* Which limits on bytes are in force: flows_mode(). */
enum {
    FLOWS_CREDIT = 1, /* buffer, total-buffer or conn-buffer */
    FLOWS_PAUSE = 2,  /* pause-reads */
    FLOWS_STALL = 4,
    FLOWS_PACE = 8,      /* send-rate or conn-send-rate */
    FLOWS_TIME = 16,     /* a ceiling finds itself: see sojourn.h */
    FLOWS_REQUESTS = 32, /* a limit on requests: struct input_gate in watches.h */
};

/* What a connection is like. Any of FLOW_SIGNS makes the program's input wait: watches.h. */
enum {
    FLOW_WANTS_ROOM = 1,       /* asks for writability and readability, level-triggered */
    FLOW_FELL_SHORT = 2,       /* its last write did; edge-triggered for both */
    FLOW_SIGNS = 3,            /* either */
    FLOW_TOLD_WRITABLE = 4,    /* and has not written since */
    FLOW_FALSE_SIGN = 8,       /* was told so, and had nothing to write */
    FLOW_OWED = 16,            /* readability was withheld: to be reported again */
    FLOW_OUT_OF_SIGHT = 32,    /* the kernel's set does not report its readability now */
    FLOW_PAUSE_COUNTED = 64,   /* in reads_paused, for this pause */
    FLOW_STANDING = 128,       /* the kernel did not take all that was written, last time */
    FLOW_STARVED = 256,        /* would have been given more credit, had there been any */
    FLOW_NONBLOCKING = 512,    /* O_NONBLOCK as last seen */
    FLOW_FOUND_BY_DATA = 1024, /* events in its set can be traced to it */
    FLOW_REARMED = 4096,       /* with EPOLLONESHOT: we armed it once ourselves; from then on */
    FLOW_HANDED_OUT = 8192,    /* the program was told and has not armed it again */
    FLOW_HUNGRY = 2048,        /* wants more than its share of send-rate */
    FLOW_UNGUARDED = 16384,    /* blocks under `stall`, and nothing was done for it: backstop.h */
    FLOW_WAITS_TURN = 32768,   /* a request in it may not begin yet; no sign of output ends that */
};

struct flow {
    _Atomic uint32_t generation; /* of the slot, plus 1 */
    _Atomic uint32_t signs;
    _Atomic int family;
    /* Where the program watches it; set is -1 when that is nowhere, or not known. */
    _Atomic int set, fd;
    _Atomic uint32_t events;
    _Atomic uint64_t data;
    /* watches.h: where a thread sleeps in poll or select until this has its turn, plus 1 */
    _Atomic int waker;
    _Atomic uint64_t produced; /* bytes the program wrote */
    _Atomic bool careful;      /* writes must be looked after: see writing.h */
    _Atomic bool blocks;       /* it has no O_NONBLOCK, as last seen */
    /* metering.h */
    _Atomic uint32_t window, quiet, turn, turn_taken, refusals;
    /* reading.h: bytes of input that the program was told are there; SO_RCVLOWAT, 0 when not known
     */
    _Atomic uint32_t told_of, low_water;
    _Atomic uint64_t turn_produced;
    _Atomic uint32_t ratio;
    /* sojourn.h: since when a request waits for its answer, or 0 */
    _Atomic uint64_t asked_ns;
    /* stalls.h */
    _Atomic uint64_t stood_since_ns, stood_taken, stood_offered;
    /* pacing.h */
    _Atomic uint64_t pace, paced_produced;
    _Atomic uint32_t period;
    /* An error that ended a write of which a part had been taken: the next call's. */
    _Atomic int late_error;
};

extern INTERNAL struct flow flows[SEGMENT_CONNS];
extern INTERNAL _Atomic uint32_t flows_mode_now;
extern INTERNAL _Atomic uint64_t flows_seen_limits;

/*
 * What a limit on bytes does for the flows. Any member may be NULL. Called without a lock held,
 * async-signal-safe; errno need not be kept.
 */
struct flow_feature {
    /* Which of FLOWS_CREDIT and so on the limits ask for now. */
    uint32_t (*mode)(void);
    /* A connection came while a limit on bytes is in force. */
    void (*begin)(int fd, struct flow *flow);
    /* Behind that: it was inherited or received, so its program may write where nobody looks. */
    void (*inherited)(int fd, struct flow *flow);
    /* This process has no descriptor for it any more. */
    void (*end)(struct flow *flow);
    /* Limits changed. */
    void (*adjust)(int fd, struct flow *flow);
    /* Nothing will be done for it from now on: what was withheld is given back. */
    void (*let_go)(struct flow *flow);
    /* The program may have changed its flags or options. */
    void (*changed)(int fd, struct flow *flow);
    /* Whether its writes must be looked after, in these modes. */
    bool (*careful)(const struct flow *flow, uint32_t modes);
    /* What is due, on each turn of a wait. Cheap when nothing is. */
    void (*attend)(void);
    void (*after_fork_in_child)(void);
};
#define FLOW_FEATURES_MOST 10

/*
 * What the floor above does at each read and write while FLOWS_REQUESTS is in force.
 * Async-signal-safe; no lock is held.
 */
struct flow_requests {
    /* Makes a read in place of the program's: recvmsg(2), with its errors. */
    ssize_t (*read)(int fd, struct flow *flow, struct msghdr *message, int flags);
    /* Bytes were read where nobody sees them: splice(2). */
    void (*read_unseen)(struct flow *flow);
    /* Before a write; and after it, as often as the kernel took some: `bytes` of `vector` behind
     * its first `skip` (NULL: of a file), while `rest` were not taken. Both keep errno. */
    void (*writes)(struct flow *flow);
    void (*wrote)(struct flow *flow, const struct iovec *vector, size_t skip, size_t bytes,
                  size_t rest);
};

/* `calls` live for ever. Before a service is joined. */
void flows_limit_requests(const struct flow_requests *calls);
extern INTERNAL const struct flow_requests *flow_requests;

/* `feature` lives for ever; they are called in the order in which they came. Before a service is
 * joined. */
void flows_take_part(const struct flow_feature *feature);

/* Called with the mode of before and after, when limits have changed: for what else is paced. */
void flows_on_limits(void (*adjust)(uint32_t before, uint32_t after));

/* Works the mode out again after limits changed, and brings every connection in line. */
void flows_refresh(void);

/* The mode is worked out again soon, although no limit changed. */
void flows_work_out_anew(void);

static inline uint64_t flows_limits_version(void)
{
    return (uint64_t)atomic_load_explicit(&service.segment->limits_sequence, memory_order_relaxed)
               << 32 |
           atomic_load_explicit(&service_self()->override_sequence, memory_order_relaxed);
}

/* Whether the mode was worked out from the limits as they are. */
static inline bool flows_mode_current(void)
{
    return __builtin_expect(flows_limits_version() ==
                                atomic_load_explicit(&flows_seen_limits, memory_order_relaxed),
                            1);
}

/* Which limits on bytes are in force: FLOWS_CREDIT and so on, or 0. Two loads when none changed. */
static inline uint32_t flows_mode(void)
{
    if (!flows_mode_current())
        flows_refresh();
    return atomic_load_explicit(&flows_mode_now, memory_order_relaxed);
}

/*
 * Whether no limit on bytes was in force when this process last touched a connection. One load: for
 * calls that touch none, to which a limit set since then means nothing yet.
 */
static inline bool flows_quiet(void)
{
    return __builtin_expect(atomic_load_explicit(&flows_mode_now, memory_order_relaxed) == 0, 1);
}

/* Whether no limit on bytes is in force, and none was set since the mode was worked out. */
static inline bool flows_idle(void)
{
    return flows_quiet() && flows_mode_current();
}

/*
 * Whether reads and writes of `fd` are none of the shim's business: it is not tracked, or it is an
 * admitted connection and no limit concerns bytes. A comparison and a load, or some ten more.
 */
static inline bool flows_leave_alone(int fd)
{
    descriptor what = descriptor_at(fd);
    return __builtin_expect(what == 0, 1) ||
           (descriptor_kind(what) == DESCRIPTOR_CONN && flows_idle());
}

/* The mode as flows_mode, or flow_of, has worked it out a moment ago. One load. */
static inline uint32_t flows_mode_seen(void)
{
    return atomic_load_explicit(&flows_mode_now, memory_order_relaxed);
}

/* The mode where nothing may be in force at all: outside a service, and in a vfork child. */
static inline uint32_t flows_mode_here(void)
{
    return service_active() && !in_vfork_child ? flows_mode() : 0;
}

/* Whether `stall` was in force when the mode was worked out. One load: for calls that look at the
 * mode anyhow. */
static inline bool flows_may_stall(void)
{
    return __builtin_expect(
        atomic_load_explicit(&flows_mode_now, memory_order_relaxed) & FLOWS_STALL, 0);
}

/* The flow of a tracked connection's slot; what an earlier connection left in it is gone. */
static inline struct flow *flow_at(descriptor what)
{
    uint32_t slot = descriptor_index(what);
    if (descriptor_kind(what) != DESCRIPTOR_CONN || slot >= SEGMENT_CONNS ||
        atomic_load_explicit(&flows[slot].generation, memory_order_relaxed) !=
            descriptor_generation(what) + 1)
        return NULL;
    return &flows[slot];
}

/* The flow of a slot, if this process holds the connection that is in it now. */
struct flow *flow_at_slot(uint32_t slot);

/* The flow of `fd` when it is an admitted connection and a limit on bytes is in force, or NULL. */
static inline struct flow *flow_of(int fd)
{
    descriptor what = descriptor_at(fd);
    if (__builtin_expect(descriptor_kind(what) != DESCRIPTOR_CONN, 1) || !flows_mode_here())
        return NULL;
    return flow_at(what);
}

static inline uint32_t flow_slot(const struct flow *flow)
{
    return (uint32_t)(flow - flows);
}

static inline struct segment_conn *flow_conn(const struct flow *flow)
{
    return &service.segment->conn[flow_slot(flow)];
}

static inline uint32_t flow_signs(const struct flow *flow)
{
    return atomic_load_explicit(&flow->signs, memory_order_relaxed);
}

/* Nothing was withheld from it and nothing stands still: the usual case, with nothing to do. */
static inline bool flow_untroubled(const struct flow *flow)
{
    return (flow_signs(flow) & ~(uint32_t)(FLOW_NONBLOCKING | FLOW_FOUND_BY_DATA | FLOW_REARMED |
                                           FLOW_HANDED_OUT)) == 0;
}

/* The mode or the grant changed: works out anew whether its writes must be looked after. */
void flow_reconsider(struct flow *flow);

/* A connection came: accepted, inherited or received. `status`: its file status flags, or -1 when
 * they are not known. */
void flows_begin(int fd, uint32_t slot, uint32_t generation, int family, long status);

/* After flows_begin, when it was inherited or received: its program may write where nobody looks.
 */
void flows_inherited(int fd);

/* This process has no descriptor for it any more. */
void flows_end(uint32_t slot, uint32_t generation);

/* fcntl or ioctl may have changed O_NONBLOCK. `status`: what the flags are now, or -1: to be asked.
 */
void flows_reread(int fd, long status);

/*
 * A number of our own for the connection `fd`, which another thread may close any time; the number
 * may then be somebody else's. -1 when it is not the flow's any more, or there is no number left.
 * Closed by kernel_call.
 */
int flow_hold(int fd, const struct flow *flow);

/* Bytes that the kernel holds for sending: SIOCOUTQ. */
uint32_t flow_queued(int fd);

/* Clears and sets signs, and keeps count of the connections that need attention. Returns them as
 * they were. */
uint32_t flow_sign(struct flow *flow, uint32_t set, uint32_t clear);

/* Calls `visit` for every connection that this process holds. */
void flows_each(void (*visit)(int fd, struct flow *flow, void *context), void *context);

/* Records an event of the connection at `fd`, each kind at most once a second. */
void flows_tell(int fd, enum event_kind kind, uint64_t amount);

/* How many connections have the sign. One load. */
uint32_t flows_starved(void);
uint32_t flows_standing(void);

/* What is due: credit for those that starve, stalls, measuring. Cheap when nothing is. */
void flows_attend(void);

/* Before a seccomp filter, while nothing is served: whose input waits is listened to again. */
void flows_before_sandbox(void);

void flows_after_fork_in_child(void);

#endif
