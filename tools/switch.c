/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * pause, resume and drain: the switch that stops admission.
 */
#include "commands.h"
#include "live.h"
#include "services.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LOOK_AGAIN_NS 20000000
#define TIMEOUT_MAX_SECONDS (365.0 * 86400)

static void turn(struct service_file *service, enum admission_switch to, enum event_kind event)
{
    atomic_store(&service->segment->admission, to);
    segment_wake(service->segment, true);
    segment_event(service->segment, event, 0, 0, NULL);
    live_apply_listeners(service);
}

static int switch_command(int argc, char **argv, enum admission_switch to, enum event_kind event)
{
    static const struct option options[] = {{"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    struct service_file service;

    int option = getopt_long(argc, argv, "h", options, NULL);
    if (option != -1)
        return option == 'h' ? help_of(argv[0]) : bad_option(argv);
    if (optind + 1 != argc)
        return usage_of(argv[0]);
    if (!service_open(argv[optind], &service))
        return EXIT_FAILED;
    int status = EXIT_DONE;
    if (service_processes(&service) == 0)
        status = complain(EXIT_FAILED, "%s: none of its processes runs any more", service.name);
    else
        turn(&service, to, event);
    service_close(&service);
    return status;
}

int command_pause(int argc, char **argv)
{
    return switch_command(argc, argv, ADMISSION_PAUSED, EVENT_PAUSED);
}

int command_resume(int argc, char **argv)
{
    return switch_command(argc, argv, ADMISSION_OPEN, EVENT_RESUMED);
}

static double now_seconds(void)
{
    return (double)monotonic_ns() / 1e9;
}

static int drain(struct service_file *service, double timeout)
{
    struct service_view *view = malloc(sizeof *view);
    double deadline = now_seconds() + timeout;
    struct timespec pause = {.tv_sec = 0, .tv_nsec = LOOK_AGAIN_NS};
    int status = EXIT_DONE;

    if (!view)
        return complain(EXIT_FAILED, "out of memory");
    turn(service, ADMISSION_DRAINING, EVENT_DRAINING);
    for (;;) {
        service_view(service, view);
        if (view->conns == 0 || view->processes == 0)
            break;
        if (timeout >= 0 && now_seconds() >= deadline) {
            status = complain(EXIT_FAILED, "%s: %" PRIu64 " connections are still open",
                              service->name, view->conns);
            break;
        }
        nanosleep(&pause, NULL);
    }
    free(view);
    return status;
}

int command_drain(int argc, char **argv)
{
    static const struct option options[] = {{"timeout", required_argument, NULL, 't'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    struct service_file service;
    double timeout = -1;

    for (int option; (option = getopt_long(argc, argv, "t:h", options, NULL)) != -1;) {
        char *end;
        if (option != 't')
            return option == 'h' ? help_of("drain") : bad_option(argv);
        timeout = strtod(optarg, &end);
        double unit = strcmp(end, "ms") == 0 ? 0.001 : strcmp(end, "m") == 0 ? 60 : 1;
        if (end == optarg ||
            (*end && strcmp(end, "ms") != 0 && strcmp(end, "s") != 0 && strcmp(end, "m") != 0) ||
            !(timeout >= 0) || timeout * unit > TIMEOUT_MAX_SECONDS)
            return complain(EXIT_USAGE, "--timeout %s: a time is wanted: 30, 30s, 500ms or 2m",
                            optarg);
        timeout *= unit;
    }
    if (optind + 1 != argc)
        return usage_of("drain");
    if (!service_open(argv[optind], &service))
        return EXIT_FAILED;
    int status =
        service_processes(&service) == 0
            ? complain(EXIT_FAILED, "%s: none of its processes runs any more", service.name)
            : drain(&service, timeout);
    service_close(&service);
    return status;
}
