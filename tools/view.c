/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Reading a service once, as the kernel confirms it: connections and listeners are what sock_diag
 * knows, not what a count in the segment claims.
 */
#include "pids.h"

#include "../shim/base/sockdiag.h"
#include "../shim/segment/growth.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROBE_FRESH_NS UINT64_C(5000000000)

struct kernel_sockets {
    struct sockdiag_entry *entry; /* listeners by cookie, connections by inode */
    size_t count, room;
    bool complete;
};

static void collect(const struct sockdiag_entry *entry, void *context)
{
    struct kernel_sockets *sockets = context;
    if (sockets->count == sockets->room) {
        size_t room = sockets->room ? sockets->room * 2 : 1024;
        struct sockdiag_entry *grown = realloc(sockets->entry, room * sizeof *grown);
        if (!grown) {
            sockets->complete = false;
            return;
        }
        sockets->entry = grown;
        sockets->room = room;
    }
    sockets->entry[sockets->count++] = *entry;
}

static int compare(uint64_t a, uint64_t b)
{
    return (a > b) - (a < b);
}

static int by_cookie(const void *left, const void *right)
{
    return compare(((const struct sockdiag_entry *)left)->cookie,
                   ((const struct sockdiag_entry *)right)->cookie);
}

static int by_inode(const void *left, const void *right)
{
    return compare(((const struct sockdiag_entry *)left)->inode,
                   ((const struct sockdiag_entry *)right)->inode);
}

static const struct sockdiag_entry *find(const struct kernel_sockets *sockets,
                                         struct sockdiag_entry wanted,
                                         int (*order)(const void *, const void *))
{
    return sockets->count ? bsearch(&wanted, sockets->entry, sockets->count, sizeof wanted, order)
                          : NULL;
}

static const struct sockdiag_entry *find_connection(const struct kernel_sockets *sockets,
                                                    uint64_t inode)
{
    return inode && inode <= UINT32_MAX
               ? find(sockets, (struct sockdiag_entry){.inode = (uint32_t)inode}, by_inode)
               : NULL;
}

/* By its cookie; or by its inode, where the service was not told that. */
static const struct sockdiag_entry *find_listener(const struct kernel_sockets *sockets,
                                                  uint64_t identity)
{
    if (!(identity & SOCKDIAG_BY_INODE))
        return find(sockets, (struct sockdiag_entry){.cookie = identity}, by_cookie);
    for (size_t i = 0; i < sockets->count; i++)
        if ((sockets->entry[i].inode | SOCKDIAG_BY_INODE) == identity)
            return &sockets->entry[i];
    return NULL;
}

static uint64_t network_of(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 ? (uint64_t)status.st_ino : 0;
}

/* sock_diag answers for the caller's network namespace: goes to the service's, if it is allowed to.
 * Returns a descriptor to come back with, or -1 when no move was needed, or -2 when it failed. */
static int enter_network(const struct service_file *service, const struct service_view *view)
{
    const struct segment *segment = service->segment;
    uint64_t wanted = atomic_load(&segment->network);
    char path[64];

    if (network_of("/proc/self/ns/net") == wanted)
        return -1;
    for (unsigned i = 0; i < view->processes; i++) {
        snprintf(path, sizeof path, "/proc/%d/ns/net", (int)view->process[i].pid);
        if (network_of(path) != wanted || !service_has_process(service, view->process[i].pid))
            continue;
        int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
        int there = open(path, O_RDONLY | O_CLOEXEC);
        bool moved = home >= 0 && there >= 0 && setns(there, CLONE_NEWNET) == 0;
        if (there >= 0)
            close(there);
        if (moved)
            return home;
        if (home >= 0)
            close(home);
        break;
    }
    return -2;
}

static void leave_network(int home)
{
    if (home < 0)
        return;
    if (setns(home, CLONE_NEWNET) < 0)
        perror("bpctl: cannot return to the own network namespace");
    close(home);
}

static struct kernel_sockets ask_kernel(bool listeners, int (*order)(const void *, const void *))
{
    struct kernel_sockets sockets = {.complete = true};
    static const int families[] = {AF_INET, AF_INET6, AF_UNIX};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (!sockdiag_dump(families[i], listeners, collect, &sockets))
            sockets.complete = false;
    if (sockets.count)
        qsort(sockets.entry, sockets.count, sizeof *sockets.entry, order);
    return sockets;
}

uint64_t limit_of_process(const struct service_view *view, const struct process_view *process,
                          enum limit_key key)
{
    return process->override_mask >> key & 1 ? process->override[key] : view->limits.value[key];
}

static struct found_view view_found(uint64_t limit, const struct segment_concurrency *found)
{
    return (struct found_view){
        .ceiling = segment_ceiling(limit, found),
        .verdict = atomic_load(&found->verdict),
        .sojourn_us = atomic_load(&found->sojourn_us),
        .least_us = atomic_load(&found->least_us),
        .answers_per_s = atomic_load(&found->answers_per_s),
    };
}

static void view_requests(const struct segment_process *process, struct service_view *view,
                          struct process_view *seen)
{
    struct requests_view *requests = &seen->requests;
    requests->in_flight = gauge_count(&process->requests);
    requests->waiting = atomic_load(&process->requests_waiting);
    requests->streams = atomic_load(&process->streams);
    requests->found =
        view_found(limit_of_process(view, seen, LIMIT_REQUESTS), &process->request_concurrency);
    histogram_read(&process->request_wait, &requests->sojourn);
    histogram_read(&process->response, &requests->response);
    view->requests.waiting += requests->waiting;
    view->requests.streams += requests->streams;
}

/* What a process has timed, gone or not, is the service's. */
static void view_request_times(const struct segment_process *process, struct requests_view *all)
{
    struct histogram_reading reading;
    histogram_read(&process->request_wait, &reading);
    histogram_join(&all->sojourn, &reading);
    histogram_read(&process->response, &reading);
    histogram_join(&all->response, &reading);
}

static void view_processes(const struct service_file *service, struct service_view *view)
{
    const struct segment *segment = service->segment;
    struct onlooker onlooker = service_onlooker(service);
    histogram_read(&segment->request_wait, &view->requests.sojourn);
    histogram_read(&segment->response, &view->requests.response);
    uint32_t used = atomic_load(&segment->processes_used);

    for (unsigned i = 0; i < COUNTERS; i++)
        view->totals[i] = atomic_load(&segment->retired[i]);
    for (uint32_t i = 0; i < used && i < SEGMENT_PROCESSES; i++) {
        const struct segment_process *process = &segment->process[i];
        uint64_t counter[COUNTERS];
        for (unsigned j = 0; j < COUNTERS; j++)
            view->totals[j] += counter[j] = atomic_load(&process->counter[j]);
        view_request_times(process, &view->requests);
        enum liveness liveness = liveness_of_entry(segment, i, &onlooker);
        if (liveness == LIVENESS_GONE)
            continue;
        struct process_view *seen = &view->process[view->processes++];
        seen->index = i;
        seen->inside = (pid_t)process_pid(atomic_load(&process->identity));
        seen->pid_namespace = atomic_load(&process->pid_namespace);
        seen->unproved = liveness == LIVENESS_UNKNOWN;
        clean_text(process->command, sizeof process->command, seen->command, sizeof seen->command);
        memcpy(seen->counter, counter, sizeof counter);
        seen->outbound = gauge_count(&process->outbound);
        seen->sandboxed = atomic_load(&process->sandboxed);
        seen->override_mask = atomic_load(&process->override_mask);
        for (unsigned j = 0; j < LIMIT_KEYS; j++)
            seen->override[j] = atomic_load(&process->override[j]);
        seen->found = view_found(limit_of_process(view, seen, LIMIT_CONNS), &process->concurrency);
        view_requests(process, view, seen);
    }
    pids_translate(view, onlooker.pid_namespace);
    view->found = view_found(view->limits.value[LIMIT_TOTAL_CONNS], &segment->concurrency);
    view->requests.found =
        view_found(view->limits.value[LIMIT_TOTAL_REQUESTS], &segment->request_concurrency);
    view->requests.in_flight = gauge_count(&segment->requests);
    view->totals[COUNTER_CONNS_PEAK] = atomic_load(&segment->conns_peak);
    view->totals[COUNTER_REQUESTS_IN_FLIGHT_PEAK] = atomic_load(&segment->requests_peak);
    view->totals[COUNTER_BUFFER_PEAK] = atomic_load(&segment->buffer_peak);
}

static void count_holders(const struct segment_conn *conn, uint64_t queued,
                          struct service_view *view, const uint16_t *process_at)
{
    uint64_t holders = atomic_load(&conn->holders);
    for (unsigned i = 0; i < CONN_HOLDERS; i++) {
        uint64_t holder = holders >> 16 * i & 0xffff;
        if (!holder || holder > SEGMENT_PROCESSES || !process_at[holder - 1])
            continue;
        struct process_view *process = &view->process[process_at[holder - 1] - 1];
        process->conns++;
        process->counter[COUNTER_BUFFER] += queued;
    }
}

static void raise_peak(uint64_t counter[COUNTERS])
{
    if (counter[COUNTER_BUFFER_PEAK] < counter[COUNTER_BUFFER])
        counter[COUNTER_BUFFER_PEAK] = counter[COUNTER_BUFFER];
}

static void view_connections(const struct segment *segment, const struct kernel_sockets *sockets,
                             struct service_view *view)
{
    uint32_t used = atomic_load(&segment->conns_used);
    uint16_t process_at[SEGMENT_PROCESSES] = {0};

    for (unsigned i = 0; i < view->processes; i++)
        process_at[view->process[i].index] = (uint16_t)(i + 1);
    /* What the processes measured last gives way to what the kernel says now. */
    for (unsigned i = 0; i < view->processes && sockets->complete; i++)
        view->process[i].counter[COUNTER_BUFFER] = 0;
    view->totals[COUNTER_BUFFER] = sockets->complete ? 0 : view->totals[COUNTER_BUFFER];
    for (uint32_t slot = 0; slot < used && slot < SEGMENT_CONNS; slot++) {
        const struct segment_conn *conn = &segment->conn[slot];
        if (conn_phase(atomic_load(&segment->conn_state[slot])) != CONN_OPEN)
            continue;
        uint64_t inode = atomic_load(&conn->inode);
        const struct sockdiag_entry *socket = find_connection(sockets, inode);
        bool listed = inode && !(atomic_load(&conn->flags) & CONN_FOREIGN);
        if (sockets->complete && listed && !socket)
            continue;
        uint64_t queued = sockets->complete && socket ? socket->queue : 0;
        view->conns++;
        view->totals[COUNTER_BUFFER] += queued;
        if (queued > view->conn_buffer_most)
            view->conn_buffer_most = queued;
        count_holders(conn, queued, view, process_at);
    }
    for (unsigned i = 0; i < view->processes; i++)
        raise_peak(view->process[i].counter);
    raise_peak(view->totals);
}

/* Whether a process that lives has the listener open, as the segment has it. */
static bool is_kept(const struct service_view *view, const struct segment_listener *listener)
{
    for (unsigned i = 0; i < view->processes; i++) {
        uint32_t holder = view->process[i].index;
        if (holder < SEGMENT_PROCESSES &&
            atomic_load(&listener->holders[holder / 64]) >> holder % 64 & 1)
            return true;
    }
    return false;
}

static void view_listeners(const struct segment *segment, const struct kernel_sockets *sockets,
                           struct service_view *view)
{
    uint32_t used = atomic_load(&segment->listeners_used);
    for (uint32_t i = 0; i < used && i < SEGMENT_LISTENERS; i++) {
        const struct segment_listener *listener = &segment->listener[i];
        uint64_t cookie = atomic_load(&listener->cookie);
        const struct sockdiag_entry *socket = find_listener(sockets, cookie);
        /* Where the kernel does not tell, what a process that lives has open is taken for open.
         */
        bool open = socket || (!sockets->complete && is_kept(view, listener));
        if (cookie == 0 || !open)
            continue;
        struct listener_view *seen = &view->listener[view->listeners++];
        clean_text(listener->address, sizeof listener->address, seen->address,
                   sizeof seen->address);
        seen->cookie = cookie;
        seen->inode = socket ? socket->inode : 0;
        seen->asked_backlog = atomic_load(&listener->asked_backlog);
        seen->queue = socket ? socket->queue : 0;
        seen->queue_max = socket ? socket->backlog + 1 /* what fits: see segment_backlog */
                                 : seen->asked_backlog;
        uint64_t probed = atomic_load(&listener->probed_ns), now = monotonic_ns();
        seen->probed = probed && probed <= now && now - probed < PROBE_FRESH_NS;
        seen->peak = atomic_load(&listener->probed_peak);
        seen->wait_p50_us = atomic_load(&listener->probed_wait_p50_us);
        seen->wait_p99_us = atomic_load(&listener->probed_wait_p99_us);
        seen->dropped = atomic_load(&listener->probed_dropped);
        seen->refused = atomic_load(&listener->probed_refused);
    }
}

/* As peer_table_key packs it: IPv4-mapped, or the upper half of an IPv6 address. */
static void peer_text(const uint64_t key[2], char *out, size_t size)
{
    uint8_t address[16] = {0};
    char text[INET6_ADDRSTRLEN] = "?";
    bool ipv4 = key[1] >> 32 == 0xffff;
    uint32_t word = htonl((uint32_t)key[1]);
    if (ipv4)
        inet_ntop(AF_INET, &word, text, sizeof text);
    else
        inet_ntop(AF_INET6, memcpy(address, &key[0], 8), text, sizeof text);
    snprintf(out, size, "%s%s", text, ipv4 ? "" : "/64");
}

static void view_peers(const struct segment *segment, struct service_view *view)
{
    if (view->limits.value[LIMIT_PEER_CONNS] == LIMIT_OFF)
        return;
    for (uint32_t i = 0; i < SEGMENT_PEERS; i++) {
        if (!growth_has_peer(segment, i))
            continue;
        const struct segment_peer *peer = &segment->peer[i];
        uint32_t conns = peer_count(atomic_load(&peer->conns.word));
        uint64_t key[2] = {atomic_load(&peer->key[0]), atomic_load(&peer->key[1])};
        if (conns <= view->peer_most || (key[0] == 0 && key[1] == 0))
            continue;
        view->peer_most = conns;
        peer_text(key, view->peer_most_address, sizeof view->peer_most_address);
    }
}

/* Longer than any window: what says so is damaged. */
#define WINDOW_MOST_NS (UINT64_C(3600) * 1000000000)

static void view_destinations(const struct segment *segment, struct service_view *view)
{
    uint64_t now = monotonic_ns();
    uint32_t ready = atomic_load(&segment->ready[GROWING_DESTINATIONS]);
    for (uint32_t i = 0; i < ready && i < SEGMENT_DESTINATIONS; i++) {
        const struct segment_destination *destination = &segment->destination[i];
        uint32_t failures = atomic_load(&destination->failures);
        if (atomic_load(&destination->state) != DESTINATION_USED || failures == 0)
            continue;
        struct destination_view *seen = &view->destination[view->destinations++];
        uint64_t until = atomic_load(&destination->until_ns);
        clean_text(destination->address, sizeof destination->address, seen->address,
                   sizeof seen->address);
        seen->failures = failures;
        seen->error = (int)(atomic_load(&destination->error) & 0xfff);
        seen->open_ns = until > now && until - now < WINDOW_MOST_NS ? until - now : 0;
    }
}

void service_view(const struct service_file *service, struct service_view *view)
{
    const struct segment *segment = service->segment;
    memset(view, 0, sizeof *view);
    segment_read_limits(segment, &view->limits);
    uint32_t admission = atomic_load(&segment->admission);
    view->admission =
        admission <= ADMISSION_DRAINING ? (enum admission_switch)admission : ADMISSION_PAUSED;
    view->sockdiag_error = (int)(atomic_load(&segment->sockdiag_error) & 0xfff);
    view->holdings_error = (int)(atomic_load(&segment->holdings_error) & 0xfff);
    view_processes(service, view);
    histogram_read(&segment->accept_wait, &view->accept_wait);
    histogram_read(&segment->sojourn, &view->sojourn);
    int home = enter_network(service, view);
    struct kernel_sockets open = ask_kernel(false, by_inode),
                          listening = ask_kernel(true, by_cookie);
    leave_network(home);
    if (home == -2)
        open.complete = false; /* another namespace's sockets prove nothing */
    view_connections(segment, &open, view);
    view_listeners(segment, &listening, view);
    view_destinations(segment, view);
    view_peers(segment, view);
    free(open.entry);
    free(listening.entry);
}
