/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "process/guard.h"

#include "base/real.h"
#include "base/spinlock.h"
#include "process/service.h"

#include <stdint.h>
#include <string.h>

static struct sigaction programs; /* the program's own action for SIGBUS */
static _Atomic bool installed;
static struct spinlock lock;

static bool in_segment(const void *address)
{
    uintptr_t start = (uintptr_t)service.segment, at = (uintptr_t)address;
    return at >= start && at - start < sizeof *service.segment;
}

static void pass_on(int signal_number, siginfo_t *info, void *context)
{
    struct sigaction action;
    spinlock_take(&lock);
    action = programs;
    spinlock_give(&lock);
    if (action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN) {
        /* Returning runs into the same fault again, now as if the shim were not there. */
        if (REAL(sigaction)(signal_number, &action, NULL) < 0)
            __builtin_trap(); /* a sandbox forbids it: better an end than the same fault for ever */
        atomic_store(&installed, false);
        if (info->si_code <= 0 && action.sa_handler == SIG_DFL)
            kernel_call(SYS_tgkill, (pid_t)kernel_call(SYS_getpid), (pid_t)kernel_call(SYS_gettid),
                        signal_number);
        return;
    }
    if (action.sa_flags & SA_SIGINFO)
        action.sa_sigaction(signal_number, info, context);
    else
        action.sa_handler(signal_number);
}

static void handle(int signal_number, siginfo_t *info, void *context)
{
    /* Several threads may meet it at once: one detaches, and the others find memory a moment later.
     */
    if (info->si_code <= 0 || !in_segment(info->si_addr) ||
        !service_detach("its control segment was truncated"))
        pass_on(signal_number, info, context);
}

void guard_install(void)
{
    struct sigaction action = {.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    action.sa_sigaction = handle;
    sigemptyset(&action.sa_mask);
    if (REAL(sigaction)(SIGBUS, &action, &programs) == 0)
        atomic_store(&installed, true);
}

bool guard_sigaction(int signal_number, const struct sigaction *action, struct sigaction *before)
{
    if (signal_number != SIGBUS || !atomic_load(&installed))
        return false;
    spinlock_take(&lock);
    if (before)
        *before = programs;
    if (action)
        programs = *action;
    spinlock_give(&lock);
    return true;
}
