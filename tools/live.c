/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "live.h"

#include "../shim/base/sockdiag.h"
#include "../shim/fd/gate.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct segment_listener *entry_of(struct segment *segment, uint64_t cookie)
{
    uint32_t used = atomic_load(&segment->listeners_used);
    for (uint32_t i = 0; i < used && i < SEGMENT_LISTENERS; i++)
        if (atomic_load(&segment->listener[i].cookie) == cookie)
            return &segment->listener[i];
    return NULL;
}

static void apply_gate(const struct segment *segment, struct segment_listener *entry, int fd)
{
    bool paused = atomic_load(&segment->admission) != ADMISSION_OPEN;
    uint32_t open = 0;
    int family = 0;
    socklen_t length = sizeof family;

    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length) < 0 || family == AF_UNIX)
        return;
    if (paused) {
        if (!gate_is_foreign(fd) && atomic_compare_exchange_strong(&entry->gated, &open, 1)) {
            atomic_store(&entry->gated_once, 1);
            if (!gate_shut(fd))
                atomic_store(&entry->gated, 0);
        }
    } else if (segment_limit(segment, LIMIT_QUEUE) != 0) {
        bool noted = atomic_exchange(&entry->gated, 0) != 0;
        if (noted || gate_is_shut(fd))
            gate_open(fd);
    }
}

static void apply(struct segment *segment, int fd)
{
    struct segment_listener *entry = entry_of(segment, sockdiag_cookie(fd));
    if (!entry)
        return;
    uint32_t asked = atomic_load(&entry->asked_backlog);
    bool known = asked > 0 && asked - 1 <= INT32_MAX;
    if (known || segment_limit(segment, LIMIT_QUEUE) != LIMIT_OFF)
        listen(fd, segment_backlog(segment, known ? (int)(asked - 1) : 0));
    apply_gate(segment, entry, fd);
}

static bool names_listener(const char *link, const struct service_view *view)
{
    unsigned inode;
    if (sscanf(link, "socket:[%u]", &inode) != 1)
        return false;
    for (unsigned i = 0; i < view->listeners; i++)
        if (view->listener[i].inode == inode)
            return true;
    return false;
}

static void apply_in_process(const struct service_file *service, const struct service_view *view,
                             pid_t pid)
{
    char path[64], link[64];
    int process = (int)syscall(SYS_pidfd_open, pid, 0);
    /* After it was pinned: a number that is given to another meanwhile does not matter then. */
    if (process >= 0 && !service_has_process(service, pid)) {
        close(process);
        return;
    }
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    DIR *directory = opendir(path);
    for (struct dirent *entry; directory && process >= 0 && (entry = readdir(directory));) {
        ssize_t length = readlinkat(dirfd(directory), entry->d_name, link, sizeof link - 1);
        if (length <= 0)
            continue;
        link[length] = '\0';
        if (!names_listener(link, view))
            continue;
        int fd = (int)syscall(SYS_pidfd_getfd, process, atoi(entry->d_name), 0);
        if (fd < 0)
            continue;
        apply(service->segment, fd);
        close(fd);
    }
    if (process >= 0)
        close(process);
    if (directory)
        closedir(directory);
}

void live_apply_listeners(const struct service_file *service)
{
    struct service_view *view = malloc(sizeof *view);
    if (!view)
        return;
    service_view(service, view);
    for (unsigned i = 0; i < view->processes && view->listeners > 0; i++)
        apply_in_process(service, view, view->process[i].pid);
    free(view);
}
