/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Finding services by name, and reading them without trusting them.
 *
 * bpctl runs as root and a server can write anything to its segment: all that leaves this room is
 * bounded, counted or cleaned of what a terminal would obey.
 */
#ifndef BPCTL_SERVICES_H
#define BPCTL_SERVICES_H

#include "service_file.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Opens the service `name`: the caller's own, or, for root, any user's that is more at work. On
 * failure says why in one line and returns false. Closed with service_close.
 */
bool service_open(const char *name, struct service_file *service);

/* The same for the service of one user, without a word on failure. */
bool service_open_of(const char *name, uid_t owner, struct service_file *service);

/* Calls `visit` for each segment file that the caller may read, opened or not (then `result` tells
 * why). The visitor does not close it. */
void services_each(void (*visit)(struct service_file *service, enum segment_result result,
                                 void *context),
                   void *context);

/* Why a segment could not be opened, for people. */
const char *segment_result_text(enum segment_result result);

/* Removes the file of a service none of whose processes lives, unless one starts just now. */
void service_clear(const struct service_file *service);

/* The same for a file that cannot be read as a segment: removes it if no process has it open. */
bool service_clear_unused(const struct service_file *service);

/* A ceiling that finds itself, as it stands. */
struct found_view {
    uint64_t ceiling;
    uint32_t verdict; /* enum concurrency_verdict, or out of range */
    uint32_t sojourn_us, least_us, answers_per_s;
};

/* Requests of a process, or of the service. What is counted of them is among the counters. */
struct requests_view {
    uint64_t in_flight, waiting, streams;
    struct found_view found; /* requests=auto, total-requests=auto */
    struct histogram_reading sojourn, response;
};

struct process_view {
    pid_t pid; /* in the caller's own pid namespace; 0 when it cannot be seen there: see pids.h */
    pid_t inside; /* in its own, which has this inode; 0 when it did not know */
    uint64_t pid_namespace;
    bool unproved; /* whether it still runs is not known; what it holds goes on counting */
    uint32_t index;
    char command[17];
    uint64_t conns; /* that the kernel still knows */
    uint64_t outbound;
    uint32_t sandboxed; /* as in the segment */
    uint64_t counter[COUNTERS];
    uint64_t override_mask;
    uint64_t override[LIMIT_KEYS];
    struct found_view found; /* conns=auto */
    struct requests_view requests;
};

struct listener_view {
    char address[SEGMENT_ADDRESS_MAX + 1];
    uint64_t cookie;
    uint32_t inode;
    uint32_t asked_backlog;
    uint32_t queue, queue_max; /* connections */
    bool probed;               /* the eBPF probe runs, and has told this: */
    uint32_t peak, wait_p50_us, wait_p99_us;
    uint64_t dropped, refused;
};

/* A destination that failed, and has not succeeded since. */
struct destination_view {
    char address[SEGMENT_DESTINATION_TEXT + 1];
    uint32_t failures;
    int error;        /* errno */
    uint64_t open_ns; /* until its backoff window closes, 0 when it has */
};

struct service_view {
    struct limits limits;
    enum admission_switch admission;
    uint64_t conns; /* that the kernel still knows */
    uint64_t totals[COUNTERS];
    struct found_view found; /* total-conns=auto */
    struct requests_view requests;
    struct histogram_reading accept_wait, sojourn;
    uint64_t conn_buffer_most;          /* queued on the connection that has most, in bytes */
    int sockdiag_error, holdings_error; /* errno: why the audits are blind; see blindness */
    uint32_t peer_most;                 /* connections of the client that has most */
    char peer_most_address[64];         /* while peer-conns is set; or empty */
    unsigned processes, listeners, destinations;
    struct process_view process[SEGMENT_PROCESSES];
    struct listener_view listener[SEGMENT_LISTENERS];
    struct destination_view destination[SEGMENT_DESTINATIONS];
};

/* Reads everything once. The view is large: allocate it. */
void service_view(const struct service_file *service, struct service_view *view);

/*
 * Asks the service's processes to measure how long answers take, for the next minutes: they do not
 * while nobody looks. Then `sojourn` of a view fills.
 */
void service_watch(const struct service_file *service);

/* A limit as it holds for one process of the service. */
uint64_t limit_of_process(const struct service_view *view, const struct process_view *process,
                          enum limit_key key);

/*
 * One line on what the service's audits cannot look at, which is where closes that nobody saw are
 * found; or NULL when they see all.
 */
#define BLINDNESS_MAX 256
const char *blindness(const struct service_view *view, char *out, size_t size);

/* A string from a segment: `out` gets at most `size - 1` printable ASCII bytes. */
void clean_text(const _Atomic uint64_t *words, size_t length, char *out, size_t size);

/* How many clients, and how many requests, were turned away, in whatever way. */
uint64_t shed_in_all(const uint64_t counter[COUNTERS]);
uint64_t requests_shed_in_all(const uint64_t counter[COUNTERS]);

/* Whether a limit on requests is set, for the service or one of its processes, or a request was
 * ever counted. */
bool requests_concern(const struct service_view *view);

/* The user's name, or its number when it has none. */
void owner_name(uid_t owner, char *out, size_t size);

/* The name of a counter as the contract has it. */
const char *counter_name(unsigned counter);

/* The word for a door that is open, paused or draining; `?` for any other number. */
const char *admission_name(enum admission_switch admission);

#endif
