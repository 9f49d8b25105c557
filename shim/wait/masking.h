/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Keeping listeners at their ceiling out of the program's sight, in poll and select, and the input
 * of connections whose output is pending (pausing.h).
 *
 * These have no state in the kernel: a call that asks for such a listener is made without it, in
 * slices, until there is room, something else is ready, or its time is over.
 */
#ifndef BACKPRESSURE_MASKING_H
#define BACKPRESSURE_MASKING_H

#include "base/memory.h"
#include "output/flows.h"
#include "process/descriptors.h"

#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/select.h>

/* Whether the call has nothing to do with the shim at all, as is soon found out. */
static inline bool masking_passes_poll(const struct pollfd *fds, nfds_t count)
{
    if (!flows_quiet())
        return false;
    /* Of what is withheld, listeners and epoll sets, there is nothing. */
    if (atomic_load_explicit(&descriptors_withheld_end, memory_order_relaxed) == 0)
        return true;
    if (!memory_known(MEMORY_POLLED, fds, count * sizeof *fds))
        return false;
    const struct pollfd *end = fds + count;
    while (end > fds && descriptor_untracked(end[-1].fd))
        end--;
    return end == fds;
}

/* The same of select. Listeners mostly have low numbers, so that the first word tells of any set.
 */
static inline bool masking_passes_select(int end, const fd_set *read_fds)
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

/* Whether the call concerns any of these, so that it must not go straight to the kernel. */
bool masking_concerns_poll(const struct pollfd *fds, nfds_t count);
bool masking_concerns_select(int end, const fd_set *read_fds, const fd_set *write_fds,
                             const fd_set *except_fds);

/* ppoll(2), with its errors; `timeout_ns` is -1 for ever. */
int masking_poll(struct pollfd *fds, nfds_t count, int64_t timeout_ns, const sigset_t *signals);

/* pselect(2), with its errors; `left_ns`, unless NULL, gets what is left of the timeout. */
int masking_select(int end, fd_set *read_fds, fd_set *write_fds, fd_set *except_fds,
                   int64_t timeout_ns, const sigset_t *signals, int64_t *left_ns);

#endif
