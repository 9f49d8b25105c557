/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * pause, resume and drain: the switch that stops admission.
 */
#include "change.h"
#include "progress.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LOOK_AGAIN_NS 20000000
#define TIMEOUT_MAX_SECONDS (365.0 * 86400)

static int switch_command(int argc, char **argv, enum admission_switch to)
{
    static const struct option options[] = {{"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    struct service_file service;
    char why[CHANGE_WHY_MAX];

    int option = getopt_long(argc, argv, "h", options, NULL);
    if (option != -1)
        return option == 'h' ? help_of(argv[0]) : bad_option(argv);
    if (optind + 1 != argc)
        return usage_of(argv[0]);
    if (!service_open(argv[optind], &service))
        return EXIT_FAILED;
    enum exit_code code = change_admission(&service, to, why);
    service_close(&service);
    return code == EXIT_DONE ? EXIT_DONE : complain(code, "%s", why);
}

int command_pause(int argc, char **argv)
{
    return switch_command(argc, argv, ADMISSION_PAUSED);
}

int command_resume(int argc, char **argv)
{
    return switch_command(argc, argv, ADMISSION_OPEN);
}

static double now_seconds(void)
{
    return (double)monotonic_ns() / 1e9;
}

static int drain(struct service_file *service, double timeout)
{
    struct service_view *view = malloc(sizeof *view);
    double deadline = now_seconds() + timeout;
    struct progress progress;
    char why[CHANGE_WHY_MAX];
    struct timespec pause = {.tv_sec = 0, .tv_nsec = LOOK_AGAIN_NS};
    int status = EXIT_DONE;

    if (!view)
        return complain(EXIT_FAILED, "out of memory");
    enum exit_code shut = change_admission(service, ADMISSION_DRAINING, why);
    if (shut != EXIT_DONE) {
        free(view);
        return complain(shut, "%s", why);
    }
    progress_begin(&progress);
    for (;;) {
        service_view(service, view);
        if (view->conns == 0 || view->processes == 0)
            break;
        if (timeout >= 0 && now_seconds() >= deadline) {
            progress_end(&progress);
            status = complain(EXIT_FAILED, "%s: %" PRIu64 " connections are still open",
                              service->name, view->conns);
            break;
        }
        progress_tell(&progress, "%s: %" PRIu64 " connections are still open", service->name,
                      view->conns);
        nanosleep(&pause, NULL);
    }
    progress_end(&progress);
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
    int status = drain(&service, timeout);
    service_close(&service);
    return status;
}
