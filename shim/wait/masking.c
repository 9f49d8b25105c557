/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "wait/masking.h"

#include "accept/accepting.h"
#include "accept/admission.h"
#include "base/real.h"
#include "base/sandbox.h"
#include "output/credit.h"
#include "output/metering.h"
#include "output/pausing.h"
#include "output/stalls.h"
#include "wait/readiness.h"

#include <sys/mman.h>

bool masking_concerns(int fd)
{
    enum descriptor_kind kind = descriptor_kind(descriptor_at(fd));
    return kind == DESCRIPTOR_LISTENER || kind == DESCRIPTOR_EPOLL;
}

bool masking_hides(int fd)
{
    struct listener *listener = listeners_tracked(fd);
    if (!listener || admission_visible(listener))
        return false;
    admission_holds(listener, fd);
    return true;
}

bool masking_withholds(int fd)
{
    struct listener *listener = listeners_tracked(fd);
    return listener && accepting_screen(listener, fd) != REPORT_NOW;
}

bool masking_pending(int fd)
{
    const struct listener *listener = listeners_tracked(fd);
    return listener && admission_pending(listener);
}

int64_t masking_next_slice(struct slices *slices, bool left_out, bool somebody_pending,
                           int64_t left)
{
    if (somebody_pending)
        return 0;
    if (!service_active())
        return left;
    bool watch = left_out || admission_needs_attention() || readiness_hidden();
    int64_t slice = credit_slice();
    if (slice >= 0 && (left < 0 || slice < left)) {
        signals_hold(&slices->held);
        left = slice;
    }
    slice = stalls_slice();
    left = slice >= 0 && (left < 0 || slice < left) ? slice : left;
    return watch ? slices_next(slices, left) : left;
}

bool masking_pauses(int fd, bool reads, bool writes)
{
    return reads && writes && descriptor_kind(descriptor_at(fd)) == DESCRIPTOR_CONN &&
           pausing_masks(fd);
}

bool masking_bytes_concerned(void)
{
    if (!flows_mode())
        return false;
    metering_new_turn();
    flows_attend();
    return credit_slice() >= 0 || stalls_slice() >= 0;
}

const struct timespec *masking_timespec(int64_t nanoseconds, struct timespec *out)
{
    if (nanoseconds < 0)
        return NULL;
    out->tv_sec = (time_t)(nanoseconds / 1000000000);
    out->tv_nsec = (long)(nanoseconds % 1000000000);
    return out;
}

void *masking_memory(size_t size)
{
    void *memory = MAP_FAILED;
    if (sandbox_permits(SYS_mmap) && sandbox_permits(SYS_munmap))
        memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

bool masking_calm(void)
{
    return !readiness_hidden() && flows_idle() && admission_calm();
}
