/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The descriptor of the segment's file that each process keeps: by it the locks of other processes
 * are asked for (liveness.h), and the file is found when its name is gone (finding.h).
 *
 * It has a high number and is closed on exec. The program does not know of it: its closing it by
 * number or by range leaves it open, a duplicate onto its number moves it elsewhere. Only a raw
 * system call past libc can close it; then it is opened anew while the file has its name.
 */
#ifndef BACKPRESSURE_KEPT_H
#define BACKPRESSURE_KEPT_H

#include <stdbool.h>

/* Keeps `fd`, the file of service.segment, which is moved to a high number. At start. */
void kept_start(int fd);

/* The descriptor, seen to be that file just now; -1 when it is lost. Async-signal-safe. */
int kept_descriptor(void);

/* Another open file description of the file, which nobody shares; -1 when there is none to be had.
 * Async-signal-safe. */
int kept_open(void);

/* The number, or -1, without looking. */
int kept_number(void);

/* Moves it to another number, because the program takes this one. */
void kept_move(void);

/* Before exec: when the file has no name any more, the descriptor is what the next program finds it
 * by. Also in a vfork child, whose descriptors are its own. */
void kept_before_exec(void);
void kept_after_failed_exec(void);

/* Says, once for all processes of the service, when the file is not found by its name any more.
 * A comparison when it is not due; else a few system calls, once in a second. */
void kept_watch(void);

#endif
