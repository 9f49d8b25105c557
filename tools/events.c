/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "commands.h"
#include "services.h"

#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <time.h>

#define LOOK_AGAIN_NS 50000000

static const char *const kind_names[EVENT_KINDS] = {
    [EVENT_STARTED] = "started",
    [EVENT_SET] = "set",
    [EVENT_PAUSED] = "paused",
    [EVENT_RESUMED] = "resumed",
    [EVENT_DRAINING] = "draining",
    [EVENT_HELD] = "held",
    [EVENT_SHED_BUSY] = "shed_busy",
    [EVENT_SHED_RESET] = "shed_reset",
    [EVENT_FOUND] = "found",
    [EVENT_PROCESS_GONE] = "process_gone",
    [EVENT_TABLE_FULL] = "table_full",
    [EVENT_GATED] = "gated",
    [EVENT_UNGATED] = "ungated",
    [EVENT_READS_PAUSED] = "reads_paused",
    [EVENT_STALL_RESET] = "stall_reset",
    [EVENT_SHED_LATE] = "shed_late",
    [EVENT_CEILING] = "ceiling",
    [EVENT_BACKOFF] = "backoff",
};

struct event {
    uint64_t time_ns;
    uint32_t kind, pid;
    uint64_t amount;
    char text[SEGMENT_EVENT_TEXT + 1];
};

/* Reads event `number`; false when it was overwritten, or is being written. */
static bool read_event(const struct segment *segment, uint64_t number, struct event *event)
{
    const struct segment_event *slot = &segment->event[number % SEGMENT_EVENTS];
    if (atomic_load(&slot->ticket) != number + 1)
        return false;
    event->time_ns = atomic_load(&slot->time_ns);
    event->kind = atomic_load(&slot->kind);
    event->pid = atomic_load(&slot->pid);
    event->amount = atomic_load(&slot->amount);
    clean_text(slot->text, sizeof slot->text, event->text, sizeof event->text);
    atomic_thread_fence(memory_order_acquire);
    return atomic_load(&slot->ticket) == number + 1;
}

static void print_time(uint64_t time_ns, char *out, size_t size)
{
    time_t seconds = (time_t)(time_ns / 1000000000);
    struct tm local;
    char day[32] = "?", zone[8] = "";
    if (gmtime_r(&seconds, &local)) {
        strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &local);
        snprintf(zone, sizeof zone, "Z");
    }
    snprintf(out, size, "%s.%03u%s", day, (unsigned)(time_ns / 1000000 % 1000), zone);
}

static void print(const struct event *event, bool as_json)
{
    char when[64];
    const char *kind = event->kind < EVENT_KINDS ? kind_names[event->kind] : "unknown";
    print_time(event->time_ns, when, sizeof when);
    if (!as_json) {
        printf("%s  %-12s", when, kind);
        if (event->pid)
            printf("  pid %u", event->pid);
        if (event->amount)
            printf("  %" PRIu64, event->amount);
        printf("%s%s\n", event->text[0] ? "  " : "", event->text);
        return;
    }
    json_t *object =
        json_pack("{s:s, s:s, s:I, s:I, s:s}", "time", when, "event", kind, "pid",
                  (json_int_t)event->pid, "amount", (json_int_t)event->amount, "text", event->text);
    json_dumpf(object, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(object);
}

/* Prints what is there from `next` on; returns where to go on. */
static uint64_t print_from(const struct segment *segment, uint64_t next, bool as_json)
{
    uint64_t end = atomic_load(&segment->events_next);
    if (next > end || end - next > SEGMENT_EVENTS)
        next = end > SEGMENT_EVENTS ? end - SEGMENT_EVENTS : 0;
    for (; next < end; next++) {
        struct event event;
        if (read_event(segment, next, &event))
            print(&event, as_json);
    }
    fflush(stdout);
    return next;
}

int command_events(int argc, char **argv)
{
    static const struct option options[] = {{"follow", no_argument, NULL, 'f'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    struct timespec pause = {.tv_sec = 0, .tv_nsec = LOOK_AGAIN_NS};
    struct service_file service;
    bool follow = false, as_json = false;

    for (int option; (option = getopt_long(argc, argv, "fjh", options, NULL)) != -1;) {
        if (option == 'f')
            follow = true;
        else if (option == 'j')
            as_json = true;
        else
            return option == 'h' ? help_of("events") : bad_option(argv);
    }
    if (optind + 1 != argc)
        return usage_of("events");
    if (!service_open(argv[optind], &service))
        return EXIT_FAILED;
    uint64_t next = print_from(service.segment, 0, as_json);
    while (follow && !ferror(stdout) && service_processes(&service) > 0) {
        nanosleep(&pause, NULL);
        next = print_from(service.segment, next, as_json);
    }
    service_close(&service);
    return EXIT_DONE;
}
