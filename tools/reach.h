/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether a preloaded library can reach a program at all.
 */
#ifndef BPCTL_REACH_H
#define BPCTL_REACH_H

#include <stdbool.h>
#include <stddef.h>

/*
 * False, with a reason in `why`, for a program that ld.so(8) loads nothing into: statically linked,
 * or run with another's privileges. A script is judged by its interpreter. True when in doubt.
 */
bool reach_program(const char *command, char *why, size_t size);

#endif
