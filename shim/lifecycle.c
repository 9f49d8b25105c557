/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "lifecycle.h"

#include "audit.h"
#include "chance.h"
#include "connections.h"
#include "descriptors.h"
#include "flows.h"
#include "guard.h"
#include "kept.h"
#include "libc.h"
#include "outbound.h"
#include "processes.h"
#include "readiness.h"
#include "real.h"
#include "service.h"
#include "shedding.h"
#include "waiting_room.h"
#include "witness.h"

#include <errno.h>

static void before_fork(void)
{
    if (!service_active() || in_vfork_child)
        return;
    int saved = errno;
    readiness_before_fork();
    processes_before_fork();
    errno = saved;
}

static void after_fork_in_child(void)
{
    if (!service_active())
        return;
    int saved = errno;
    uint64_t parent = processes_self();
    processes_after_fork_in_child();
    readiness_after_fork_in_child(parent);
    flows_after_fork_in_child();
    shedding_after_fork_in_child();
    waiting_room_after_fork_in_child();
    audit_after_fork_in_child();
    witness_after_fork_in_child();
    outbound_after_fork_in_child();
    chance_after_fork_in_child();
    errno = saved;
}

void lifecycle_before_fork(void)
{
    before_fork();
}

void lifecycle_after_fork(pid_t result)
{
    if (result == 0)
        after_fork_in_child();
    else
        lifecycle_forked(result);
}

void lifecycle_forked(pid_t child)
{
    int saved = errno;
    if (service_active() && !in_vfork_child)
        processes_after_fork_in_parent(child);
    errno = saved;
}

void lifecycle_before_spawn(void)
{
    if (service_active() && !in_vfork_child)
        connections_spawning();
}

void lifecycle_after_spawn(void)
{
    int saved = errno;
    if (service_active() && !in_vfork_child)
        connections_spawned();
    errno = saved;
}

void lifecycle_before_exec(void)
{
    if (!service_active())
        return;
    kept_before_exec();
    if (!in_vfork_child)
        processes_before_exec();
}

void lifecycle_after_failed_exec(void)
{
    if (!service_active())
        return;
    kept_after_failed_exec();
    if (!in_vfork_child)
        processes_after_failed_exec();
}

void lifecycle_ended(pid_t child)
{
    int saved = errno;
    if (child > 0 && service_active() && !in_vfork_child) {
        processes_waited(child);
        readiness_room_made();
    }
    errno = saved;
}

void lifecycle_waited(pid_t child, int status)
{
    if (WIFEXITED(status) || WIFSIGNALED(status))
        lifecycle_ended(child);
}

/* Early, so that the program's own constructors already run under the shim. */
__attribute__((constructor(101))) static void start(void)
{
    int saved = errno;
    real_bind();
    service_start();
    if (service_active()) {
        guard_install();
        bool was_here_before_exec = processes_enter();
        outbound_start();
        descriptors_adopt_all();
        if (was_here_before_exec)
            connections_forget_unadopted();
        libc_at_fork(before_fork, after_fork_in_child);
    }
    errno = saved;
}
