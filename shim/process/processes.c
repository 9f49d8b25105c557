/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "process/processes.h"

#include "base/proc.h"
#include "base/real.h"
#include "base/sandbox.h"
#include "base/trace.h"
#include "process/kept.h"
#include "process/reaping.h"
#include "segment/growth.h"

#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ALWAYS_THOROUGH 8 /* processes that hold something */

/* Where the child about to be forked will be, and what its entry is then. */
static _Thread_local uint32_t fork_child __attribute__((tls_model("initial-exec")));
static _Thread_local uint64_t fork_identity __attribute__((tls_model("initial-exec")));

static void read_command(char command[16])
{
    memset(command, 0, 16);
    long length = proc_read("/proc/self/comm", command, 16);
    if (length > 0 && command[length - 1] == '\n')
        command[length - 1] = '\0';
}

/* --- references --- */

#define REFERENCE_NOBODY (UINT64_C(1) << 63) /* of who has no entry: nothing can be said of it */

static uint64_t reference_of(uint32_t index, uint64_t identity)
{
    return index ? (uint64_t)index << PROCESS_REFERENCE_SHIFT | process_generation(identity)
                 : REFERENCE_NOBODY;
}

uint64_t processes_self(void)
{
    return reference_of(service.self, atomic_load(&service_self()->identity));
}

static struct onlooker onlooker(void)
{
    return (struct onlooker){service.pid_namespace, kept_descriptor()};
}

static void look_at_some(void)
{
    struct onlooker here = onlooker();
    reaping_look_at_some(&here);
}

enum liveness processes_judge(uint64_t reference)
{
    uint32_t index = process_of_reference(reference);
    if (reference & REFERENCE_NOBODY || index >= SEGMENT_PROCESSES)
        return LIVENESS_UNKNOWN;
    uint64_t identity = atomic_load(&service.segment->process[index].identity);
    if (reference_of(index, identity) != reference || process_phase(identity) != PROCESS_LIVE)
        return LIVENESS_GONE; /* it was freed, on proof */
    if (index == service.self)
        return LIVENESS_RUNS;
    struct onlooker here = onlooker();
    return liveness_of(service.segment, index, identity, &here, true);
}

bool processes_gone(uint32_t index)
{
    if (index == 0 || index >= SEGMENT_PROCESSES || index == service.self)
        return false;
    struct onlooker here = onlooker();
    return liveness_of_entry(service.segment, index, &here) == LIVENESS_GONE;
}

/* --- the dead --- */

static bool holds_anything(const struct segment_process *process)
{
    return gauge_count(&process->conns) > 0 || atomic_load(&process->pending) > 0;
}

unsigned processes_reap(bool thorough)
{
    struct segment *segment = service.segment;
    struct onlooker here = onlooker();
    uint32_t used = atomic_load(&segment->processes_used);
    unsigned found = 0, holders = 0;

    for (uint32_t i = 1; i < used && i < SEGMENT_PROCESSES; i++) {
        struct segment_process *process = &segment->process[i];
        if (holds_anything(process))
            found += reaping_check(process, &here, thorough || holders++ < ALWAYS_THOROUGH);
        else if (thorough)
            found += reaping_check(process, &here, true);
    }
    return found;
}

static bool is_taken(uint64_t identity)
{
    return process_phase(identity) == PROCESS_LIVE || process_phase(identity) == PROCESS_CLAIMED;
}

uint32_t processes_pid_here(uint32_t index)
{
    const struct segment_process *process = &service.segment->process[index];
    const struct onlooker here = {service.pid_namespace, -1};
    uint64_t identity = atomic_load(&process->identity);
    return process_phase(identity) == PROCESS_LIVE && liveness_is_near(process, &here)
               ? process_pid(identity)
               : 0;
}

bool processes_all_here(void)
{
    const struct segment *segment = service.segment;
    const struct onlooker here = {service.pid_namespace, -1};
    uint32_t used = atomic_load(&segment->processes_used);
    for (uint32_t i = 1; i < used && i < SEGMENT_PROCESSES; i++)
        if (is_taken(atomic_load(&segment->process[i].identity)) &&
            !liveness_is_near(&segment->process[i], &here))
            return false;
    return true;
}

void processes_waited(pid_t pid)
{
    struct segment *segment = service.segment;
    struct onlooker here = {service.pid_namespace, -1};
    uint32_t used = atomic_load(&segment->processes_used);

    for (uint32_t i = 1; i < used && i < SEGMENT_PROCESSES; i++) {
        struct segment_process *process = &segment->process[i];
        uint64_t identity = atomic_load(&process->identity);
        if (process_phase(identity) != PROCESS_LIVE)
            continue;
        /* A child of ours that is in another pid namespace has another pid there. */
        if (!liveness_is_near(process, &here)) {
            here.fd = here.fd < 0 ? kept_descriptor() : here.fd;
            reaping_check(process, &here, true);
        } else if (process_pid(identity) == (uint32_t)pid) {
            reaping_reap(process, identity, true);
        }
    }
}

/* --- claiming --- */

/* Who claims the entry is named in it, whoever it is for. */
static bool claim_entry(struct segment_process *process, uint64_t *identity)
{
    uint64_t before = atomic_load(&process->identity);
    *identity = process_identity(before, PROCESS_CLAIMED, service.pid);
    if (process_phase(before) != PROCESS_FREE ||
        !atomic_compare_exchange_strong(&process->identity, &before, *identity))
        return false;
    atomic_store(&process->override_mask, 0);
    atomic_store(&process->slicing, 0);
    atomic_store(&process->sandboxed, 0);
    atomic_store(&process->flags, service.foreign_network ? PROCESS_FOREIGN : 0);
    atomic_store(&process->pid_namespace, service.pid_namespace);
    atomic_store(&process->started, service.started);
    atomic_store(&process->since_ns, monotonic_ns());
    return true;
}

static uint32_t scan_for_free(uint64_t *identity)
{
    struct segment *segment = service.segment;
    uint32_t used = atomic_load(&segment->processes_used);

    for (uint32_t i = 1; i < SEGMENT_PROCESSES; i++) {
        if (!growth_reach(segment, GROWING_PROCESSES, i))
            return 0;
        if (!claim_entry(&segment->process[i], identity))
            continue;
        while (used <= i && !atomic_compare_exchange_weak(&segment->processes_used, &used, i + 1))
            ;
        return i;
    }
    return 0;
}

/* Index 0 belongs to nobody: who finds no room shares it, and is checked against the kernel. */
static uint32_t claim(uint64_t *identity)
{
    struct segment *segment = service.segment;
    uint32_t index = scan_for_free(identity);
    if (index == 0 && processes_reap(true) > 0)
        index = scan_for_free(identity);
    if (index == 0)
        segment_event(segment, EVENT_TABLE_FULL, service.pid, SEGMENT_PROCESSES, "processes");
    return index;
}

static void set_command(uint32_t index)
{
    char command[16];
    read_command(command);
    words_store(service.segment->process[index].command, command, sizeof command);
}

/* --- life --- */

/* Turns the entry, which stands for `identity`, into this process. False when it does not any more.
 */
static bool become(uint32_t index, uint64_t identity)
{
    struct segment_process *process = &service.segment->process[index];
    uint64_t named = process_identity(identity, PROCESS_CLAIMED, service.pid);
    if (!atomic_compare_exchange_strong(&process->identity, &identity, named))
        return false;
    atomic_store(&process->since_ns, monotonic_ns());
    atomic_store(&process->pid_namespace, service.pid_namespace);
    atomic_store(&process->started, service.started);
    return atomic_compare_exchange_strong(&process->identity, &named,
                                          process_identity(named, PROCESS_LIVE, service.pid));
}

/* The flag last: who sees it finds the lock. */
static void take_lock(void)
{
    int fd = service.self ? kept_open() : -1;
    if (fd >= 0 && liveness_hold(fd, service.self))
        atomic_fetch_or(&service_self()->flags, PROCESS_LOCKED);
}

/* In a process that has no entry, or has lost it. */
static void enter_anew(void)
{
    uint64_t identity;
    service.self = claim(&identity);
    if (service.self && !become(service.self, identity))
        service.self = 0;
    trace(TRACE_SEGMENT, "enter", TRACE_NO_FD, "entry", service.self, NULL, 0);
    take_lock();
    look_at_some();
}

/* Whether the entry is of what this process was before exec; the dead whose pid it has got since
 * are reaped. */
static bool is_own(struct segment_process *process, uint64_t identity)
{
    uint64_t started = atomic_load(&process->started);
    uint32_t index = (uint32_t)(process - service.segment->process);
    if (process_pid(identity) != service.pid || process_phase(identity) != PROCESS_LIVE)
        return false;
    struct onlooker here = {service.pid_namespace, -1};
    if (!liveness_is_near(process, &here)) {
        /* Nobody knows which namespace: then it is ours unless somebody lives there. */
        if (service.pid_namespace || atomic_load(&process->pid_namespace))
            return false;
        here.fd = kept_descriptor();
        return liveness_of(service.segment, index, identity, &here, true) != LIVENESS_RUNS;
    }
    if (started == 0 || service.started == 0 || started == service.started)
        return true;
    reaping_reap(process, identity, true);
    return false;
}

bool processes_enter(void)
{
    struct segment *segment = service.segment;
    uint32_t used = atomic_load(&segment->processes_used);

    for (uint32_t i = 1; i < used && i < SEGMENT_PROCESSES; i++) {
        struct segment_process *process = &segment->process[i];
        uint64_t identity = atomic_load(&process->identity);
        /* Under a new generation: what threads that exec ended were about is nobody's now. */
        if (!is_own(process, identity) ||
            !atomic_compare_exchange_strong(&process->identity, &identity,
                                            process_identity(identity, PROCESS_LIVE, service.pid)))
            continue;
        service.self = i;
        atomic_store(&process->pending, 0);
        atomic_store(&process->slicing, 0);
        atomic_fetch_and(&process->flags, ~(uint32_t)PROCESS_LOCKED);
        atomic_store(&process->sandboxed, 0);
        take_lock();
        atomic_store(&process->since_ns, monotonic_ns());
        atomic_fetch_and(&process->flags, ~(uint32_t)PROCESS_EXECUTING);
        set_command(i);
        trace(TRACE_SEGMENT, "enter-after-exec", TRACE_NO_FD, "entry", i, NULL, 0);
        return true;
    }
    enter_anew();
    set_command(service.self);
    return false;
}

void processes_before_exec(void)
{
    struct segment_process *self = service_self();
    if (service.self == 0)
        return;
    atomic_store(&self->since_ns, monotonic_ns());
    atomic_fetch_or(&self->flags, PROCESS_EXECUTING);
}

void processes_after_failed_exec(void)
{
    if (service.self)
        atomic_fetch_and(&service_self()->flags, ~(uint32_t)PROCESS_EXECUTING);
}

void processes_before_fork(void)
{
    look_at_some();
    fork_child = claim(&fork_identity);
    struct segment_process *child = &service.segment->process[fork_child];
    if (fork_child) {
        uint64_t command[2];
        words_load(command, service_self()->command, sizeof command);
        words_store(child->command, command, sizeof command);
        uint64_t mask = atomic_load(&service_self()->override_mask);
        for (unsigned i = 0; i < LIMIT_KEYS; i++)
            atomic_store(&child->override[i], atomic_load(&service_self()->override[i]));
        atomic_store(&child->override_mask, mask);
    }
    reaping_tell_inherits(fork_child);
}

void processes_sandboxed(void)
{
    uint32_t lacks = SANDBOX_EVERYTHING & ~atomic_load(&sandbox_served);
    atomic_store(&service_self()->sandboxed, 1 + lacks);
}

/* The parent may have brought the entry to life before. */
static bool become_forked(void)
{
    struct segment_process *process = &service.segment->process[fork_child];
    if (become(fork_child, fork_identity))
        return true;
    uint64_t identity = atomic_load(&process->identity);
    return process_phase(identity) == PROCESS_LIVE &&
           process_generation(identity) == (process_generation(fork_identity) + 1) % (1 << 24) &&
           become(fork_child, identity);
}

void processes_after_fork_in_child(void)
{
    long parent = service.pid, pid = kernel_call(SYS_getpid), seen = kernel_call(SYS_getppid);
    service.self = fork_child;
    if (pid <= 0) {
        /* In a sandbox that forbids it: the parent, who knows the number, does the rest. */
        fork_child = 0;
        return;
    }
    service.pid = (uint32_t)pid;
    /* getppid(2): 0, or another's, for a parent in another namespace; and for one that has died. */
    if (seen >= 0 && seen != parent)
        service.pid_namespace = liveness_own_namespace();
    service.started = liveness_own_start();
    if (fork_child && become_forked()) {
        trace(TRACE_SEGMENT, "enter-after-fork", TRACE_NO_FD, "entry", fork_child, "parent",
              (uint64_t)parent);
        take_lock();
    } else if (fork_child) {
        /* It ran so late that it was given up for dead. */
        enter_anew();
        reaping_tell_inherits(service.self);
    }
    fork_child = 0;
}

void processes_after_fork_in_parent(pid_t child)
{
    if (child == 0)
        return;
    struct segment_process *process = &service.segment->process[fork_child];
    if (child > 0 && fork_child) {
        /* When it began is the child's to say: until then it is not known. */
        uint64_t claimed = fork_identity, started = service.started;
        atomic_compare_exchange_strong(&process->started, &started, 0);
        atomic_compare_exchange_strong(
            &process->identity, &claimed,
            process_identity(fork_identity, PROCESS_LIVE, (uint32_t)child));
    } else if (fork_child) {
        reaping_reap(process, fork_identity, true);
    }
    fork_child = 0;
}
