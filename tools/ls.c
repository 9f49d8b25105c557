/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "commands.h"
#include "services.h"

#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <unistd.h>

struct listing {
    json_t *services; /* with --json */
    struct service_view *view;
    unsigned lines;
    int status;
};

static void compare(uint64_t count, uint64_t ceiling, double *full)
{
    if (ceiling != LIMIT_OFF && ceiling && (double)count / (double)ceiling > *full)
        *full = (double)count / (double)ceiling;
}

/* How full the service is, in percent of the ceiling that is nearest; -1 without one. */
static int fullness(const struct service_view *view)
{
    double full = -1;
    compare(view->conns, view->found.ceiling, &full);
    compare(view->requests.in_flight, view->requests.found.ceiling, &full);
    compare(view->totals[COUNTER_BUFFER], view->limits.value[LIMIT_TOTAL_BUFFER], &full);
    for (unsigned i = 0; i < view->processes; i++) {
        const struct process_view *process = &view->process[i];
        compare(process->conns, process->found.ceiling, &full);
        compare(process->requests.in_flight, process->requests.found.ceiling, &full);
        compare(process->counter[COUNTER_BUFFER], limit_of_process(view, process, LIMIT_BUFFER),
                &full);
    }
    return full < 0 ? -1 : (int)(full * 100);
}

static void add_json(struct listing *listing, const struct service_file *service, const char *owner,
                     const char *ceiling, int full)
{
    const struct service_view *view = listing->view;
    json_t *pids = json_array();
    for (unsigned i = 0; i < view->processes; i++)
        json_array_append_new(pids, json_integer(view->process[i].pid ? view->process[i].pid
                                                                      : view->process[i].inside));
    json_array_append_new(
        listing->services,
        json_pack("{s:s, s:s, s:s, s:I, s:s, s:I, s:o, s:o}", "name", service->name, "user", owner,
                  "admission", admission_name(view->admission), "conns", (json_int_t)view->conns,
                  "total-conns", ceiling, "buffer", (json_int_t)view->totals[COUNTER_BUFFER],
                  "full_percent", full < 0 ? json_null() : json_integer(full), "processes", pids));
}

static void list(struct service_file *service, enum segment_result result, void *context)
{
    struct listing *listing = context;
    struct service_view *view = listing->view;
    char owner[64], ceiling[LIMIT_VALUE_MAX], percent[16] = "-";

    if (result == SEGMENT_ABSENT)
        return; /* ended, and cleared, while we looked */
    if ((result == SEGMENT_DAMAGED || result == SEGMENT_OTHER_VERSION) &&
        service_clear_unused(service))
        return;
    if (result != SEGMENT_OK) {
        complain(EXIT_FAILED, "%s: %s (%s)", service->name, segment_result_text(result),
                 service->path);
        /* A service that lives beside ours, as during an upgrade, is no failure of the listing. */
        if (result != SEGMENT_OTHER_VERSION)
            listing->status = EXIT_FAILED;
        return;
    }
    if (service_processes(service) == 0) {
        service_clear(service);
        return;
    }
    service_view(service, view);
    owner_name(service->owner, owner, sizeof owner);
    limits_format(&view->limits, LIMIT_TOTAL_CONNS, ceiling, sizeof ceiling);
    int full = fullness(view);
    if (listing->services) {
        add_json(listing, service, owner, ceiling, full);
        return;
    }
    if (full >= 0)
        snprintf(percent, sizeof percent, "%d%%", full);
    if (listing->lines++ == 0)
        printf("%-20s %-12s %9s %9s %11s %11s %5s  %s\n", "SERVICE", "USER", "PROCESSES", "CONNS",
               "TOTAL-CONNS", "BUFFER", "FULL", "ADMISSION");
    printf("%-20s %-12s %9u %9" PRIu64 " %11s %11" PRIu64 " %5s  %s\n", service->name, owner,
           view->processes, view->conns, ceiling, view->totals[COUNTER_BUFFER], percent,
           admission_name(view->admission));
}

int command_ls(int argc, char **argv)
{
    static const struct option options[] = {
        {"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    struct listing listing = {.status = EXIT_DONE};

    for (int option; (option = getopt_long(argc, argv, "jh", options, NULL)) != -1;) {
        if (option == 'j')
            listing.services = listing.services ? listing.services : json_array();
        else
            return option == 'h' ? help_of("ls") : bad_option(argv);
    }
    if (optind < argc)
        return usage_of("ls");
    listing.view = malloc(sizeof *listing.view);
    if (!listing.view)
        return complain(EXIT_FAILED, "out of memory");
    services_each(list, &listing);
    if (listing.services) {
        json_dumpf(listing.services, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(listing.services);
    } else if (listing.lines == 0 && isatty(STDOUT_FILENO)) {
        puts("no service runs");
    }
    free(listing.view);
    return listing.status;
}
