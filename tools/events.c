/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "commands.h"
#include "services.h"

#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <time.h>

#define LOOK_AGAIN_NS 50000000
#define PATIENCE_NS UINT64_C(500000000)

#define EVENT(id, name, text) [EVENT_##id] = name,
static const char *const kind_names[EVENT_KINDS] = {
#include "../shim/segment/events.def"
};
#undef EVENT

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

/* RFC 3339, in local time. */
static void print_time(uint64_t time_ns, char *out, size_t size)
{
    time_t seconds = (time_t)(time_ns / 1000000000);
    struct tm local;
    char day[32] = "?", zone[8] = "";
    if (localtime_r(&seconds, &local)) {
        long minutes = local.tm_gmtoff / 60, away = minutes < 0 ? -minutes : minutes;
        strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &local);
        snprintf(zone, sizeof zone, "%c%02ld:%02ld", minutes < 0 ? '-' : '+', away / 60 % 100,
                 away % 60);
    }
    snprintf(out, size, "%s.%03u%s", day, (unsigned)(time_ns / 1000000 % 1000), zone);
}

static void print(const struct event *event, const char *kind, bool as_json)
{
    char when[64];
    print_time(event->time_ns, when, sizeof when);
    if (!as_json) {
        printf("%s  %-17s", when, kind);
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

/* Where a reader of the ring stands. */
struct reader {
    const struct segment *segment;
    bool as_json;
    uint64_t next, dropped;
    uint64_t unfinished_since_ns; /* since it waits for events that are being written; 0: never */
};

/* What was overwritten before anybody read it is said, in the place where it is missing. */
static void admit_dropped(struct reader *reader)
{
    struct event event = {.time_ns = realtime_ns(), .amount = reader->dropped};
    snprintf(event.text, sizeof event.text, "overwritten before they were read");
    if (reader->dropped)
        print(&event, "dropped", reader->as_json);
    reader->dropped = 0;
}

/* Whether to wait for an event that somebody writes just now; who was killed at it never ends. Once
 * for all that there are: an owner can make every one of them look like that. */
static bool may_come(struct reader *reader)
{
    uint64_t now = monotonic_ns();
    if (reader->unfinished_since_ns == 0)
        reader->unfinished_since_ns = now;
    return now - reader->unfinished_since_ns < PATIENCE_NS;
}

/* Prints what is there. Returns whether one is unfinished. */
static bool print_new(struct reader *reader)
{
    uint64_t end = atomic_load(&reader->segment->events_next);
    uint64_t first = end > SEGMENT_EVENTS ? end - SEGMENT_EVENTS : 0;
    if (reader->next > end)
        reader->next = first; /* the count went back: overwritten by the program */
    if (reader->next < first) {
        reader->dropped += first - reader->next;
        reader->next = first;
    }
    for (; reader->next < end; reader->next++) {
        struct event event;
        const struct segment_event *slot = &reader->segment->event[reader->next % SEGMENT_EVENTS];
        if (read_event(reader->segment, reader->next, &event)) {
            admit_dropped(reader);
            print(&event, event.kind < EVENT_KINDS ? kind_names[event.kind] : "unknown",
                  reader->as_json);
        } else if (atomic_load(&slot->ticket) <= reader->next && may_come(reader)) {
            return true;
        } else {
            reader->dropped++;
        }
    }
    reader->unfinished_since_ns = 0;
    admit_dropped(reader);
    fflush(stdout);
    return false;
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
    struct reader reader = {.segment = service.segment, .as_json = as_json};
    while (print_new(&reader) || (follow && !ferror(stdout) && service_processes(&service) > 0))
        nanosleep(&pause, NULL);
    print_new(&reader);
    service_close(&service);
    return EXIT_DONE;
}
