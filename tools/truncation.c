/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "truncation.h"

#include "commands.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAPPED_MAX 8 /* at once; a command has one or two */

static struct segment *_Atomic mapped[MAPPED_MAX];

void truncation_mapped(struct segment *segment)
{
    for (unsigned i = 0; i < MAPPED_MAX; i++) {
        struct segment *none = NULL;
        if (atomic_compare_exchange_strong(&mapped[i], &none, segment))
            return;
    }
}

void truncation_unmapped(struct segment *segment)
{
    for (unsigned i = 0; i < MAPPED_MAX; i++) {
        struct segment *mine = segment;
        if (atomic_compare_exchange_strong(&mapped[i], &mine, NULL))
            return;
    }
}

static bool in_segment(const void *address)
{
    uintptr_t at = (uintptr_t)address;
    for (unsigned i = 0; i < MAPPED_MAX; i++) {
        uintptr_t start = (uintptr_t)atomic_load(&mapped[i]);
        if (start && at >= start && at - start < sizeof(struct segment))
            return true;
    }
    return false;
}

static void end(int signal_number)
{
    static const char text[] = "bpctl: the control segment was truncated while it was read\n";
    (void)signal_number;
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0)
        _exit(EXIT_FAILED);
    _exit(EXIT_FAILED);
}

static void read_zeros(int signal_number, siginfo_t *info, void *context)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    void *start = (void *)((uintptr_t)info->si_addr & ~(page - 1));
    (void)context;
    if (!in_segment(info->si_addr) ||
        mmap(start, page, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
            MAP_FAILED)
        signal(signal_number, SIG_DFL);
}

void truncation_ends(void)
{
    signal(SIGBUS, end);
}

void truncation_reads_zeros(void)
{
    struct sigaction action = {.sa_flags = SA_SIGINFO};
    action.sa_sigaction = read_zeros;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}
