/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Processes of other pid namespaces, as this one has them.
 */
#ifndef BPCTL_PIDS_H
#define BPCTL_PIDS_H

#include "services.h"

/*
 * Gives each process of the view its pid in the caller's own namespace, where that sees it: it does
 * when it is an ancestor of the process's (pid_namespaces(7)), and the caller may look at it. One
 * pass over /proc, when there are processes of other namespaces at all.
 */
void pids_translate(struct service_view *view, uint64_t own_namespace);

/* A pid for people: 1234; or 1@4026532201, its own in a namespace that cannot be seen from here. */
#define PID_TEXT_MAX 40
void pid_text(const struct process_view *process, char out[PID_TEXT_MAX]);

/*
 * The process of the view that `pid` names: by the pid that it has here, or, when there is only one
 * such, by its own in another namespace. NULL when there is none, or `*several`.
 */
const struct process_view *pids_find(const struct service_view *view, pid_t pid, bool *several);

#endif
