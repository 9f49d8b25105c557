/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How a process under the shim begins, multiplies and becomes another program.
 */
#ifndef BACKPRESSURE_LIFECYCLE_H
#define BACKPRESSURE_LIFECYCLE_H

#include <sys/types.h>

/* Around a fork whose atfork handlers do not run: _Fork, or a raw system call. */
void lifecycle_before_fork(void);
void lifecycle_after_fork(pid_t result);

/* After fork in the parent, whose atfork handlers could not know the child: its pid, or -1. */
void lifecycle_forked(pid_t child);

/* A child is about to be spawned that shares nothing but descriptors: vfork, posix_spawn, popen. */
void lifecycle_before_spawn(void);
/* It was, or it could not be. errno is kept. */
void lifecycle_after_spawn(void);

/* Around exec, also in a vfork child; the second when exec returned. errno is kept. */
void lifecycle_before_exec(void);
void lifecycle_after_failed_exec(void);

/* One of the wait family returned `child` with `status`. */
void lifecycle_waited(pid_t child, int status);
void lifecycle_ended(pid_t child);

/*
 * Puts a seccomp filter around the process by `install`, and notes it: afterwards the shim asks
 * nothing of the kernel that the filter does not allow. `program` is the filter, NULL for strict
 * mode; it is read only after the kernel has accepted it. Returns what `install` does, with its
 * errno.
 */
struct sock_fprog;
long lifecycle_sandbox(long (*install)(const void *call), const void *call,
                       const struct sock_fprog *program);

#endif
