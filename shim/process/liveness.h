/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which process an entry of the segment stands for, and whether that process still runs.
 *
 * A pid says nothing outside its pid namespace, and is given to another process later. So a process
 * is named by its pid, its pid namespace and the time it started (proc_pid_stat(5), field 22). From
 * another namespace it can neither be signalled nor looked up; what can be seen from everywhere is
 * a lock. Each process locks a byte of the segment's file, that of its entry, by an open file
 * description of its own, maps a page through that description and closes the descriptor. Such a
 * lock goes when the description does (fcntl(2), F_OFD_SETLK), and that is held by the mapping from
 * then on. It outlives any closing of descriptors, and ends with the memory it is mapped in: by
 * exit, SIGKILL or exec, before a zombie is left. A forked child does not inherit the page
 * (madvise(2), MADV_DONTFORK).
 *
 * Linked into bpctl too. Everything here is async-signal-safe, and may be called from anywhere.
 */
#ifndef BACKPRESSURE_LIVENESS_H
#define BACKPRESSURE_LIVENESS_H

#include "segment/segment.h"

enum liveness {
    LIVENESS_GONE, /* proved */
    LIVENESS_RUNS,
    LIVENESS_UNKNOWN, /* it may run: what it holds is not freed */
};

/* Who looks: its own pid namespace (0 when /proc does not tell), and a descriptor of the segment's
 * file that no lock belongs to, or -1. */
struct onlooker {
    uint64_t pid_namespace;
    int fd;
};

/* The inode of this process's pid namespace; 0 without /proc. A forked child may have another. */
uint64_t liveness_own_namespace(void);

/* When this process started, in clock ticks since the machine did; 0 without /proc. */
uint64_t liveness_own_start(void);

/*
 * Takes the lock of the entry `index` for as long as this memory exists. `fd` is an open file
 * description of the segment's file that nobody shares, opened for writing; it is closed. False
 * when it cannot be locked, or somebody has the lock.
 */
bool liveness_hold(int fd, uint32_t index);

/*
 * Whether the process that the entry `index` stood for, while it had `identity`, runs. Some three
 * microseconds; without `thorough`, a third of one, and a zombie or another process that got the
 * pid may be taken for it.
 */
enum liveness liveness_of(const struct segment *segment, uint32_t index, uint64_t identity,
                          const struct onlooker *onlooker, bool thorough);

/* The same for the entry as it stands. Entries that are free, or being freed, are gone. */
enum liveness liveness_of_entry(const struct segment *segment, uint32_t index,
                                const struct onlooker *onlooker);

/* Whether any process of the service runs, or may. */
bool liveness_of_anybody(const struct segment *segment, const struct onlooker *onlooker);

/* Whether `process` is named in the onlooker's own pid namespace, so that its pid means something
 * here. */
bool liveness_is_near(const struct segment_process *process, const struct onlooker *onlooker);

#endif
