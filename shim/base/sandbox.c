/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/sandbox.h"

#include "base/clock.h"
#include "base/real.h"

#include <linux/audit.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>

#define FILTERS_MAX 64
/* As many as the kernel lets a thread have: MAX_INSNS_PER_PATH in kernel/seccomp.c. */
#define INSTRUCTIONS_MAX ((1U << 18) / sizeof(struct sock_filter))
#define BRANCHES_MAX 32  /* undecided branches on one path */
#define STEPS_MAX 100000 /* of one question */

#if defined __x86_64__
#define NATIVE_ARCH AUDIT_ARCH_X86_64
#elif defined __i386__
#define NATIVE_ARCH AUDIT_ARCH_I386
#elif defined __aarch64__
#define NATIVE_ARCH AUDIT_ARCH_AARCH64
#elif defined __riscv && __riscv_xlen == 64
#define NATIVE_ARCH AUDIT_ARCH_RISCV64
#else
#define NATIVE_ARCH 0 /* not known: no filter that looks at it allows anything */
#endif

enum filter_kind { FILTER_CLOSED, FILTER_VOID, FILTER_STRICT, FILTER_PROGRAM };

/* A filter, from the moment it is about to be installed; FILTER_CLOSED allows nothing. */
static struct filter {
    _Atomic uint32_t kind;
    uint32_t first, length; /* in `instructions` */
} filters[FILTERS_MAX];
static _Atomic uint32_t filters_end; /* more than FILTERS_MAX: too many to know them all */
static struct sock_filter instructions[INSTRUCTIONS_MAX];
static _Atomic uint32_t instructions_end;

_Atomic uint32_t sandbox_served = SANDBOX_EVERYTHING;

/* --- what a filter says: classic BPF as kernel/seccomp.c's seccomp_check_filter lets it pass ---
 */

struct value {
    uint32_t bits;
    bool known;
};

/* What the filter is asked about. Where the call comes from is never known. */
struct question {
    struct seccomp_data data;
    bool any_arguments;
    unsigned steps;
};

struct machine {
    uint32_t next;
    unsigned branches;
    struct value a, x, memory[BPF_MEMWORDS];
};

static struct value known(uint32_t bits)
{
    return (struct value){.bits = bits, .known = true};
}

static const struct value unknown = {.bits = 0, .known = false};

static struct value load(const struct question *question, uint32_t offset)
{
    uint32_t word;
    if (offset > sizeof question->data - sizeof word)
        return unknown;
    memcpy(&word, (const char *)&question->data + offset, sizeof word);
    if (offset == offsetof(struct seccomp_data, nr))
        return known(word);
    if (offset == offsetof(struct seccomp_data, arch))
        return NATIVE_ARCH ? known(word) : unknown;
    return offset >= offsetof(struct seccomp_data, args) && !question->any_arguments ? known(word)
                                                                                     : unknown;
}

/* A is left unknown by what is undefined, such as a shift by more than 31. */
static struct value calculate(uint16_t operation, struct value a, struct value b)
{
    if (!a.known || !b.known)
        return unknown;
    switch (operation) {
    case BPF_ADD:
        return known(a.bits + b.bits);
    case BPF_SUB:
        return known(a.bits - b.bits);
    case BPF_MUL:
        return known(a.bits * b.bits);
    case BPF_DIV:
        return b.bits ? known(a.bits / b.bits) : unknown;
    case BPF_AND:
        return known(a.bits & b.bits);
    case BPF_OR:
        return known(a.bits | b.bits);
    case BPF_XOR:
        return known(a.bits ^ b.bits);
    case BPF_LSH:
        return b.bits < 32 ? known(a.bits << b.bits) : unknown;
    case BPF_RSH:
        return b.bits < 32 ? known(a.bits >> b.bits) : unknown;
    case BPF_NEG:
        return known(-a.bits);
    default:
        return unknown;
    }
}

static bool holds(uint16_t operation, uint32_t a, uint32_t b)
{
    switch (operation) {
    case BPF_JEQ:
        return a == b;
    case BPF_JGT:
        return a > b;
    case BPF_JGE:
        return a >= b;
    default:
        return a & b; /* BPF_JSET */
    }
}

static void load_or_store(struct machine *machine, const struct sock_filter *at,
                          const struct question *question)
{
    struct value *to = BPF_CLASS(at->code) == BPF_LDX ? &machine->x : &machine->a;
    uint32_t slot = at->k % BPF_MEMWORDS;
    switch (BPF_CLASS(at->code)) {
    case BPF_ST:
        machine->memory[slot] = machine->a;
        return;
    case BPF_STX:
        machine->memory[slot] = machine->x;
        return;
    default:
        break;
    }
    switch (BPF_MODE(at->code)) {
    case BPF_ABS:
        *to = load(question, at->k);
        break;
    case BPF_LEN:
        *to = known(sizeof question->data);
        break;
    case BPF_IMM:
        *to = known(at->k);
        break;
    case BPF_MEM:
        *to = machine->memory[slot];
        break;
    default:
        *to = unknown;
    }
}

/* Where a jump goes on; when that cannot be told, `*other` gets the second way, else 0. */
static uint32_t jump(const struct machine *machine, const struct sock_filter *at, uint32_t *other)
{
    struct value b = BPF_SRC(at->code) == BPF_X ? machine->x : known(at->k);
    *other = 0;
    if (BPF_OP(at->code) == BPF_JA)
        return machine->next + at->k;
    if (machine->a.known && b.known)
        return machine->next + (holds(BPF_OP(at->code), machine->a.bits, b.bits) ? at->jt : at->jf);
    *other = machine->next + at->jf;
    return machine->next + at->jt;
}

/* Whether every way that the filter may take from here on ends in SECCOMP_RET_ALLOW. */
static bool allows_from(const struct filter *filter, struct question *question,
                        struct machine machine)
{
    const struct sock_filter *program = &instructions[filter->first];
    while (machine.next < filter->length && question->steps++ < STEPS_MAX) {
        const struct sock_filter *at = &program[machine.next++];
        struct value operand = BPF_SRC(at->code) == BPF_X ? machine.x : known(at->k);
        uint32_t other;
        switch (BPF_CLASS(at->code)) {
        case BPF_RET:
            operand = BPF_RVAL(at->code) == BPF_A ? machine.a : known(at->k);
            return operand.known && (operand.bits & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_ALLOW;
        case BPF_ALU:
            machine.a = calculate(BPF_OP(at->code), machine.a, operand);
            break;
        case BPF_MISC:
            *(BPF_MISCOP(at->code) == BPF_TAX ? &machine.x : &machine.a) =
                BPF_MISCOP(at->code) == BPF_TAX ? machine.a : machine.x;
            break;
        case BPF_JMP:
            machine.next = jump(&machine, at, &other);
            if (!other)
                break;
            if (++machine.branches > BRANCHES_MAX)
                return false;
            struct machine second = machine;
            second.next = other;
            if (!allows_from(filter, question, second))
                return false;
            break;
        default:
            load_or_store(&machine, at, question);
        }
    }
    return false;
}

/* What strict mode leaves: mode1_syscalls in kernel/seccomp.c. */
static bool strict_allows(long number)
{
    return number == SYS_read || number == SYS_write || number == SYS_exit ||
           number == SYS_rt_sigreturn;
}

static bool filter_allows(const struct filter *filter, struct question *question)
{
    switch (atomic_load_explicit(&filter->kind, memory_order_acquire)) {
    case FILTER_VOID:
        return true;
    case FILTER_STRICT:
        return strict_allows(question->data.nr);
    case FILTER_PROGRAM:
        return allows_from(filter, question, (struct machine){.a = known(0), .x = known(0)});
    default:
        return false;
    }
}

static bool all_allow(struct question *question)
{
    uint32_t end = atomic_load_explicit(&filters_end, memory_order_acquire);
    if (end > FILTERS_MAX)
        return false;
    for (uint32_t i = 0; i < end; i++)
        if (!filter_allows(&filters[i], question))
            return false;
    return true;
}

bool sandbox_allows(long number, const long argument[6])
{
    struct question question = {.data = {.nr = (int)number, .arch = NATIVE_ARCH}};
    for (unsigned i = 0; i < 6; i++)
        question.data.args[i] = (uint64_t)argument[i];
    return all_allow(&question);
}

bool sandbox_allows_any(long number)
{
    struct question question = {.data = {.nr = (int)number, .arch = NATIVE_ARCH},
                                .any_arguments = true};
    return all_allow(&question);
}

bool sandbox_entered(void)
{
    return atomic_load_explicit(&filters_end, memory_order_relaxed) != 0;
}

/* --- time --- */

/* When the last filter was about to be installed: what is told where no clock can be read. */
static struct timespec closed_at[2];

/*
 * Stands behind monotonic_ns and its kin: the clock itself, until a filter forbids the call. Then
 * the coarse clock, which the vDSO reads without a system call whatever the clock source is
 * (lib/vdso/gettimeofday.c); or, where there is none, the time of the last look.
 *
 * A thread's processor time comes from the kernel alone: where that is forbidden, none passes.
 */
static int clock_in_sandbox(clockid_t clock, struct timespec *time)
{
    bool real = clock == CLOCK_REALTIME;
    *time = (struct timespec){0};
    if (sandbox_allows_any(SYS_clock_gettime))
        return clock_gettime(clock, time);
    if (!real && clock != CLOCK_MONOTONIC)
        return 0;
    if (getauxval(AT_SYSINFO_EHDR))
        return clock_gettime(real ? CLOCK_REALTIME_COARSE : CLOCK_MONOTONIC_COARSE, time);
    *time = closed_at[real];
    return 0;
}

/* --- what is left --- */

static const struct {
    long number;
    uint32_t purposes;
} needs[] = {
    {SYS_accept4, SANDBOX_CEILINGS},
    {SYS_clock_gettime, SANDBOX_EVERYTHING},
    {SYS_close, SANDBOX_EVERYTHING},
    {SYS_connect, SANDBOX_BYTES | SANDBOX_CONNECTS},
    {SYS_epoll_ctl, SANDBOX_BYTES | SANDBOX_CEILINGS},
    {SYS_epoll_pwait, SANDBOX_BYTES | SANDBOX_CEILINGS},
    {SYS_fcntl, SANDBOX_EVERYTHING},
    {SYS_futex, SANDBOX_CEILINGS},
    {SYS_getpeername, SANDBOX_EVERYTHING},
    {SYS_getsockname, SANDBOX_CEILINGS},
    {SYS_getsockopt, SANDBOX_EVERYTHING},
    {SYS_ioctl, SANDBOX_BYTES},
    {SYS_nanosleep, SANDBOX_CEILINGS},
    {SYS_ppoll, SANDBOX_EVERYTHING},
    {SYS_pselect6, SANDBOX_BYTES | SANDBOX_CEILINGS},
    {SYS_recvfrom, SANDBOX_CEILINGS},
    {SYS_recvmsg, SANDBOX_BYTES},
    {SYS_rt_sigaction, SANDBOX_EVERYTHING},
    {SYS_rt_sigpending, SANDBOX_EVERYTHING},
    {SYS_rt_sigprocmask, SANDBOX_EVERYTHING},
    {SYS_sched_yield, SANDBOX_BYTES | SANDBOX_CEILINGS},
    {SYS_sendmsg, SANDBOX_BYTES},
    {SYS_sendto, SANDBOX_CEILINGS},
    {SYS_setsockopt, SANDBOX_EVERYTHING},
    {SYS_shutdown, SANDBOX_BYTES | SANDBOX_CEILINGS},
    {SYS_signalfd4, SANDBOX_EVERYTHING},
    {SYS_socket, SANDBOX_BYTES},
};

static uint32_t find_served(void)
{
    uint32_t served = SANDBOX_EVERYTHING;
    for (size_t i = 0; i < sizeof needs / sizeof *needs; i++)
        if (served & needs[i].purposes && !sandbox_allows_any(needs[i].number))
            served &= ~needs[i].purposes;
    return served;
}

/* --- noting them --- */

void sandbox_prepare(void)
{
    atomic_store(&sandbox_served, 0);
}

uint32_t sandbox_close(void)
{
    clock_source(CLOCK_MONOTONIC, &closed_at[0]);
    clock_source(CLOCK_REALTIME, &closed_at[1]);
    uint32_t ticket = atomic_fetch_add(&filters_end, 1);
    real_enter_sandbox(sandbox_allows);
    clock_source = clock_in_sandbox;
    return ticket;
}

/* Copies what the kernel has just read itself. */
static uint32_t keep(struct filter *filter, const struct sock_fprog *program)
{
    uint32_t first = atomic_fetch_add(&instructions_end, program->len);
    if (first > INSTRUCTIONS_MAX || program->len > INSTRUCTIONS_MAX - first)
        return FILTER_CLOSED;
    memcpy(&instructions[first], program->filter, program->len * sizeof *program->filter);
    filter->first = first;
    filter->length = program->len;
    return FILTER_PROGRAM;
}

void sandbox_settle(uint32_t ticket, bool installed, const struct sock_fprog *program)
{
    uint32_t end = ticket + 1;
    if (ticket >= FILTERS_MAX)
        return;
    if (installed)
        atomic_store(&filters[ticket].kind,
                     program ? keep(&filters[ticket], program) : FILTER_STRICT);
    else if (!atomic_compare_exchange_strong(&filters_end, &end, ticket))
        atomic_store(&filters[ticket].kind, FILTER_VOID);
    atomic_store(&sandbox_served, find_served());
}
