/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * select, without what the program is not to see: see masking.h.
 */
#ifndef BACKPRESSURE_SELECT_FILTER_H
#define BACKPRESSURE_SELECT_FILTER_H

#include "base/memory.h"
#include "output/flows.h"
#include "process/descriptors.h"

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/select.h>

/* Whether the call has nothing to do with the shim at all, as is soon found out: listeners mostly
 * have low numbers, so that the first word tells of any set. */
static inline bool select_filter_passes(int end, const fd_set *read_fds)
{
    const uint64_t *set = (const void *)read_fds;
    if (!flows_quiet() || atomic_load_explicit(&descriptors_withheld_end, memory_order_relaxed) >
                              DESCRIPTORS_PER_WORD)
        return false;
    if (atomic_load_explicit(&descriptors_withheld_end, memory_order_relaxed) == 0)
        return true;
    return end <= 0 || !set ||
           (memory_known(MEMORY_SET, set, sizeof *set) &&
            !(*set & atomic_load_explicit(descriptors_withheld, memory_order_relaxed)));
}

/* Whether the call concerns listeners or what is withheld, so that it must not go straight to the
 * kernel. */
bool select_filter_concerns(int end, const fd_set *read_fds, const fd_set *write_fds,
                            const fd_set *except_fds);

/* pselect(2), with its errors; `left_ns`, unless NULL, gets what is left of the timeout. */
int select_filter_wait(int end, fd_set *read_fds, fd_set *write_fds, fd_set *except_fds,
                       int64_t timeout_ns, const sigset_t *signals, int64_t *left_ns);

#endif
