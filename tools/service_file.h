/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * An opened segment of a service, which its processes can write to while it is read.
 */
#ifndef BPCTL_SERVICE_FILE_H
#define BPCTL_SERVICE_FILE_H

#include "../shim/process/liveness.h"
#include "../shim/segment/segment.h"

#include <stdbool.h>
#include <sys/types.h>

struct service_file {
    char name[SERVICE_NAME_MAX];
    char path[SEGMENT_PATH_MAX];
    uid_t owner;
    struct segment *segment;
    int fd;
    bool lost; /* the file has no name any more; `path` is where it was */
};

/* How this process looks at those of the service. */
struct onlooker service_onlooker(const struct service_file *service);

/* Unmaps and closes it; one that is closed already is left alone. */
void service_close(struct service_file *service);

/*
 * Whether the process `pid` has the service's segment mapped. A segment can name any process as its
 * own; one to which something is done must be found to be.
 */
bool service_has_process(const struct service_file *service, pid_t pid);

/* How many of its processes live. */
unsigned service_processes(const struct service_file *service);

#endif
