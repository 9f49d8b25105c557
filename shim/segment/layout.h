/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The control segment: one file per service, mapped by its processes and by bpctl.
 *
 * This is the only place that knows its layout. Everything in it is a fixed-size table of lock-free
 * atomics. A server can scribble on it and bpctl runs as root, so whoever reads an index, a length
 * or a string from it bounds that first.
 *
 * A word in brackets says what guards a field, or all fields down to the next such word
 * (shim/README.md says more of each):
 *
 *   [once]    written before the file has its name, or the entry an owner, and never again
 *   [single]  a number that stands for nothing else: any process writes it, in one step
 *   [due]     a time, moved by compare and exchange: who moved it has the work, or the token
 *   [gauge]   compare and exchange of count and epoch at once (base/gauge.h)
 *   [latch]   one writer, with the lock on the file (flock(2)); readers take none
 *   [owner]   written by the process that the entry's state word names, and by nobody else
 *   [state]   such a word: compare and exchange says whose the entry is
 *   [bits]    each process sets and clears its own
 *   [lease]   a lock that its holder may lose (base/lease_lock.h)
 *   [ticket]  0 while the rest is written; readers read it before and after
 *
 * HOT begins a cache line: what many processes write at the same occasion shares one, and shares it
 * with nothing that is read at other occasions. tests/unit/layout.txt has where each part lies; a
 * new layout is a new SEGMENT_VERSION.
 */
#ifndef BACKPRESSURE_LAYOUT_H
#define BACKPRESSURE_LAYOUT_H

#include "base/clock.h"
#include "base/gauge.h"
#include "base/histogram.h"
#include "base/lease_lock.h"
#include "limits/limits.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SEGMENT_MAGIC UINT64_C(0x3173736572706b62) /* "bkpress1" */
#define SEGMENT_VERSION 9
#define SEGMENT_CONNS 65536
#define SEGMENT_PEERS 65536
#define SEGMENT_PEERS_STEP 256
#define SEGMENT_PROCESSES 2048
#define SEGMENT_PROCESS_SIZE 2048 /* a power of two: every call finds its own entry by a shift */
#define SEGMENT_LISTENERS 256
#define SEGMENT_DESTINATIONS 512
#define SEGMENT_EVENTS 2048
#define SEGMENT_EVENT_TEXT 88
#define SEGMENT_ADDRESS_MAX 120
#define SEGMENT_PATH_MAX 256

#define HOT _Alignas(64)

/* What is counted, in each process and in the service. */
#define COUNTER(id, name, kind) COUNTER_##id,
enum counter {
#include "segment/counters.def"
    COUNTERS
};
#undef COUNTER

/* A connection slot's life: its state word is `generation << 2 | conn_phase`. */
enum conn_phase { CONN_FREE, CONN_OPENING, CONN_OPEN, CONN_CLOSING };

/* Flags of an open connection. */
enum {
    CONN_SHARED = 1,  /* a holder may exist that no process table entry names */
    CONN_FOREIGN = 2, /* lives in a network namespace that the service's audits do not see */
    CONN_UNIX = 4,
    CONN_OWN_SNDBUF = 8, /* the program set SO_SNDBUF itself: no grant above that */
    CONN_OWN_LOWAT = 16, /* and TCP_NOTSENT_LOWAT: hands off */
    CONN_PASSED = 32,    /* was sent in a message, where it may still be, in nobody's table */
    CONN_BACKSTOP = 64,  /* TCP_USER_TIMEOUT is the shim's: backstop.h */
};

/* The upper half of the flags: index + 1 of the process that goes on watching a connection which it
 * let go of (witness.h), or 0. */
#define CONN_WITNESS_SHIFT 16
#define CONN_FLAG_BITS ((UINT32_C(1) << CONN_WITNESS_SHIFT) - 1)

/* Families that the service ever accepted from. */
enum { FAMILY_INET = 1, FAMILY_INET6 = 2, FAMILY_UNIX = 4 };

#define CONN_HOLDERS 4 /* process indexes that fit in one word */

/* Its state word is segment.conn_state, which has the same index: while OPENING or CLOSING the
 * entry is whoever's made it so. While OPEN: */
struct segment_conn {
    /* [bits], by compare and exchange: CONN_HOLDERS times 16 bits, process index + 1, or 0 */
    HOT _Atomic uint64_t holders;
    /* [owner], who opened it */
    _Atomic uint64_t inode; /* of the socket, as fstat, sock_diag and /proc have it; 0: unknown */
    _Atomic uint64_t accepted_ns;
    _Atomic uint32_t peer; /* index + 1 in peers, or 0 */
    /* [single] */
    _Atomic uint32_t flags;
    _Atomic uint32_t grant;       /* KiB of output that the kernel may hold for it: see credit.h */
    _Atomic uint32_t told_sndbuf; /* the SO_SNDBUF that the program believes in, by getsockopt */
    _Atomic uint32_t turn;      /* futex: moves when a thread that waits for its turn is to look */
    _Atomic uint32_t in_flight; /* index + 1 of the process whose request in flight it is, or 0 */
};

/*
 * One client address; a count of 0 makes the entry free for another. While its key is written the
 * place of the count has PEER_CLAIMED and the index of the process that writes; PEER_REVOKED when
 * another has moved on meanwhile: see policy/peer_table.h.
 */
struct segment_peer {
    _Atomic uint64_t key[2]; /* [owner], and the lease peers_lock */
    struct gauge conns;      /* [gauge], and [state] while the key is written */
};

#define PEER_CLAIMED (UINT32_C(1) << 31)
#define PEER_REVOKED (UINT32_C(1) << 30)

/* What the lower half of a peer's gauge counts: nothing while its key is written. */
static inline uint32_t peer_count(uint64_t word)
{
    return (uint32_t)word & (PEER_CLAIMED | PEER_REVOKED) ? 0 : (uint32_t)word;
}

enum process_phase { PROCESS_FREE, PROCESS_CLAIMED, PROCESS_LIVE, PROCESS_REAPING };

enum {
    PROCESS_FOREIGN = 1,   /* in another network namespace than the service when it joined */
    PROCESS_LOCKED = 2,    /* it has the lock of its entry: see liveness.h */
    PROCESS_EXECUTING = 4, /* from before exec until the new program has found the entry */
};

/* A ceiling that finds itself: see policy/auto_limit.h. Times in microseconds. */
struct segment_concurrency {
    /* [owner] of the window: who moved window_ns past its end */
    _Atomic uint32_t ceiling;              /* 0: not begun */
    _Atomic uint32_t verdict;              /* enum concurrency_verdict, of the last window */
    _Atomic uint32_t probing, next_probe;  /* windows left of a probe; windows until the next one */
    _Atomic uint32_t ceiling_before;       /* the probe */
    _Atomic uint32_t sojourn_us, least_us; /* of the last window; least of late */
    _Atomic uint32_t least_now_us, least_before_us; /* in this epoch and the one before */
    _Atomic uint64_t epoch_ns;
    _Atomic uint32_t answers_per_s;
    /* the window under way */
    _Atomic uint64_t window_ns; /* [due], when it began */
    /* [single], added to */
    _Atomic uint64_t sum_us, sum_of_squares; /* of the sampled sojourns */
    _Atomic uint32_t samples, answers, conns_sum, conns_most;
};

#define CONCURRENCY_FIRST 16 /* where a ceiling begins that finds itself */

enum concurrency_verdict {
    CONCURRENCY_UNTRIED,
    CONCURRENCY_UNUSED,  /* fewer connections than the ceiling: left as it is */
    CONCURRENCY_RAISED,  /* at the ceiling, and answers do not wait for each other */
    CONCURRENCY_LOWERED, /* answers wait for each other */
    CONCURRENCY_STEADY,
    CONCURRENCY_PROBING, /* lowered for a moment, to see how fast an answer can be */
    CONCURRENCY_VERDICTS
};

struct segment_process {
    /* [state]: generation << 40 | phase << 32 | pid, or the reaper: reaping.c */
    _Alignas(SEGMENT_PROCESS_SIZE) _Atomic uint64_t identity;
    /* [owner] */
    _Atomic uint64_t since_ns;      /* when the phase, or an exec, began; CLOCK_MONOTONIC; or 0 */
    _Atomic uint64_t pid_namespace; /* the inode of the one that `pid` is from; 0: not known */
    _Atomic uint64_t started;       /* in clock ticks since the machine did; 0: not known */
    _Atomic uint64_t command[2];
    _Atomic uint32_t flags;     /* PROCESS_FOREIGN and so on */
    _Atomic uint32_t sandboxed; /* 1 + what its seccomp filters keep out (SANDBOX_BYTES), or 0 */
    /* [latch] */
    HOT _Atomic uint64_t override_mask; /* a bit for each limit set for this process alone */
    _Atomic uint64_t override[LIMIT_KEYS];
    _Atomic uint32_t override_sequence; /* moves when bpctl changed an override */
    /* [gauge] */
    HOT struct gauge conns;
    struct gauge outbound; /* connections that it made */
    struct gauge credit;   /* KiB granted to the connections it holds */
    struct gauge requests; /* in flight: requests/in_flight.h */
    /* [single] */
    _Atomic uint32_t pending;          /* changes under way: see connections.h */
    _Atomic uint32_t slicing;          /* threads that wait in slices for room */
    _Atomic uint32_t requests_waiting; /* for their turn */
    _Atomic uint32_t streams;          /* connections that no limit on requests concerns */
    _Atomic uint64_t idle_since_ns;    /* of the one that is idle longest; or 0: requests/idle.h */
    _Atomic uint64_t counter[COUNTERS];
    HOT struct segment_concurrency concurrency;         /* conns=auto */
    HOT struct segment_concurrency request_concurrency; /* requests=auto */
    /* [single], added to */
    HOT struct histogram request_wait, response; /* as in struct segment */
};

/* A queue, and whether it stands: policy/queue_delay.h. */
struct segment_queue {
    /* [single] */
    _Atomic uint32_t crowded;               /* who was let in last had waited: see flood.h */
    _Atomic uint32_t late_queue;            /* how many waited when the first one was late */
    _Atomic uint32_t late_mark, late_marks; /* the last step of its growth since, and how many */
    _Atomic uint64_t late_from_ns;          /* when a wait above the target counts as standing */
    _Atomic uint64_t standing_until_ns;
    _Atomic uint64_t counts_until_ns; /* while it stands: when these are looked at */
    _Atomic uint32_t begun, turned_away;
};

/* How long clients wait before they give up: policy/patience.h. */
struct segment_patience {
    _Atomic uint64_t mean_ns, seen_ns; /* a moving average, and when somebody gave up last */
    _Atomic uint32_t places;           /* that were given */
};

#define TURN_OVERTAKEN 4

/* Whose turn it is to accept from a listener that blocks: see turns.h. */
struct segment_turn {
    struct lease_lock lock; /* [lease] */
    /* [single], by compare and exchange */
    _Atomic uint64_t overtaken[TURN_OVERTAKEN]; /* leases lost by processes that live, or 0 */
    _Atomic uint64_t clearing;                  /* the lease of who takes the flag off, or 0 */
    _Atomic uint32_t unblocked; /* not 0: its O_NONBLOCK is ours, because of these */
};

#define HOLDER_WORDS (SEGMENT_PROCESSES / 64)

/* An entry without a holder is free: see listener_table.h. */
struct segment_listener {
    /* [state], as long as there are holders */
    HOT _Atomic uint64_t cookie;            /* 0: nobody's yet, or closed for certain */
    _Atomic uint64_t holders[HOLDER_WORDS]; /* [bits], one for each process that has it open */
    /* [once] */
    _Atomic uint64_t address[SEGMENT_ADDRESS_MAX / 8];
    /* [single] */
    _Atomic uint32_t asked_backlog; /* by the program's listen, plus 1; 0 when that was not seen */
    _Atomic uint32_t gated;         /* a SYN gate is attached */
    _Atomic uint32_t gated_once;    /* what it accepts may have inherited the gate */
    HOT struct segment_turn turn;
    HOT struct segment_queue queue;
    /* What the eBPF probe saw, when it runs; queues in connections, times in microseconds.
     * [single], written by bpctl alone */
    HOT _Atomic uint64_t probed_ns; /* CLOCK_MONOTONIC */
    _Atomic uint32_t probed_peak;
    _Atomic uint32_t probed_wait_p50_us, probed_wait_p99_us;
    _Atomic uint64_t probed_dropped, probed_refused;
};

/* Otherwise an entry's state is the reference (PROCESS_REFERENCE_SHIFT) of who is writing it. */
enum destination_state { DESTINATION_FREE, DESTINATION_USED };

#define SEGMENT_DESTINATION_TEXT 112

/* Where the service's programs connect to, and whether they are to wait: see backoff.h. */
struct segment_destination {
    _Atomic uint64_t state; /* [state] */
    /* [owner] while `state` names one, then nobody's */
    _Atomic uint64_t key[3];
    _Atomic uint64_t address[SEGMENT_DESTINATION_TEXT / 8];
    /* [single] */
    _Atomic uint32_t failures;            /* windows, one after the other, without a success */
    _Atomic uint32_t error;               /* the last errno */
    _Atomic uint64_t until_ns, failed_ns; /* CLOCK_MONOTONIC */
};

#define EVENT(id, name, text) EVENT_##id,
enum event_kind {
#include "segment/events.def"
    EVENT_KINDS
};
#undef EVENT

struct segment_event {
    _Atomic uint64_t ticket; /* [ticket]: number of the event + 1, or 0 while it is written */
    /* [owner], who drew the number from events_next */
    _Atomic uint64_t time_ns; /* CLOCK_REALTIME */
    _Atomic uint32_t kind;
    _Atomic uint32_t pid;
    _Atomic uint64_t amount;
    _Atomic uint64_t text[SEGMENT_EVENT_TEXT / 8];
};

/* Tables that grow from their beginning. */
enum growing_table {
    GROWING_LISTENERS,
    GROWING_DESTINATIONS,
    GROWING_EVENTS,
    GROWING_PROCESSES,
    GROWING_CONNS,
    GROWING_TABLES
};

enum admission_switch { ADMISSION_OPEN, ADMISSION_PAUSED, ADMISSION_DRAINING, ADMISSION_SWITCHES };

/* How long the processes go on timing answers after bpctl looked. */
#define SEGMENT_WATCH_NS (UINT64_C(300) * 1000000000)

#define SEGMENT_LIMIT_WORDS (sizeof(struct limits) / sizeof(uint64_t))

struct segment {
    /* [once] */
    _Atomic uint64_t magic; /* written last, and checked before every admission */
    _Atomic uint32_t version;
    _Atomic uint32_t reserved;
    _Atomic uint64_t size;
    _Atomic uint64_t network; /* inode of the network namespace */
    /* Read at each turn and seldom written. [latch] */
    _Atomic uint32_t limits_sequence; /* odd while bpctl writes: then limit_before counts */
    /* [single] */
    _Atomic uint32_t admission;      /* enum admission_switch */
    _Atomic uint64_t watch_until_ns; /* a thread blocked in accept sees to all audits until then */
    _Atomic uint64_t timed_until_ns; /* somebody looks at how long answers take: see sojourn.h */
    _Atomic uint32_t families;       /* FAMILY_INET and so on; or-ed in */
    _Atomic uint32_t processes_used; /* no index at or above it was ever used; only raised */
    _Atomic uint32_t conns_used;
    _Atomic uint32_t listeners_used;
    _Atomic uint32_t ready[GROWING_TABLES]; /* entries that exist, only raised: see growth.h */
    _Atomic uint64_t peers_ready[SEGMENT_PEERS / SEGMENT_PEERS_STEP / 64]; /* a bit for each step */
    _Atomic uint64_t path[SEGMENT_PATH_MAX / 8]; /* [once]: as it was created */
    /* [latch] */
    HOT _Atomic uint64_t limit[SEGMENT_LIMIT_WORDS];    /* struct limits, word by word */
    _Atomic uint64_t limit_before[SEGMENT_LIMIT_WORDS]; /* whole while limit is being written */
    _Atomic uint64_t limit_first[SEGMENT_LIMIT_WORDS]; /* [once]: as the service was started with */

    /* A slot taken, a slot freed. */
    HOT struct gauge conns;        /* [gauge] */
    _Atomic uint64_t rate_next_ns; /* [due], token bucket, as the theoretical arrival time */
    _Atomic uint32_t conns_cursor; /* [single] from here on; where a free slot is looked for */
    _Atomic uint32_t room;         /* futex: moves whenever a slot may have become free */
    _Atomic uint32_t room_awaited; /* somebody sleeps on it */
    _Atomic uint64_t freed_ns;     /* when a slot became free last */
    _Atomic uint64_t freed_gap_ns; /* from one to the next: a moving average */
    _Atomic uint64_t conns_peak;   /* only raised */
    /* A grant changed. */
    HOT struct gauge credit;        /* [gauge]: KiB granted to all connections */
    _Atomic uint32_t credit_wanted; /* [single]: moves when some process found none to give */
    _Atomic uint64_t buffer_peak;   /* [single], only raised; bytes */
    /* A request begun, a request answered. */
    HOT struct gauge requests;              /* [gauge]: in flight */
    _Atomic uint64_t request_rate_next_ns;  /* [due], token bucket, as rate_next_ns */
    _Atomic uint64_t requests_recount_ns;   /* [due]: to compare the count with the slots again */
    _Atomic uint64_t requests_peak;         /* [single], only raised */
    HOT struct segment_queue request_queue; /* requests that wait in their connections */
    struct segment_patience patience;       /* [single] each: of those who wait in line */
    HOT _Atomic uint64_t turn[SEGMENT_PROCESSES]; /* [owner]: whose turn it is: requests/line.h */
    HOT struct segment_concurrency concurrency;   /* total-conns=auto */
    HOT struct segment_concurrency request_concurrency; /* total-requests=auto */
    /* [single], added to. Of a sample each. */
    HOT struct histogram accept_wait; /* how long clients were in accept queues */
    HOT struct histogram sojourn;     /* and requests in the program */
    /* How long requests waited before they began, and from then to the first byte of the answer: of
     * the processes that are gone. */
    HOT struct histogram request_wait, response;
    HOT struct lease_lock peers_lock; /* [lease] */
    /* What happens a few times a second at most. [due] */
    HOT _Atomic uint64_t flood_next_ns;  /* token bucket: processor time spent on refusals */
    _Atomic uint64_t audit_next_ns;      /* when the next dump of the kernel's sockets may start */
    _Atomic uint64_t reap_next_ns;       /* when to look for dead processes again */
    _Atomic uint64_t name_next_ns;       /* when to look whether `path` is this file's */
    _Atomic uint64_t listeners_full_ns;  /* when that is to be said again */
    _Atomic uint64_t slots_told_next_ns; /* when to say again how many want a slot */
    /* [single] */
    _Atomic uint32_t name_lost;       /* `path` is no longer this file's; said */
    _Atomic uint32_t sandbox_told;    /* EVENT_SANDBOXED was recorded */
    _Atomic uint32_t slots_wanted;    /* by clients; taken from: requests/idle.h */
    _Atomic uint64_t slots_wanted_ns; /* when that was said */
    _Atomic uint32_t sockdiag_error;  /* why the kernel's sockets could not be listed last, or 0 */
    _Atomic uint32_t holdings_error;  /* the same of the processes' descriptors in /proc */
    _Atomic uint64_t retired[COUNTERS]; /* added to, from processes that are gone */
    _Atomic uint64_t events_next;       /* added to */

    struct segment_listener listener[SEGMENT_LISTENERS];
    struct segment_destination destination[SEGMENT_DESTINATIONS];
    struct segment_event event[SEGMENT_EVENTS];
    struct segment_process process[SEGMENT_PROCESSES];
    _Atomic uint32_t conn_state[SEGMENT_CONNS]; /* [state]: generation << 2 | enum conn_phase */
    struct segment_conn conn[SEGMENT_CONNS];
    struct segment_peer peer[SEGMENT_PEERS];
};

_Static_assert(sizeof(struct limits) % sizeof(uint64_t) == 0, "published word by word");
_Static_assert(SEGMENT_PROCESSES < UINT16_MAX, "a holder has 16 bits");
_Static_assert(SEGMENT_PROCESSES <= LEASE_HOLDERS, "a lease names its holder");
_Static_assert(sizeof(struct segment_process) == SEGMENT_PROCESS_SIZE, "found by a shift");
_Static_assert(SEGMENT_PROCESSES % 64 == 0, "a bit for each");

static inline unsigned conn_phase(uint32_t state)
{
    return state & 3;
}

static inline uint32_t process_pid(uint64_t identity)
{
    return (uint32_t)identity;
}

static inline unsigned process_phase(uint64_t identity)
{
    return identity >> 32 & 0xff;
}

static inline uint32_t process_generation(uint64_t identity)
{
    return (uint32_t)(identity >> 40);
}

/* A new identity for the entry that had `before`; the generation tells them apart. */
static inline uint64_t process_identity(uint64_t before, enum process_phase phase, uint32_t pid)
{
    return ((before >> 40) + 1) << 40 | (uint64_t)phase << 32 | pid;
}

/* The entry in a reference to a process (processes_self), which has the generation below it. */
#define PROCESS_REFERENCE_SHIFT 24
static inline uint32_t process_of_reference(uint64_t reference)
{
    return (uint32_t)(reference >> PROCESS_REFERENCE_SHIFT & UINT32_MAX);
}

#endif
