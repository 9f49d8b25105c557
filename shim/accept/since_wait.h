/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a thread did since it last waited for descriptors: how many accepts it has made, and in the
 * low half how many of them in a row found no slot. One word, so that a wait clears it at once.
 */
#ifndef BACKPRESSURE_SINCE_WAIT_H
#define BACKPRESSURE_SINCE_WAIT_H

#include <stdbool.h>
#include <stdint.h>

#define SINCE_WAIT_ACCEPT (UINT64_C(1) << 32)
#define SINCE_WAIT_NEVER (UINT64_C(1) << 63)
/* Nobody accepts so many between two waits, but a thread that never waits. */
#define SINCE_WAIT_ACCEPTS_MOST (1024 * SINCE_WAIT_ACCEPT)

extern _Thread_local uint64_t since_wait __attribute__((tls_model("initial-exec")));

/* The thread went to wait. */
static inline void since_wait_begin(void)
{
    since_wait = 0;
}

static inline void since_wait_accepted(void)
{
    since_wait += SINCE_WAIT_ACCEPT;
}

/* Whether this is the thread's first accept since it waited. */
static inline bool since_wait_first_accept(void)
{
    return since_wait < SINCE_WAIT_ACCEPT;
}

/* Accepts in a row that found no slot, this one included; and one did. */
static inline uint32_t since_wait_found_no_slot(void)
{
    return (uint32_t)++since_wait;
}

static inline void since_wait_found_a_slot(void)
{
    since_wait &= ~(uint64_t)UINT32_MAX;
}

/* Whether this thread comes back to those it refuses, since it waits for descriptors itself. One
 * that is handed its work by others does not. */
static inline bool since_wait_comes_back(void)
{
    return since_wait < SINCE_WAIT_ACCEPTS_MOST;
}

#endif
