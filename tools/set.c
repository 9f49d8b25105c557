/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "commands.h"
#include "live.h"
#include "services.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static struct segment_process *find_process(struct segment *segment, uint32_t pid)
{
    uint32_t used = atomic_load(&segment->processes_used);
    for (uint32_t i = 0; i < used && i < SEGMENT_PROCESSES; i++) {
        struct segment_process *process = &segment->process[i];
        if (process_pid(atomic_load(&process->identity)) == pid && segment_process_alive(process))
            return process;
    }
    return NULL;
}

/* `web/123` → "web", 123. False when what follows the slash is no pid. */
static bool split(const char *target, char *name, size_t size, uint32_t *pid)
{
    const char *slash = strchr(target, '/');
    size_t length = slash ? (size_t)(slash - target) : strlen(target);
    char *end = NULL;

    *pid = 0;
    snprintf(name, size, "%.*s", (int)(length < size ? length : size - 1), target);
    if (!slash)
        return true;
    unsigned long number = slash[1] >= '1' && slash[1] <= '9' ? strtoul(slash + 1, &end, 10) : 0;
    *pid = (uint32_t)number;
    return number > 0 && number <= INT32_MAX && *end == '\0';
}

static void set_for_process(struct segment_process *process, const struct limits_source *source)
{
    for (unsigned key = 0; key < LIMIT_KEYS; key++) {
        if (!(source->given >> key & 1))
            continue;
        uint64_t value = source->limits.value[key], bit = UINT64_C(1) << key;
        atomic_store(&process->override[key], value);
        if (value == LIMIT_OFF)
            atomic_fetch_and(&process->override_mask, ~bit);
        else
            atomic_fetch_or(&process->override_mask, bit);
    }
    atomic_fetch_add(&process->override_sequence, 1);
}

static void record(struct service_file *service, uint32_t pid, char **pairs)
{
    char text[SEGMENT_EVENT_TEXT] = "";
    for (size_t used = 0; *pairs && used < sizeof text; pairs++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", used ? " " : "", *pairs);
    segment_event(service->segment, EVENT_SET, pid, 0, text);
}

static int set(struct service_file *service, uint32_t pid, char **pairs)
{
    static struct limits_source source;
    struct limits limits;
    struct segment_process *process = NULL;

    segment_read_limits(service->segment, &limits);
    limits_source_init(&source, &limits);
    for (char **pair = pairs; *pair; pair++)
        if (!limits_take(&source, *pair, strlen(*pair), false))
            return complain(EXIT_USAGE, "%s", source.error);
    for (unsigned key = 0; pid && key < LIMIT_KEYS; key++)
        if (source.given >> key & 1 && !limits_key_per_process(key))
            return complain(EXIT_USAGE,
                            "%s: a limit of the whole service, not of one process; set it without "
                            "/%u",
                            limits_key_name(key), pid);
    if (service_processes(service) == 0)
        return complain(EXIT_FAILED, "%s: none of its processes runs any more", service->name);
    if (pid && !(process = find_process(service->segment, pid)))
        return complain(EXIT_FAILED, "%s/%u: no such process in this service", service->name, pid);
    if (process)
        set_for_process(process, &source);
    else
        segment_write_limits(service->segment, &source.limits);
    segment_wake(service->segment, true);
    record(service, pid, pairs);
    if (!pid)
        live_apply_listeners(service);
    return EXIT_DONE;
}

int command_set(int argc, char **argv)
{
    static const struct option options[] = {{"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    struct service_file service;
    char name[SERVICE_NAME_MAX + 1];
    uint32_t pid;

    int option = getopt_long(argc, argv, "+h", options, NULL);
    if (option != -1)
        return option == 'h' ? help_of("set") : bad_option(argv);
    if (argc - optind < 2)
        return usage_of("set");
    if (!split(argv[optind], name, sizeof name, &pid))
        return complain(EXIT_USAGE, "%s: what follows the slash is not a process id", argv[optind]);
    if (!service_open(name, &service))
        return EXIT_FAILED;
    /* One writer at a time: what is read, changed and published is one step. */
    int status = flock(service.fd, LOCK_EX) == 0
                     ? set(&service, pid, argv + optind + 1)
                     : complain(EXIT_FAILED, "%s: cannot lock: %s", service.path, strerror(errno));
    service_close(&service);
    return status;
}
