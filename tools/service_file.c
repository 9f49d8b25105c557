/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "service_file.h"

#include "truncation.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct onlooker service_onlooker(const struct service_file *service)
{
    static uint64_t own_namespace;
    if (!own_namespace)
        own_namespace = liveness_own_namespace();
    return (struct onlooker){own_namespace, service->fd};
}

void service_close(struct service_file *service)
{
    if (service->segment) {
        truncation_unmapped(service->segment);
        munmap(service->segment, sizeof *service->segment);
    }
    if (service->fd >= 0)
        close(service->fd);
    service->segment = NULL;
    service->fd = -1;
}

unsigned service_processes(const struct service_file *service)
{
    struct onlooker onlooker = service_onlooker(service);
    uint32_t used = atomic_load(&service->segment->processes_used);
    unsigned alive = 0;
    for (uint32_t i = 0; i < used && i < SEGMENT_PROCESSES; i++)
        alive += liveness_of_entry(service->segment, i, &onlooker) != LIVENESS_GONE;
    return alive;
}

bool service_has_process(const struct service_file *service, pid_t pid)
{
    struct stat status;
    char path[64], line[512];
    unsigned long inode;
    unsigned major_number, minor_number;
    bool found = false;

    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *maps = fstat(service->fd, &status) == 0 ? fopen(path, "re") : NULL;
    while (maps && !found && fgets(line, sizeof line, maps))
        found = sscanf(line, "%*s %*s %*s %x:%x %lu", &major_number, &minor_number, &inode) == 3 &&
                inode == status.st_ino && makedev(major_number, minor_number) == status.st_dev;
    if (maps)
        fclose(maps);
    return found;
}
