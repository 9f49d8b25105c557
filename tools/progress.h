/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How a command that takes more than a second says that it is still at it: on stderr, a line that
 * rewrites itself on a terminal, and a line every few seconds elsewhere.
 */
#ifndef BPCTL_PROGRESS_H
#define BPCTL_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    uint64_t began_ns, next_ns;
    bool terminal, written;
};

void progress_begin(struct progress *progress);

/* Says it, if it is time to. */
void progress_tell(struct progress *progress, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Leaves the terminal's line empty for what comes next. */
void progress_end(struct progress *progress);

#endif
