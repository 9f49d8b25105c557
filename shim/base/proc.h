/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Reading /proc: proc(5). No stdio, and getdents64(2) in place of opendir(3), which allocates: all
 * here is async-signal-safe. errno may change.
 */
#ifndef BACKPRESSURE_PROC_H
#define BACKPRESSURE_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROC_PATH_MAX 64

/* Writes `before`, the number and `after`, which fit in the path with ten digits between them:
 * "/proc/", 17, "/stat". */
void proc_path(char path[PROC_PATH_MAX], const char *before, uint32_t number, const char *after);

/* Reads what one read(2) gives of the file, and ends it with a NUL. How much that was; where it
 * failed an errno, negated, and the text is empty. */
long proc_read(const char *path, char *text, size_t size);

/* The number that the text begins with; 0 where it begins with none, and for NULL. Not strtoul or
 * atoi, which newer headers make functions of that older libcs lack. */
uint64_t proc_number(const char *text);

/* Fields of proc_pid_stat(5), counted from the end of the command's name. */
enum proc_stat_field { PROC_STATE = 1, PROC_FLAGS = 7, PROC_THREADS = 18, PROC_START = 20 };

/* Where that field begins in the text of /proc/PID/stat; NULL if it is not there. */
const char *proc_stat(const char *text, enum proc_stat_field field);

/* Shown an entry: the directory's descriptor, which stays open meanwhile, and the entry's name.
 * True ends the listing. */
typedef bool (*proc_visit)(int directory, const char *name, void *context);

struct proc_listing {
    uint32_t count; /* entries that were shown */
    bool ended;     /* by the visitor */
    bool whole;     /* ended by it, or by the end; otherwise it could not be read to its end */
};

/* Shows each entry of the directory whose name begins with a digit: the processes in /proc, the
 * descriptors in /proc/PID/fd. */
struct proc_listing proc_each(const char *path, proc_visit visit, void *context);

#endif
