/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The table of the service's processes: how they enter it, multiply and leave it.
 */
#ifndef BACKPRESSURE_PROCESSES_H
#define BACKPRESSURE_PROCESSES_H

#include "process/liveness.h"
#include "process/service.h"

/*
 * Finds this process's entry, left by what it was before exec, or claims one. True when it was
 * left: the caller then settles what survived.
 */
bool processes_enter(void);

/*
 * This process in one word, to be kept in the segment: its entry, and which of those that had it.
 * Never 0. Another process asks with it whether this one still runs; LIVENESS_UNKNOWN, too, for one
 * that found the table full. Some three microseconds; async-signal-safe.
 */
uint64_t processes_self(void);
enum liveness processes_judge(uint64_t reference);

/* Whether the process of the entry `index` is gone, by proof. Entry 0 stands for several, of which
 * nothing can be said. Some three microseconds; async-signal-safe. */
bool processes_gone(uint32_t index);

/* Around exec: until the next program has found the entry, its lock says nothing. */
void processes_before_exec(void);
void processes_after_failed_exec(void);

/* Around fork: the child's entry is ready, and holds what the parent holds, before it exists. */
void processes_before_fork(void);
void processes_after_fork_in_child(void);
/* Notes in this process's entry what its seccomp filters keep the shim from: see sandbox.h. */
void processes_sandboxed(void);
/* `child` is its pid, or -1 when the fork failed; 0 when that is not known here. */
void processes_after_fork_in_parent(pid_t child);

/*
 * Looks for processes that are gone, and frees what only they held. Returns how many were found.
 * A quick look at those which hold something costs a third of a microsecond each, and takes a
 * zombie for alive; a thorough look costs ten times that, and does not.
 */
unsigned processes_reap(bool thorough);

/* The pid of the live process with that index, where /proc has it under that number; or 0. */
uint32_t processes_pid_here(uint32_t index);

/* Whether that is so of all processes of the service: what any of them holds, /proc can tell. */
bool processes_all_here(void);

/* The child `pid` was waited for: it is gone, and so is what only it held. Async-signal-safe. */
void processes_waited(pid_t pid);

#endif
