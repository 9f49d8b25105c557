/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "accept/admission.h"
#include "accept/since_wait.h"
#include "base/real.h"
#include "base/sandbox.h"
#include "interpose/interpose.h"
#include "output/flows.h"
#include "process/descriptors.h"
#include "wait/epoll_filter.h"
#include "wait/readiness.h"

#include <limits.h>

INTERPOSE int epoll_ctl(int set, int operation, int fd, struct epoll_event *event)
{
    if (descriptor_untracked(fd) && BOUND(epoll_ctl))
        return real_functions.epoll_ctl(set, operation, fd, event);
    return readiness_control(set, operation, fd, event);
}

/* Rounded up: a wait may be longer than asked for, never shorter. */
static int to_ms(int64_t nanoseconds)
{
    if (nanoseconds < 0)
        return -1;
    int64_t milliseconds = (nanoseconds + 999999) / 1000000;
    return milliseconds > INT_MAX ? INT_MAX : (int)milliseconds;
}

static int wait_real(const struct epoll_call *call, int64_t timeout_ns)
{
    /* A wait in slices lets signals in only while the kernel waits. */
    if (call->signals && sandbox_permits(SYS_epoll_pwait))
        return REAL(epoll_pwait)(call->set, call->events, call->events_max, to_ms(timeout_ns),
                                 call->signals);
    return REAL(epoll_wait)(call->set, call->events, call->events_max, to_ms(timeout_ns));
}

static int pwait_real(const struct epoll_call *call, int64_t timeout_ns)
{
    return REAL(epoll_pwait)(call->set, call->events, call->events_max, to_ms(timeout_ns),
                             call->signals);
}

static int pwait2_real(const struct epoll_call *call, int64_t timeout_ns)
{
    struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / 1000000000),
                               .tv_nsec = (long)(timeout_ns % 1000000000)};
    return REAL(epoll_pwait2)(call->set, call->events, call->events_max,
                              timeout_ns < 0 ? NULL : &timeout, call->signals);
}

/* A set without listeners, while no limit on bytes is in force: nothing to look after. */
static inline bool unconcerned(int set)
{
    if (!descriptor_untracked(set) || (!flows_quiet() && flows_mode_here()))
        return false;
    since_wait_begin();
    return true;
}

static __attribute__((noinline)) int wait_with_care(int set, struct epoll_event *events,
                                                    int events_max, int timeout)
{
    struct epoll_call call = {wait_real, set, events, events_max, NULL};
    return epoll_filter_wait(&call, timeout_from_ms(timeout));
}

static __attribute__((noinline)) int pwait_with_care(int set, struct epoll_event *events,
                                                     int events_max, int timeout,
                                                     const sigset_t *signals)
{
    struct epoll_call call = {pwait_real, set, events, events_max, signals};
    return epoll_filter_wait(&call, timeout_from_ms(timeout));
}

INTERPOSE int epoll_wait(int set, struct epoll_event *events, int events_max, int timeout)
{
    if (unconcerned(set) && BOUND(epoll_wait))
        return real_functions.epoll_wait(set, events, events_max, timeout);
    return wait_with_care(set, events, events_max, timeout);
}

INTERPOSE int epoll_pwait(int set, struct epoll_event *events, int events_max, int timeout,
                          const sigset_t *signals)
{
    if (unconcerned(set))
        return REAL(epoll_pwait)(set, events, events_max, timeout, signals);
    return pwait_with_care(set, events, events_max, timeout, signals);
}

INTERPOSE int epoll_pwait2(int set, struct epoll_event *events, int events_max,
                           const struct timespec *timeout, const sigset_t *signals)
{
    struct epoll_call call = {pwait2_real, set, events, events_max, signals};
    if (unconcerned(set) || !timespec_valid(timeout))
        return REAL(epoll_pwait2)(set, events, events_max, timeout, signals);
    return epoll_filter_wait(&call, timeout_from_timespec(timeout));
}
