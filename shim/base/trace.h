/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the shim does, one line on stderr for each step, for who looks for the reason of something:
 * BACKPRESSURE_TRACE names the subjects (libbackpressure.so(8)). Off, a place that tells costs one
 * load and a branch that is not taken, so there is none on the way of calls that read and write.
 *
 *   backpressure: trace SECONDS.MICROSECONDS PID/TID SUBJECT WHAT [fd=N] [NAME=N [NAME=N]]
 *
 * The time is CLOCK_MONOTONIC's, as in the segment.
 */
#ifndef BACKPRESSURE_TRACE_H
#define BACKPRESSURE_TRACE_H

#include "base/internal.h"

#include <stdint.h>

enum trace_subject {
    TRACE_ACCEPT,  /* who is admitted, held, parked, turned away; slots that are freed; gates */
    TRACE_OUTPUT,  /* grants that grow and shrink, reads that are paused, stalls */
    TRACE_WAIT,    /* listeners out of sight and in it again */
    TRACE_CONNECT, /* tries, and what they wait for */
    TRACE_SEGMENT, /* processes that come and go, what audits found */
    TRACE_SUBJECTS
};

/* A bit for each subject that is told of. Written by trace_start alone. */
extern INTERNAL uint32_t trace_wanted;

/* Reads BACKPRESSURE_TRACE. For a name that is none of its subjects, one line. Before there are
 * threads. */
void trace_start(void);

/* No descriptor is concerned. */
#define TRACE_NO_FD (-1)

/*
 * Writes a line, by one system call: it is whole, unless stderr is a pipe that is full. `fd` is
 * TRACE_NO_FD or what the step is about; numbers whose name is NULL are left out.
 * Async-signal-safe; errno is kept; any lock may be held, and is so while stderr blocks.
 */
void trace_write(enum trace_subject subject, const char *what, int fd, const char *first_name,
                 uint64_t first, const char *second_name, uint64_t second);

/* As trace_write, where the subject is wanted; otherwise no argument is worked out. */
#define trace(subject, what, fd, first_name, first, second_name, second)                           \
    do {                                                                                           \
        if (__builtin_expect(trace_wanted & UINT32_C(1) << (subject), 0))                          \
            trace_write(subject, what, fd, first_name, first, second_name, second);                \
    } while (0)

#endif
