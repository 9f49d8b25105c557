/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The clocks, in nanoseconds. clock_gettime(2) without a system call where the kernel has a vDSO,
 * the processor's time apart. Async-signal-safe.
 */
#ifndef BACKPRESSURE_CLOCK_H
#define BACKPRESSURE_CLOCK_H

#include "base/internal.h"

#include <stdint.h>
#include <time.h>

/* CLOCK_MONOTONIC: the same for all processes of a machine, whatever time namespace they are in
 * apart (time_namespaces(7)). */
uint64_t monotonic_ns(void);

/* CLOCK_REALTIME, for people and for other machines. */
uint64_t realtime_ns(void);

/* Processor time of this thread, so that work which was preempted does not seem to have been dear.
 * A system call. */
uint64_t spent_ns(void);

/* What the three read: clock_gettime(2), until sandbox.h puts something else there. */
extern INTERNAL int (*_Atomic clock_source)(clockid_t clock, struct timespec *time);

#endif
