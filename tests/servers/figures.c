/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Writes figures of requests into a service's segment, so that what shows them can be told from
 * what counts them.
 *
 *     figures SEGMENT PID [WHAT=NUMBER]...
 *
 * WHAT is in_flight, waiting, streams, a counter's name, or sojourn or response: a time in
 * microseconds that is added once. What a process has in flight is in flight in the service, too.
 */
#include "../../shim/segment/segment.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct segment_process *process_of(struct segment *segment, uint32_t pid)
{
    for (uint32_t i = 0; i < SEGMENT_PROCESSES; i++) {
        uint64_t identity = atomic_load(&segment->process[i].identity);
        if (process_phase(identity) == PROCESS_LIVE && process_pid(identity) == pid)
            return &segment->process[i];
    }
    return NULL;
}

static bool write_counter(struct segment_process *process, const char *what, uint64_t number)
{
#define COUNTER(id, name, kind) name,
    static const char *const names[COUNTERS] = {
#include "../../shim/segment/counters.def"
    };
    for (unsigned i = 0; i < COUNTERS; i++) {
        if (strcmp(names[i], what) != 0)
            continue;
        atomic_store(&process->counter[i], number);
        return true;
    }
    return false;
}

static bool write_figure(struct segment *segment, struct segment_process *process, const char *what,
                         uint64_t number)
{
    if (strcmp(what, "in_flight") == 0) {
        atomic_store(&process->requests.word, number);
        atomic_store(&segment->requests.word, number);
        atomic_store(&segment->requests_peak, number + 1);
        return true;
    }
    if (strcmp(what, "waiting") == 0)
        atomic_store(&process->requests_waiting, (uint32_t)number);
    else if (strcmp(what, "streams") == 0)
        atomic_store(&process->streams, (uint32_t)number);
    else if (strcmp(what, "sojourn") == 0)
        histogram_add(&process->request_wait, number * 1000);
    else if (strcmp(what, "response") == 0)
        histogram_add(&process->response, number * 1000);
    else
        return write_counter(process, what, number);
    return true;
}

int main(int argc, char **argv)
{
    struct segment *segment;
    if (argc < 3 || segment_open(argv[1], &segment, NULL) != SEGMENT_OK)
        return 2;
    struct segment_process *process = process_of(segment, (uint32_t)atoi(argv[2]));
    if (!process)
        return 1;
    for (int i = 3; i < argc; i++) {
        char *what = argv[i], *number = strchr(what, '=');
        if (!number)
            return 2;
        *number++ = '\0';
        if (!write_figure(segment, process, what, strtoull(number, NULL, 10))) {
            fprintf(stderr, "figures: %s is none\n", what);
            return 2;
        }
    }
    return 0;
}
