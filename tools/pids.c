/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "pids.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* The last number of NSpid in proc_pid_status(5): the pid in the innermost namespace. */
static pid_t innermost_pid(const char *process)
{
    char path[64], line[256];
    pid_t innermost = 0;
    snprintf(path, sizeof path, "/proc/%.20s/status", process);
    FILE *status = fopen(path, "re");
    while (status && fgets(line, sizeof line, status)) {
        if (strncmp(line, "NSpid:", 6) != 0)
            continue;
        const char *last = strrchr(line, '\t');
        innermost = last ? (pid_t)strtol(last + 1, NULL, 10) : 0;
    }
    if (status)
        fclose(status);
    return innermost;
}

static bool any_of(const struct service_view *view, uint64_t pid_namespace)
{
    for (unsigned i = 0; i < view->processes; i++)
        if (view->process[i].pid_namespace == pid_namespace)
            return true;
    return false;
}

static void translate(struct service_view *view, const char *process)
{
    char path[64];
    struct stat status;
    snprintf(path, sizeof path, "/proc/%.20s/ns/pid", process);
    if (stat(path, &status) < 0 || !any_of(view, status.st_ino))
        return;
    pid_t inside = innermost_pid(process);
    for (unsigned i = 0; i < view->processes; i++)
        if (view->process[i].pid_namespace == status.st_ino && view->process[i].inside == inside)
            view->process[i].pid = (pid_t)strtol(process, NULL, 10);
}

void pids_translate(struct service_view *view, uint64_t own_namespace)
{
    bool far = false;
    for (unsigned i = 0; i < view->processes; i++) {
        struct process_view *process = &view->process[i];
        bool near = own_namespace && process->pid_namespace == own_namespace;
        process->pid = near ? process->inside : 0;
        far |= !near && process->pid_namespace;
    }
    DIR *directory = far ? opendir("/proc") : NULL;
    for (struct dirent *entry; directory && (entry = readdir(directory));)
        if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9')
            translate(view, entry->d_name);
    if (directory)
        closedir(directory);
}

void pid_text(const struct process_view *process, char out[PID_TEXT_MAX])
{
    if (process->pid)
        snprintf(out, PID_TEXT_MAX, "%d", (int)process->pid);
    else
        snprintf(out, PID_TEXT_MAX, "%d@%" PRIu64, (int)process->inside, process->pid_namespace);
}

const struct process_view *pids_find(const struct service_view *view, pid_t pid, bool *several)
{
    const struct process_view *found = NULL;
    *several = false;
    for (unsigned i = 0; i < view->processes; i++)
        if (view->process[i].pid == pid)
            return &view->process[i];
    for (unsigned i = 0; i < view->processes; i++) {
        if (view->process[i].inside != pid)
            continue;
        *several = found != NULL;
        found = &view->process[i];
    }
    return *several ? NULL : found;
}
