/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A server may cut its segment's file while bpctl reads it: mmap(2) promises SIGBUS for that.
 */
#ifndef BPCTL_TRUNCATION_H
#define BPCTL_TRUNCATION_H

#include "../shim/segment/segment.h"

/* From now on bpctl ends with one line and exit code 1 when it happens. */
void truncation_ends(void);

/* From now on what was cut off reads as zeros, for commands that watch many services for long. */
void truncation_reads_zeros(void);

/* A segment that may be cut, and one that is not mapped any more. */
void truncation_mapped(struct segment *segment);
void truncation_unmapped(struct segment *segment);

#endif
