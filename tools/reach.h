/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether a preloaded library reaches a program.
 */
#ifndef BPCTL_REACH_H
#define BPCTL_REACH_H

#include "program.h"

#include <stdbool.h>
#include <stddef.h>

/* Why nothing can be preloaded into the program, in words; NULL when it can be. */
const char *reach_obstacle(const struct program *program);

/* Whether the program would not even start with the library in LD_PRELOAD. */
bool reach_stops(const struct program *program);

/* What of the program's doing the shim may not see, as the n-th remark; NULL after the last. */
const char *reach_remark(const struct program *program, unsigned number);

/*
 * Whether the shim reaches what `command`, looked up as execvp(3) does, runs: the program, or the
 * interpreters of a script. False, with one line in `why`, when not; true also when there is no
 * such command, which exec will say. `program` gets the last one that was read.
 */
bool reach_program(const char *command, struct program *program, char *why, size_t size);

#endif
