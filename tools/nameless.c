/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "nameless.h"

#include "truncation.h"

#include "../shim/segment/finding.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* What the file says of itself must fit who it belongs to: the directory is that owner's. */
static bool path_fits(const char *path, uid_t owner, char name[SERVICE_NAME_MAX])
{
    char directory[SEGMENT_PATH_MAX], expected[SEGMENT_PATH_MAX];
    const char *chosen = secure_getenv("BACKPRESSURE_DIR");
    const char *slash = strrchr(path, '/');
    if (!slash || !limits_name_valid(slash + 1))
        return false;
    snprintf(directory, sizeof directory, "%.*s", (int)(slash - path), path);
    snprintf(name, SERVICE_NAME_MAX, "%.*s", SERVICE_NAME_MAX - 1, slash + 1);
    snprintf(expected, sizeof expected, "/dev/shm/backpressure.%u", owner);
    return strcmp(directory, chosen && *chosen ? chosen : expected) == 0;
}

/* The first that finds it so says it, for all. */
static void note_lost(struct segment *segment)
{
    uint32_t not_said = 0;
    if (atomic_compare_exchange_strong(&segment->name_lost, &not_said, 1))
        segment_event(segment, EVENT_NAME_LOST, 0, 0, "found by its processes from now on");
}

/* `fd` is the service's when it is one. */
static bool open_nameless(int fd, struct service_file *service)
{
    struct stat status;
    memset(service, 0, sizeof *service);
    if (!finding_read_path(fd, service->path) || fstat(fd, &status) < 0 ||
        !path_fits(service->path, status.st_uid, service->name) ||
        finding_is_named(service->path, fd) || segment_map(fd, &service->segment) != SEGMENT_OK)
        return false;
    service->fd = fd;
    service->owner = status.st_uid;
    service->lost = true;
    truncation_mapped(service->segment);
    if (service_processes(service) > 0) {
        note_lost(service->segment);
        return true;
    }
    truncation_unmapped(service->segment);
    munmap(service->segment, sizeof *service->segment);
    return false;
}

struct search {
    const struct nameless_wanted *wanted;
    struct service_file *service;
};

static bool is_wanted(int fd, void *context)
{
    const struct search *search = context;
    struct service_file found;
    if (!open_nameless(fd, &found))
        return false;
    if (strcmp(found.name, search->wanted->name) == 0 &&
        (search->wanted->any_owner || found.owner == search->wanted->owner)) {
        *search->service = found;
        return true;
    }
    found.fd = -1; /* the finder's to close */
    service_close(&found);
    return false;
}

bool nameless_find(const struct nameless_wanted *wanted, struct service_file *service)
{
    struct search search = {wanted, service};
    return finding_each(is_wanted, &search);
}

struct visiting {
    void (*visit)(struct service_file *, enum segment_result, void *);
    void *context;
};

static bool visit_nameless(int fd, void *context)
{
    const struct visiting *visiting = context;
    struct service_file service;
    if (!open_nameless(fd, &service))
        return false;
    visiting->visit(&service, SEGMENT_OK, visiting->context);
    service.fd = -1; /* the finder's to close */
    service_close(&service);
    return false;
}

void nameless_each(void (*visit)(struct service_file *service, enum segment_result result,
                                 void *context),
                   void *context)
{
    struct visiting visiting = {visit, context};
    finding_each(visit_nameless, &visiting);
}
