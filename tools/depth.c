/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * bpctl depth: queue depths now, from the probe when it runs and may be read, else from sock_diag.
 */
#include "commands.h"
#include "loader.h"
#include "services.h"

#include "../shim/base/sockdiag.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define TCP_STATE_LISTEN 10

struct report {
    json_t *queues; /* NULL: a table is printed */
    const struct service_view *only;
    unsigned lines;
    /* Of sock_diag: what is connected to each port, gathered before the listeners. */
    struct port {
        uint64_t connections, sent, received;
    } * port;
};

/* --- the probe's --- */

static bool of_service(const struct report *report, __u32 process)
{
    if (!report->only)
        return true;
    for (unsigned i = 0; i < report->only->processes; i++)
        if ((__u32)report->only->process[i].pid == process)
            return true;
    return false;
}

static void header(struct report *report, bool probe)
{
    if (report->lines++ || report->queues)
        return;
    if (probe)
        printf("%8s %-15s %-22s %6s %6s %6s %10s %10s %6s %10s %10s %10s %8s %8s\n", "PROCESS",
               "COMMAND", "ADDRESS", "QUEUE", "PEAK", "LIMIT", "WAIT-P50", "WAIT-P99", "CONNS",
               "SEND-Q", "UNSENT", "RECEIVE-Q", "DROPPED", "REFUSED");
    else
        printf("%-30s %6s %6s %6s %10s %10s\n", "ADDRESS", "QUEUE", "LIMIT", "CONNS", "SEND-Q",
               "RECEIVE-Q");
}

static void clean(char *out, const char *in, size_t size)
{
    size_t i = 0;
    for (; i + 1 < size && in[i]; i++)
        out[i] = in[i] >= 0x20 && in[i] < 0x7f ? in[i] : '?';
    out[i] = '\0';
}

static void visit(const struct depth_key *key, const struct depth *depth, void *context)
{
    struct report *report = context;
    char command[PROBE_COMMAND + 1], address[PROBE_ADDRESS + 1], where[PROBE_ADDRESS + 32];

    if (!of_service(report, key->process))
        return;
    clean(command, depth->command, sizeof command);
    clean(address, depth->address, sizeof address);
    if (key->ip_version == 0)
        snprintf(where, sizeof where, "unix:%s", address);
    else
        snprintf(where, sizeof where, key->ip_version == 6 ? "[%s]:%u" : "%s:%u", address,
                 key->port);
    header(report, true);
    if (!report->queues) {
        printf("%8u %-15s %-22s %6llu %6llu %6llu %8.1fms %8.1fms %6llu %10llu %10llu %10llu %8llu "
               "%8llu\n",
               key->process, command, where, depth->accept_queue, depth->accept_queue_peak,
               depth->accept_queue_limit, (double)depth->accept_wait_p50_us / 1000,
               (double)depth->accept_wait_p99_us / 1000, depth->connections,
               depth->send_queue_bytes, depth->unsent_bytes, depth->receive_queue_bytes,
               depth->dropped_queue_full, depth->refused_by_gate);
        return;
    }
    json_t *object = json_pack("{s:I, s:s, s:s}", "process", (json_int_t)key->process, "command",
                               command, "address", where);
    const struct {
        const char *name;
        __u64 value;
    } members[] = {{"accept_queue", depth->accept_queue},
                   {"accept_queue_peak", depth->accept_queue_peak},
                   {"accept_queue_limit", depth->accept_queue_limit},
                   {"arrived", depth->arrived},
                   {"accept_waits", depth->accept_waits},
                   {"accept_wait_p50_us", depth->accept_wait_p50_us},
                   {"accept_wait_p99_us", depth->accept_wait_p99_us},
                   {"accept_wait_max_us", depth->accept_wait_max_us},
                   {"dropped_queue_full", depth->dropped_queue_full},
                   {"refused_by_gate", depth->refused_by_gate},
                   {"connections", depth->connections},
                   {"connections_peak", depth->connections_peak},
                   {"send_queue_bytes", depth->send_queue_bytes},
                   {"send_queue_peak", depth->send_queue_peak},
                   {"unsent_bytes", depth->unsent_bytes},
                   {"unsent_peak", depth->unsent_peak},
                   {"receive_queue_bytes", depth->receive_queue_bytes},
                   {"receive_queue_peak", depth->receive_queue_peak}};
    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        json_object_set_new(object, members[i].name, json_integer((json_int_t)members[i].value));
    json_array_append_new(report->queues, object);
}

/* --- sock_diag's --- */

static void gather(const struct sockdiag_entry *entry, void *context)
{
    struct report *report = context;
    struct port *port = &report->port[entry->port];
    if (entry->family == AF_UNIX || entry->inode == 0)
        return;
    port->connections++;
    port->sent += entry->queue;
    port->received += entry->received;
}

static const struct listener_view *listener_of(const struct service_view *view, uint64_t cookie)
{
    for (unsigned i = 0; i < view->listeners; i++)
        if (view->listener[i].cookie == cookie)
            return &view->listener[i];
    return NULL;
}

static void list(const struct sockdiag_entry *entry, void *context)
{
    struct report *report = context;
    char text[INET6_ADDRSTRLEN] = "?", where[SEGMENT_ADDRESS_MAX + 1];
    const struct listener_view *known =
        report->only ? listener_of(report->only, entry->cookie) : NULL;

    if (entry->state != TCP_STATE_LISTEN || (report->only && !known))
        return;
    if (known)
        snprintf(where, sizeof where, "%s", known->address);
    else if (entry->family == AF_UNIX)
        snprintf(where, sizeof where, "unix, inode %u", entry->inode);
    else if (inet_ntop(entry->family, entry->address, text, sizeof text))
        snprintf(where, sizeof where, entry->family == AF_INET6 ? "[%s]:%u" : "%s:%u", text,
                 entry->port);
    struct port none = {0}, *port = entry->family == AF_UNIX ? &none : &report->port[entry->port];
    header(report, false);
    if (report->queues)
        json_array_append_new(
            report->queues,
            json_pack("{s:s, s:I, s:I, s:I, s:I, s:I}", "address", where, "accept_queue",
                      (json_int_t)entry->queue, "accept_queue_limit", (json_int_t)entry->backlog,
                      "connections", (json_int_t)port->connections, "send_queue_bytes",
                      (json_int_t)port->sent, "receive_queue_bytes", (json_int_t)port->received));
    else
        printf("%-30s %6u %6u %6" PRIu64 " %10" PRIu64 " %10" PRIu64 "\n", where, entry->queue,
               entry->backlog, port->connections, port->sent, port->received);
}

static bool ask_sock_diag(struct report *report)
{
    static const int families[] = {AF_INET, AF_INET6, AF_UNIX};
    bool complete = true;
    report->port = calloc(UINT16_MAX + 1, sizeof *report->port);
    if (!report->port)
        return false;
    for (size_t i = 0; i < 2; i++)
        complete = sockdiag_dump(families[i], false, gather, report) && complete;
    for (size_t i = 0; i < 3; i++)
        complete = sockdiag_dump(families[i], true, list, report) && complete;
    free(report->port);
    return complete;
}

/* --- the command --- */

static int depth_of(const struct service_view *only, bool as_json)
{
    struct report report = {.queues = as_json ? json_array() : NULL, .only = only};
    const char *source = "probe", *why = "";
    int result = EXIT_DONE;

    if (loader_read_depth(visit, &report) < 0) {
        source = "sock_diag";
        why = errno == ENOENT ? "the probe does not run" : "reading the probe's maps needs root";
        if (!ask_sock_diag(&report))
            result = complain(EXIT_FAILED, "sock_diag: the kernel did not answer");
    }
    if (!as_json) {
        if (report.lines == 0)
            puts("nothing listens");
        printf("(from %s%s%s)\n", source, *why ? ": " : "", why);
        return result;
    }
    json_t *object = json_pack("{s:s, s:o}", "source", source, "queues", report.queues);
    json_dumpf(object, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(object);
    return result;
}

int command_depth(int argc, char **argv)
{
    static const struct option options[] = {
        {"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    struct service_file service;
    bool as_json = false;

    for (int option; (option = getopt_long(argc, argv, "jh", options, NULL)) != -1;) {
        if (option == 'j')
            as_json = true;
        else
            return option == 'h' ? help_of("depth") : bad_option(argv);
    }
    if (argc - optind > 1)
        return usage_of("depth");
    if (optind == argc)
        return depth_of(NULL, as_json);
    if (!service_open(argv[optind], &service))
        return EXIT_FAILED;
    struct service_view *view = malloc(sizeof *view);
    if (!view)
        return complain(EXIT_FAILED, "out of memory");
    service_view(&service, view);
    int result = depth_of(view, as_json);
    free(view);
    service_close(&service);
    return result;
}
