/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which sockets processes have open, as /proc/PID/fd tells (proc(5)): of one's own user's
 * processes, unless they changed their user or are not dumpable; of all, for root.
 *
 * It goes through a table that may change meanwhile: a descriptor which is moved from a number that
 * was not read yet to one that was is not seen. Async-signal-safe; errno is not kept.
 */
#ifndef BACKPRESSURE_HOLDINGS_H
#define BACKPRESSURE_HOLDINGS_H

#include <stdbool.h>
#include <stdint.h>

typedef void (*holdings_visitor)(uint64_t inode, void *context);

/*
 * Whether /proc is there, and its numbers are the pids of this process's pid namespace. 0, or the
 * errno that says why not.
 */
int holdings_error(void);

/* Visits what the process `pid` has open. False when that cannot be read, whole. */
bool holdings_of(uint32_t pid, holdings_visitor visit, void *context);

/*
 * Visits what any process has open that can be read. `hidden_since_ns` gets when the youngest of
 * the others started, by CLOCK_MONOTONIC, or 0 when there are none: what began to exist after that
 * can be inherited by none of them. False when the processes cannot be listed, or that time cannot
 * be told.
 */
bool holdings_of_all(holdings_visitor visit, void *context, uint64_t *hidden_since_ns);

#endif
