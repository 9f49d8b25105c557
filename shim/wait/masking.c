/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "wait/masking.h"

#include "accept/accepting.h"
#include "accept/admission.h"
#include "base/real.h"
#include "base/sandbox.h"
#include "output/pausing.h"
#include "wait/readiness.h"

#include <sys/mman.h>

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

short masking_leaves_out(int fd, short asked, bool *has_turns)
{
    struct flow *flow = asked & READABLE ? flow_of(fd) : NULL;
    if (flow && flow_signs(flow) & FLOW_WAITS_TURN) {
        *has_turns = true;
        return READABLE | POLLRDHUP;
    }
    return flow && asked & WRITABLE && pausing_masks(flow) ? READABLE : 0;
}

bool masking_admits(int fd)
{
    const struct input_gate *gate = watches_gate_in_force();
    struct flow *flow = gate ? flow_of(fd) : NULL;
    return !flow || gate->admits(fd, flow);
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
