/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "processes.h"

#include "connections.h"
#include "real.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A child that was forked but did not run yet: after this long it never will. */
#define CLAIM_PATIENCE_NS (UINT64_C(10) * 1000000000)
/* A reaper that was killed at its work leaves it to the next after this long. */
#define REAP_PATIENCE_NS (UINT64_C(1) * 1000000000)
#define CHECKED_PER_CLAIM 2
#define ALWAYS_THOROUGH 8 /* processes that hold something */

static _Thread_local uint32_t fork_child __attribute__((tls_model("initial-exec")));

static void read_command(char command[16])
{
    memset(command, 0, 16);
    int fd = open("/proc/self/comm", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t length = kernel_call(SYS_read, fd, command, 15);
    kernel_call(SYS_close, fd);
    if (length > 0 && command[length - 1] == '\n')
        command[length - 1] = '\0';
}

static void reap(struct segment_process *process, uint64_t identity)
{
    struct segment *segment = service.segment;
    uint32_t index = (uint32_t)(process - segment->process);

    if (!atomic_compare_exchange_strong(
            &process->identity, &identity,
            process_identity(identity, PROCESS_REAPING, process_pid(identity))))
        return;
    atomic_store(&process->since_ns, monotonic_ns());
    connections_forget_process(index);
    for (unsigned i = 0; i < COUNTERS; i++) {
        uint64_t amount = atomic_exchange(&process->counter[i], 0);
        if (i != COUNTER_CONNS_PEAK && i != COUNTER_BUFFER && i != COUNTER_BUFFER_PEAK)
            atomic_fetch_add(&segment->retired[i], amount);
    }
    atomic_store(&process->pending, 0);
    atomic_store(&process->conns.word, 0);
    atomic_store(&process->credit.word, 0);
    atomic_store(&process->concurrency.ceiling, 0);
    atomic_store(&process->concurrency.window_ns, 0);
    identity = atomic_load(&process->identity);
    if (process_phase(identity) == PROCESS_REAPING)
        atomic_compare_exchange_strong(&process->identity, &identity,
                                       process_identity(identity, PROCESS_FREE, 0));
}

static bool runs(uint32_t pid, bool thorough)
{
    if (thorough)
        return process_running(pid);
    return kernel_call(SYS_kill, (pid_t)pid, 0) == 0 || errno != ESRCH;
}

static uint64_t age_ns(const struct segment_process *process)
{
    return monotonic_ns() - atomic_load(&process->since_ns);
}

/* Reaps the entry if its process is gone. */
static bool check(struct segment_process *process, bool thorough)
{
    uint64_t identity = atomic_load(&process->identity);
    uint32_t pid = process_pid(identity);
    bool gone = false;

    switch (process_phase(identity)) {
    case PROCESS_LIVE:
        gone = pid != service.pid && !runs(pid, thorough);
        break;
    case PROCESS_CLAIMED:
        gone = age_ns(process) > CLAIM_PATIENCE_NS || !runs(pid, thorough);
        break;
    case PROCESS_REAPING:
        gone = age_ns(process) > REAP_PATIENCE_NS;
        break;
    default:
        break;
    }
    if (gone) {
        uint32_t held = gauge_count(&process->conns);
        reap(process, identity);
        if (held)
            segment_event(service.segment, EVENT_PROCESS_GONE, pid, held, "what it held is free");
    }
    return gone;
}

static bool holds_anything(const struct segment_process *process)
{
    return gauge_count(&process->conns) > 0 || atomic_load(&process->pending) > 0;
}

unsigned processes_reap(bool thorough)
{
    struct segment *segment = service.segment;
    uint32_t used = atomic_load(&segment->processes_used);
    unsigned found = 0, holders = 0;

    for (uint32_t i = 1; i < used && i < SEGMENT_PROCESSES; i++) {
        struct segment_process *process = &segment->process[i];
        if (holds_anything(process))
            found += check(process, thorough || holders++ < ALWAYS_THOROUGH);
        else if (thorough)
            found += check(process, true);
    }
    return found;
}

uint32_t processes_pid_here(uint32_t index)
{
    uint64_t identity = atomic_load(&service.segment->process[index].identity);
    return process_phase(identity) == PROCESS_LIVE ? process_pid(identity) : 0;
}

bool processes_all_here(void)
{
    return true;
}

void processes_waited(pid_t pid)
{
    struct segment *segment = service.segment;
    uint32_t used = atomic_load(&segment->processes_used);

    for (uint32_t i = 1; i < used && i < SEGMENT_PROCESSES; i++) {
        uint64_t identity = atomic_load(&segment->process[i].identity);
        if (process_pid(identity) == (uint32_t)pid && process_phase(identity) == PROCESS_LIVE)
            reap(&segment->process[i], identity);
    }
}

static bool claim_entry(struct segment_process *process, enum process_phase phase, uint32_t pid)
{
    uint64_t identity = atomic_load(&process->identity);
    if (process_phase(identity) != PROCESS_FREE ||
        !atomic_compare_exchange_strong(&process->identity, &identity,
                                        process_identity(identity, phase, pid)))
        return false;
    atomic_store(&process->since_ns, monotonic_ns());
    atomic_store(&process->override_mask, 0);
    atomic_store(&process->slicing, 0);
    atomic_store(&process->flags, service.foreign_network ? PROCESS_FOREIGN : 0);
    return true;
}

static uint32_t scan_for_free(enum process_phase phase, uint32_t pid)
{
    struct segment *segment = service.segment;
    uint32_t used = atomic_load(&segment->processes_used);

    for (uint32_t i = 1; i < SEGMENT_PROCESSES; i++) {
        if (!claim_entry(&segment->process[i], phase, pid))
            continue;
        while (used <= i && !atomic_compare_exchange_weak(&segment->processes_used, &used, i + 1))
            ;
        return i;
    }
    return 0;
}

/* Index 0 belongs to nobody: who finds no room shares it, and is checked against the kernel. */
static uint32_t claim(enum process_phase phase, uint32_t pid)
{
    static _Atomic uint32_t cursor;
    struct segment *segment = service.segment;
    uint32_t used = atomic_load(&segment->processes_used);

    /* A fork for each connection must not leave a table of the dead: look at two on the way. */
    for (unsigned i = 0; i < CHECKED_PER_CLAIM && used > 1; i++) {
        uint32_t index = 1 + atomic_fetch_add(&cursor, 1) % (used - 1);
        if (index < SEGMENT_PROCESSES)
            check(&segment->process[index], true);
    }
    uint32_t index = scan_for_free(phase, pid);
    if (index == 0 && processes_reap(true) > 0)
        index = scan_for_free(phase, pid);
    if (index == 0)
        segment_event(segment, EVENT_TABLE_FULL, pid, SEGMENT_PROCESSES, "processes");
    return index;
}

static void set_command(uint32_t index)
{
    char command[16];
    read_command(command);
    words_store(service.segment->process[index].command, command, sizeof command);
}

bool processes_enter(void)
{
    struct segment *segment = service.segment;
    uint32_t used = atomic_load(&segment->processes_used);

    for (uint32_t i = 1; i < used && i < SEGMENT_PROCESSES; i++) {
        uint64_t identity = atomic_load(&segment->process[i].identity);
        if (process_pid(identity) != service.pid || process_phase(identity) != PROCESS_LIVE)
            continue;
        service.self = i;
        atomic_store(&segment->process[i].pending, 0);
        atomic_store(&segment->process[i].slicing, 0);
        set_command(i);
        return true;
    }
    service.self = claim(PROCESS_LIVE, service.pid);
    set_command(service.self);
    return false;
}

void processes_before_fork(void)
{
    fork_child = claim(PROCESS_CLAIMED, service.pid);
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
    connections_inherit(fork_child);
}

static void bring_to_life(uint32_t index, uint32_t pid)
{
    struct segment_process *process = &service.segment->process[index];
    uint64_t identity = atomic_load(&process->identity);
    if (index && process_phase(identity) == PROCESS_CLAIMED)
        atomic_compare_exchange_strong(&process->identity, &identity,
                                       process_identity(identity, PROCESS_LIVE, pid));
}

void processes_after_fork_in_child(void)
{
    service.pid = (uint32_t)getpid();
    service.self = fork_child;
    bring_to_life(fork_child, service.pid);
    fork_child = 0;
}

void processes_after_fork_in_parent(pid_t child)
{
    if (child == 0)
        return;
    if (child > 0) {
        bring_to_life(fork_child, (uint32_t)child);
    } else if (fork_child) {
        struct segment_process *process = &service.segment->process[fork_child];
        uint64_t identity = atomic_load(&process->identity);
        if (process_phase(identity) == PROCESS_CLAIMED)
            reap(process, identity);
    }
    fork_child = 0;
}
