/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * poll, without what the program is not to see: see masking.h.
 */
#ifndef BACKPRESSURE_POLL_FILTER_H
#define BACKPRESSURE_POLL_FILTER_H

#include "base/memory.h"
#include "output/flows.h"
#include "process/descriptors.h"

#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

/* Whether the call has nothing to do with the shim at all, as is soon found out. */
static inline bool poll_filter_passes(const struct pollfd *fds, nfds_t count)
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

/* Whether the call concerns listeners or what is withheld, so that it must not go straight to the
 * kernel. */
bool poll_filter_concerns(const struct pollfd *fds, nfds_t count);

/* ppoll(2), with its errors; `timeout_ns` is -1 for ever. */
int poll_filter_wait(struct pollfd *fds, nfds_t count, int64_t timeout_ns, const sigset_t *signals);

#endif
