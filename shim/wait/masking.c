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

short masking_leaves_out(struct wait *wait, int fd, short asked)
{
    struct flow *flow = flow_of(fd);
    if (!flow)
        return 0;
    if (wait_loop_awaits(wait, flow))
        return READABLE | POLLRDHUP;
    return asked & WRITABLE && pausing_masks(flow) ? READABLE : 0;
}

void masking_awaits_no_more(const struct wait *wait, int fd)
{
    struct flow *flow = flow_of(fd);
    if (flow)
        wait_loop_awaits_no_more(wait, flow);
}

short masking_admits(int fd, short events)
{
    const struct input_gate *gate = watches_gate_in_force();
    struct flow *flow = gate ? flow_of(fd) : NULL;
    if (flow && events & (POLLERR | POLLHUP))
        gate->broken(fd, flow);
    else if (flow && events & READABLE && !gate->admits(fd, flow))
        return events & ~(READABLE | POLLRDHUP);
    return events;
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
