/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "../shim/base/sandbox.h"
#include "commands.h"
#include "found.h"
#include "pids.h"
#include "requests.h"
#include "services.h"

#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static json_t *limits_json(const struct limits *limits)
{
    json_t *object = json_object();
    char value[LIMIT_VALUE_MAX];
    for (unsigned key = 0; key < LIMIT_KEYS; key++) {
        limits_format(limits, key, value, sizeof value);
        json_object_set_new(object, limits_key_name(key), json_string(value));
    }
    return object;
}

static json_t *counters_json(uint64_t conns, const uint64_t counter[COUNTERS])
{
    json_t *object = json_object();
    json_object_set_new(object, "conns", json_integer((json_int_t)conns));
    for (unsigned i = 0; i < COUNTERS; i++)
        json_object_set_new(object, counter_name(i), json_integer((json_int_t)counter[i]));
    return object;
}

static const struct {
    uint32_t purpose;
    const char *name;
} purposes[] = {
    {SANDBOX_CEILINGS, "conns"}, {SANDBOX_BYTES, "bytes"}, {SANDBOX_CONNECTS, "connects"}};

static bool keeps_out(const struct process_view *process, uint32_t purpose)
{
    return process->sandboxed && (process->sandboxed - 1) & purpose;
}

/* What the process's seccomp filters keep out of it; NULL when it put none around itself. */
static json_t *kept_out_json(const struct process_view *process)
{
    if (!process->sandboxed)
        return NULL;
    json_t *names = json_array();
    for (size_t i = 0; i < sizeof purposes / sizeof *purposes; i++)
        if (keeps_out(process, purposes[i].purpose))
            json_array_append_new(names, json_string(purposes[i].name));
    return names;
}

static void print_kept_out(const struct process_view *process)
{
    if (!keeps_out(process, SANDBOX_EVERYTHING))
        return;
    fputs("           its seccomp filter keeps out limits on:", stdout);
    for (size_t i = 0; i < sizeof purposes / sizeof *purposes; i++)
        if (keeps_out(process, purposes[i].purpose))
            printf(" %s", purposes[i].name);
    putchar('\n');
}

static json_t *process_json(const struct service_view *view, const struct process_view *process)
{
    json_t *object = json_object(), *own = json_object();
    struct limits limits;
    char value[LIMIT_VALUE_MAX];

    json_object_set_new(object, "pid", json_integer(process->pid ? process->pid : process->inside));
    json_object_set_new(object, "pid_namespace", json_integer((json_int_t)process->pid_namespace));
    json_object_set_new(object, "proved", json_boolean(!process->unproved));
    json_object_set_new(object, "command", json_string(process->command));
    json_object_update_new(object, counters_json(process->conns, process->counter));
    limits_defaults(&limits);
    for (unsigned key = 0; key < LIMIT_KEYS; key++) {
        if (!(process->override_mask >> key & 1) || !limits_key_per_process(key))
            continue;
        limits.value[key] = process->override[key];
        limits_format(&limits, key, value, sizeof value);
        json_object_set_new(own, limits_key_name(key), json_string(value));
    }
    json_object_set_new(object, "outbound", json_integer((json_int_t)process->outbound));
    json_object_set_new(object, "limits", own);
    json_t *kept_out = kept_out_json(process);
    if (kept_out)
        json_object_set_new(object, "sandbox_keeps_out", kept_out);
    if (limit_is_auto(limit_of_process(view, process, LIMIT_CONNS)))
        json_object_set_new(object, "auto", found_json(&process->found));
    json_object_set_new(object, "requests",
                        requests_json(&process->requests, process->counter,
                                      limit_of_process(view, process, LIMIT_REQUESTS)));
    return object;
}

static json_t *listener_json(const struct listener_view *listener)
{
    json_t *object =
        json_pack("{s:s, s:I, s:I}", "address", listener->address, "queue",
                  (json_int_t)listener->queue, "queue_max", (json_int_t)listener->queue_max);
    if (listener->probed)
        json_object_set_new(object, "probe",
                            json_pack("{s:I, s:I, s:I, s:I, s:I}", "queue_peak",
                                      (json_int_t)listener->peak, "accept_wait_p50_us",
                                      (json_int_t)listener->wait_p50_us, "accept_wait_p99_us",
                                      (json_int_t)listener->wait_p99_us, "dropped_queue_full",
                                      (json_int_t)listener->dropped, "refused_by_gate",
                                      (json_int_t)listener->refused));
    return object;
}

static json_t *destinations_json(const struct service_view *view)
{
    json_t *all = json_array();
    for (unsigned i = 0; i < view->destinations; i++) {
        const struct destination_view *destination = &view->destination[i];
        json_array_append_new(
            all, json_pack("{s:s, s:I, s:s, s:I}", "address", destination->address, "failures",
                           (json_int_t)destination->failures, "error", strerror(destination->error),
                           "window_ms", (json_int_t)(destination->open_ns / 1000000)));
    }
    return all;
}

static void print_destinations(const struct service_view *view)
{
    if (view->destinations)
        printf("destinations in backoff\n  %9s %10s  %s\n", "FAILURES", "WINDOW", "ADDRESS");
    for (unsigned i = 0; i < view->destinations; i++) {
        const struct destination_view *destination = &view->destination[i];
        printf("  %9u %7" PRIu64 " ms  %s (%s)\n", destination->failures,
               destination->open_ns / 1000000, destination->address, strerror(destination->error));
    }
}

static json_t *service_json(const struct service_file *service, const struct service_view *view)
{
    json_t *processes = json_array(), *listeners = json_array();
    for (unsigned i = 0; i < view->processes; i++)
        json_array_append_new(processes, process_json(view, &view->process[i]));
    for (unsigned i = 0; i < view->listeners; i++)
        json_array_append_new(listeners, listener_json(&view->listener[i]));
    char owner[64];
    owner_name(service->owner, owner, sizeof owner);
    json_t *object = json_pack(
        "{s:s, s:s, s:s, s:o, s:o, s:o, s:o}", "name", service->name, "user", owner, "admission",
        admission_name(view->admission), "limits", limits_json(&view->limits), "totals",
        counters_json(view->conns, view->totals), "processes", processes, "listeners", listeners);
    json_object_set_new(object, "destinations", destinations_json(view));
    char why[BLINDNESS_MAX];
    const char *blind = blindness(view, why, sizeof why);
    json_object_set_new(object, "audit",
                        json_pack("{s:b, s:s?}", "blind", blind != NULL, "why", blind));
    if (limit_is_auto(view->limits.value[LIMIT_TOTAL_CONNS]))
        json_object_set_new(object, "auto", found_json(&view->found));
    json_object_set_new(
        object, "requests",
        requests_json(&view->requests, view->totals, view->limits.value[LIMIT_TOTAL_REQUESTS]));
    return object;
}

/* Limits that are set, and all that differs from doing nothing. */
static void print_limits(const struct limits *limits)
{
    struct limits defaults;
    char value[LIMIT_VALUE_MAX], usual[LIMIT_VALUE_MAX];
    limits_defaults(&defaults);
    puts("limits");
    for (unsigned key = 0; key < LIMIT_KEYS; key++) {
        limits_format(limits, key, value, sizeof value);
        limits_format(&defaults, key, usual, sizeof usual);
        printf("  %-14s %s%s\n", limits_key_name(key), value,
               strcmp(value, usual) == 0 && strcmp(value, "off") != 0 ? "  (default)" : "");
    }
}

static void print_totals(const struct service_view *view)
{
    puts("totals");
    printf("  %-14s %" PRIu64 "\n", "conns", view->conns);
    for (unsigned i = 0; i < COUNTERS; i++)
        if (!is_of_requests(i) &&
            (view->totals[i] || i == COUNTER_ACCEPTED || i == COUNTER_HELD || i == COUNTER_BUFFER))
            printf("  %-14s %" PRIu64 "\n", counter_name(i), view->totals[i]);
    char why[BLINDNESS_MAX];
    if (blindness(view, why, sizeof why))
        printf("audit\n  %-14s %s\n", "blind", why);
}

/* The ceilings that hold for one process: its own, or the service's. */
static void print_own_limits(const struct limits *service, const struct process_view *process)
{
    struct limits limits = *service;
    char value[LIMIT_VALUE_MAX];
    unsigned printed = 0;
    for (unsigned key = 0; key < LIMIT_KEYS; key++) {
        if (!limits_key_per_process(key))
            continue;
        if (process->override_mask >> key & 1)
            limits.value[key] = process->override[key];
        if (limits.value[key] == LIMIT_OFF)
            continue;
        limits_format(&limits, key, value, sizeof value);
        printf(" %s=%s", limits_key_name(key), value);
        printed++;
    }
    puts(printed ? "" : " none");
}

static void print_service(const struct service_file *service, const struct service_view *view)
{
    char owner[64];
    owner_name(service->owner, owner, sizeof owner);
    fputs(service->name, stdout);
    if (service->owner != geteuid())
        printf(" of user %s", owner);
    printf(": admission %s, %u process%s\n", admission_name(view->admission), view->processes,
           view->processes == 1 ? "" : "es");
    if (service->lost)
        printf("  its file %s was removed or replaced: it is found by its processes\n",
               service->path);
    print_limits(&view->limits);
    if (limit_is_auto(view->limits.value[LIMIT_TOTAL_CONNS]))
        print_found("total-conns", &view->found);
    if (limit_is_auto(view->limits.value[LIMIT_TOTAL_REQUESTS]))
        print_found("total-requests", &view->requests.found);
    print_totals(view);
    print_requests(view);
    puts("processes");
    printf("  %8s %-16s %8s %8s %10s %10s %10s %10s %10s  %s\n", "PID", "COMMAND", "CONNS", "PEAK",
           "ACCEPTED", "HELD", "SHED", "BUFFER", "PAUSED", "LIMITS");
    for (unsigned i = 0; i < view->processes; i++) {
        const struct process_view *process = &view->process[i];
        const uint64_t *counter = process->counter;
        char pid[PID_TEXT_MAX];
        pid_text(process, pid);
        printf("  %8s %-16s %8" PRIu64 " %8" PRIu64 " %10" PRIu64 " %10" PRIu64 " %10" PRIu64
               " %10" PRIu64 " %10" PRIu64 " ",
               pid, process->command, process->conns, counter[COUNTER_CONNS_PEAK],
               counter[COUNTER_ACCEPTED], counter[COUNTER_HELD], shed_in_all(counter),
               counter[COUNTER_BUFFER], counter[COUNTER_READS_PAUSED]);
        print_own_limits(&view->limits, process);
        if (process->unproved)
            puts(
                "           it cannot be proved to run: what it holds counts until the kernel says "
                "that it is gone");
        if (limit_is_auto(limit_of_process(view, process, LIMIT_CONNS)))
            print_found("    conns=auto", &process->found);
        print_requests_of(view, process);
        print_kept_out(process);
    }
    puts("listeners");
    printf("  %8s %9s  %s\n", "QUEUE", "QUEUE-MAX", "ADDRESS");
    for (unsigned i = 0; i < view->listeners; i++) {
        const struct listener_view *listener = &view->listener[i];
        printf("  %8u %9u  %s\n", listener->queue, listener->queue_max, listener->address);
        if (listener->probed)
            printf(
                "                      probe: queue peak %u, accept wait p50 %.1f ms, p99 %.1f ms; "
                "dropped %" PRIu64 ", refused by the gate %" PRIu64 "\n",
                listener->peak, listener->wait_p50_us / 1000.0, listener->wait_p99_us / 1000.0,
                listener->dropped, listener->refused);
    }
    print_destinations(view);
}

int command_show(int argc, char **argv)
{
    static const struct option options[] = {
        {"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    struct service_file service;
    bool as_json = false;

    for (int option; (option = getopt_long(argc, argv, "jh", options, NULL)) != -1;) {
        if (option == 'j')
            as_json = true;
        else
            return option == 'h' ? help_of("show") : bad_option(argv);
    }
    if (optind + 1 != argc)
        return usage_of("show");
    if (!service_open(argv[optind], &service))
        return EXIT_FAILED;
    struct service_view *view = malloc(sizeof *view);
    if (!view)
        return complain(EXIT_FAILED, "out of memory");
    service_view(&service, view);
    if (as_json) {
        json_t *object = service_json(&service, view);
        json_dumpf(object, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(object);
    } else {
        print_service(&service, view);
    }
    free(view);
    service_close(&service);
    return EXIT_DONE;
}
