/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Finding a control segment whose name is gone, by the processes that have it mapped.
 *
 * /dev/shm belongs to others, too: logind removes a user's files there when the last session ends
 * (logind.conf(5), RemoveIPC=). A file that has no name cannot be given one again (linkat(2)), but
 * it is there as long as a process has it mapped or open, and /proc leads to it:
 * proc_pid_map_files(5) for root, proc_pid_fd(5) for its own user, since each process keeps a
 * descriptor (kept.h).
 *
 * Linked into bpctl too, which may be root while others' processes say what they like: what is
 * opened is a regular file of the right size, whatever the name leads to.
 */
#ifndef BACKPRESSURE_FINDING_H
#define BACKPRESSURE_FINDING_H

#include "segment/segment.h"

/* Looks at a candidate: a descriptor of it, closed afterwards unless the visitor returns true,
 * which also ends the search. */
typedef bool (*finding_visit)(int fd, void *context);

/*
 * Visits what has the size of a segment and is mapped as one by any process of this pid namespace
 * that the caller may look at, each file once. Some 50 microseconds a process. True when a visitor
 * ended it. errno is undefined afterwards.
 */
bool finding_each(finding_visit visit, void *context);

/* The same for what this process has open; exec leaves that where the mapping is gone. */
bool finding_inherited(finding_visit visit, void *context);

/* Whether the file at `path` is the one that `fd` is a descriptor of. */
bool finding_is_named(const char *path, int fd);

/* The path that a candidate was created with; false when it is not one. */
bool finding_read_path(int fd, char path[SEGMENT_PATH_MAX]);

#endif
