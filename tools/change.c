/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "change.h"

#include "live.h"
#include "pids.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>

static enum exit_code refuse(char *why, enum exit_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static enum exit_code refuse(char *why, enum exit_code code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, CHANGE_WHY_MAX, format, arguments);
    va_end(arguments);
    return code;
}

static enum exit_code find_process(const struct service_file *service, uint32_t pid,
                                   struct segment_process **out, char *why)
{
    struct service_view *view = malloc(sizeof *view);
    bool several = false;
    if (!view)
        return refuse(why, EXIT_FAILED, "out of memory");
    service_view(service, view);
    const struct process_view *found = pids_find(view, (pid_t)pid, &several);
    if (found)
        *out = &service->segment->process[found->index];
    free(view);
    if (several)
        return refuse(
            why, EXIT_FAILED,
            "%s/%u: several of its processes have that pid, each in a pid namespace of its "
            "own; from the one around them, name it by the pid that it has there",
            service->name, pid);
    return found ? EXIT_DONE
                 : refuse(why, EXIT_FAILED, "%s/%u: no such process in this service", service->name,
                          pid);
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

static enum exit_code set(struct service_file *service, uint32_t pid, char **pairs, char *why)
{
    static struct limits_source source;
    struct limits limits;
    struct segment_process *process = NULL;

    segment_read_limits(service->segment, &limits);
    limits_source_init(&source, &limits);
    for (char **pair = pairs; *pair; pair++)
        if (!limits_take(&source, *pair, strlen(*pair), false))
            return refuse(why, EXIT_USAGE, "%s", source.error);
    for (unsigned key = 0; pid && key < LIMIT_KEYS; key++)
        if (source.given >> key & 1 && !limits_key_per_process(key))
            return refuse(why, EXIT_USAGE,
                          "%s: a limit of the whole service, not of one process; set it without "
                          "/%u",
                          limits_key_name(key), pid);
    if (service_processes(service) == 0)
        return refuse(why, EXIT_FAILED, "%s: none of its processes runs any more", service->name);
    enum exit_code code = pid ? find_process(service, pid, &process, why) : EXIT_DONE;
    if (code != EXIT_DONE)
        return code;
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

enum exit_code change_limits(struct service_file *service, uint32_t pid, char **pairs,
                             char why[CHANGE_WHY_MAX])
{
    /* One writer at a time: what is read, changed and published is one step. */
    if (flock(service->fd, LOCK_EX) < 0)
        return refuse(why, EXIT_FAILED, "%s: cannot lock: %s", service->path, strerror(errno));
    enum exit_code code = set(service, pid, pairs, why);
    flock(service->fd, LOCK_UN);
    return code;
}

enum exit_code change_admission(struct service_file *service, enum admission_switch to,
                                char why[CHANGE_WHY_MAX])
{
    static const enum event_kind events[] = {[ADMISSION_OPEN] = EVENT_RESUMED,
                                             [ADMISSION_PAUSED] = EVENT_PAUSED,
                                             [ADMISSION_DRAINING] = EVENT_DRAINING};
    _Static_assert(sizeof events / sizeof *events == ADMISSION_SWITCHES, "an event each");
    if (service_processes(service) == 0)
        return refuse(why, EXIT_FAILED, "%s: none of its processes runs any more", service->name);
    atomic_store(&service->segment->admission, to);
    segment_wake(service->segment, true);
    segment_event(service->segment, events[to], 0, 0, NULL);
    live_apply_listeners(service);
    return EXIT_DONE;
}
