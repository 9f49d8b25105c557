/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * bpctl's commands on a segment that its owner has scribbled on.
 *
 * Input: patches of 12 bytes, each a place (4 bytes, little-endian, in words of the segment) and
 * the word to put there. The segment is in order otherwise, and this process is in it, so that
 * commands do all that they would do to a service that runs. Run with -close_fd_mask=3: what the
 * commands print is of no interest.
 */
#include "../../shim/process/joining.h"
#include "../../shim/process/liveness.h"
#include "../../tools/commands.h"
#include "../../tools/exposition.h"
#include "../../tools/rates.h"
#include "../../tools/services.h"

#include <arpa/inet.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATCH 12
#define PATCHES_MAX 256
#define NAME "fuzzed"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char directory[] = "/dev/shm/backpressure-fuzz-XXXXXX";
static struct segment *segment;
static unsigned char *pristine;

static void clean_up(void)
{
    char path[sizeof directory + 16];
    snprintf(path, sizeof path, "%s/" NAME, directory);
    unlink(path);
    rmdir(directory);
}

/* A listener of our own, so that what bpctl does to listeners it does to one. */
static void add_listener(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    uint64_t cookie = 0;
    socklen_t length = sizeof cookie;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 8) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length) < 0)
        abort();
    atomic_store(&segment->listener[0].cookie, cookie);
    atomic_store(&segment->listener[0].asked_backlog, 9);
    atomic_store(&segment->listeners_used, 1);
}

static void prepare(void)
{
    struct limits limits;
    struct joined joined;
    char why[512];
    limits_defaults(&limits);
    limits.value[LIMIT_TOTAL_CONNS] = 10;
    limits.value[LIMIT_PEER_CONNS] = 5;
    if (segment_join(NAME, &limits, &joined, why, sizeof why) != SEGMENT_OK)
        abort();
    segment = joined.segment;
    atomic_store(&segment->process[0].pid_namespace, liveness_own_namespace());
    atomic_store(&segment->process[0].identity,
                 process_identity(0, PROCESS_LIVE, (uint32_t)getpid()));
    atomic_store(&segment->processes_used, 1);
    add_listener();
    for (unsigned i = 0; i < 4; i++)
        segment_event(segment, (enum event_kind)i, 1, i, "text of an event");
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    if (!mkdtemp(directory))
        abort();
    setenv("BACKPRESSURE_DIR", directory, 1);
    atexit(clean_up);
    prepare();
    pristine = malloc(sizeof *segment);
    if (!pristine)
        abort();
    memcpy(pristine, segment, sizeof *segment);
    return 0;
}

/* Undoes what the patches and the commands did, without touching pages that nobody wrote to. */
static void restore(const uint8_t *data, size_t size)
{
    memcpy(segment, pristine, offsetof(struct segment, process));
    memcpy(segment->process, pristine + offsetof(struct segment, process),
           4 * sizeof segment->process[0]);
    for (size_t i = 0; i + PATCH <= size && i < PATCH * PATCHES_MAX; i += PATCH) {
        uint32_t place;
        memcpy(&place, data + i, sizeof place);
        size_t at = place % (sizeof *segment / 8) * 8;
        memcpy((unsigned char *)segment + at, pristine + at, 8);
    }
}

static void patch(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i + PATCH <= size && i < PATCH * PATCHES_MAX; i += PATCH) {
        uint32_t place;
        memcpy(&place, data + i, sizeof place);
        memcpy((unsigned char *)segment + place % (sizeof *segment / 8) * 8, data + i + 4, 8);
    }
}

static void run(int (*command)(int, char **), char *name, char *first, char *second)
{
    char *argv[] = {name, first, second, NULL};
    optind = 0; /* getopt(3): starts anew */
    command(!first ? 1 : !second ? 2 : 3, argv);
}

static void read_everything(void)
{
    static struct service_view view, earlier;
    static struct fullness full[FULLNESS_MAX];
    struct service_file service;
    struct rates rates;
    size_t size;
    if (service_open_of(NAME, geteuid(), &service)) {
        service_view(&service, &view);
        rates_between(&earlier, &view, 1, &rates);
        rates_fullness(&view, &rates, full);
        earlier = view;
        service_close(&service);
    }
    for (int openmetrics = 0; openmetrics < 2; openmetrics++)
        free(exposition(openmetrics, &size));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    patch(data, size);
    run(command_show, "show", NAME, NULL);
    run(command_show, "show", NAME, "--json");
    run(command_events, "events", NAME, "--json");
    run(command_depth, "depth", NAME, NULL);
    run(command_set, "set", NAME, "total-conns=20");
    run(command_pause, "pause", NAME, NULL);
    run(command_resume, "resume", NAME, NULL);
    read_everything();
    restore(data, size);
    run(command_ls, "ls", NULL, NULL);
    fflush(stdout);
    return 0;
}
