/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "interpose/lifecycle.h"

#include "accept/admission.h"
#include "accept/audit.h"
#include "accept/connections.h"
#include "accept/shedding.h"
#include "accept/waiting_room.h"
#include "base/chance.h"
#include "base/libc.h"
#include "base/real.h"
#include "base/sandbox.h"
#include "base/trace.h"
#include "connect/outbound.h"
#include "fd/listener_table.h"
#include "fd/listeners.h"
#include "fd/witness.h"
#include "interpose/wiring.h"
#include "output/flows.h"
#include "process/descriptors.h"
#include "process/guard.h"
#include "process/kept.h"
#include "process/processes.h"
#include "process/service.h"
#include "wait/readiness.h"
#include "wait/wait_loop.h"

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
    if (sandbox_entered())
        processes_sandboxed();
    readiness_after_fork_in_child(parent);
    wait_loop_after_fork_in_child();
    listeners_after_fork_in_child();
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
    if (service_active() && !in_vfork_child) {
        connections_spawning();
        listener_table_spawning();
    }
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

static const char *sandbox_lacks(uint32_t lacks)
{
    static const char *const text[SANDBOX_EVERYTHING + 1] = {
        [SANDBOX_BYTES] = "its seccomp filter keeps out limits on bytes",
        [SANDBOX_CEILINGS] = "its seccomp filter keeps out ceilings on connections",
        [SANDBOX_BYTES | SANDBOX_CEILINGS] =
            "its seccomp filter keeps out limits on bytes and on connections",
        [SANDBOX_CONNECTS] = "its seccomp filter keeps out retries of connects",
        [SANDBOX_BYTES | SANDBOX_CONNECTS] =
            "its seccomp filter keeps out limits on bytes, and retries",
        [SANDBOX_CEILINGS | SANDBOX_CONNECTS] =
            "its seccomp filter keeps out ceilings on connections, and retries",
        [SANDBOX_EVERYTHING] = "its seccomp filter keeps out all limits",
    };
    return text[lacks];
}

/* What the process cannot do any more is written in its entry: for `show`, and once as an event. */
static void tell_of_sandbox(void)
{
    uint32_t lacks = SANDBOX_EVERYTHING & ~atomic_load(&sandbox_served);
    if (lacks & SANDBOX_CEILINGS)
        atomic_fetch_or(&service.hindered, SERVICE_SANDBOXED);
    if (!service_active())
        return;
    processes_sandboxed();
    bool told = atomic_exchange(&service.segment->sandbox_told, 1) != 0;
    if (lacks && !told)
        service_event(EVENT_SANDBOXED, 0, sandbox_lacks(lacks));
}

long lifecycle_sandbox(long (*install)(const void *call), const void *call,
                       const struct sock_fprog *program)
{
    if (in_vfork_child)
        return install(call); /* the memory is its parent's */
    int saved = errno;
    sandbox_prepare();
    if (service_active()) {
        flows_before_sandbox();
        admission_before_sandbox();
    }
    uint32_t ticket = sandbox_close();
    errno = saved;
    long result = install(call);
    saved = errno;
    sandbox_settle(ticket, result >= 0, program);
    flows_work_out_anew();
    tell_of_sandbox();
    errno = saved;
    return result;
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
    wiring_connect();
    int file = service_start();
    if (service_active()) {
        kept_start(file);
        trace_start();
        guard_install();
        bool was_here_before_exec = processes_enter();
        outbound_start();
        audit_prepare();
        descriptors_adopt_all();
        if (was_here_before_exec) {
            connections_forget_unadopted();
            listener_table_forget_unheld();
        }
        libc_at_fork(before_fork, after_fork_in_child);
    }
    errno = saved;
}
