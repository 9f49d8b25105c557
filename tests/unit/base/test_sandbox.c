/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the shim thinks a seccomp filter allows is what the kernel makes of it: filters written by
 * hand and drawn at random are installed in a child, which makes calls and compares.
 */
#include "base/clock.h"
#include "base/sandbox.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define DENIED SECCOMP_RET_ERRNO | EDOM
#define PROGRAM_MAX 64
#define LOAD(member) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, member))
#define IS(value, then, otherwise) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, then, otherwise)
#define RETURN(what) BPF_STMT(BPF_RET | BPF_K, what)

struct program {
    unsigned short length;
    struct sock_filter instruction[PROGRAM_MAX];
};

/* What a child came to. */
enum { AGREED, DISAGREED, REFUSED_BY_KERNEL };

/* Puts the filter around this process, as the kernel's and as the shim's. */
static bool install(const struct program *program)
{
    struct sock_fprog filter = {program->length, (struct sock_filter *)program->instruction};
    sandbox_prepare();
    uint32_t ticket = sandbox_close();
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    bool installed = prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
    sandbox_settle(ticket, installed, &filter);
    return installed;
}

/* Calls that do nothing, of which the kernel looks at no argument, and numbers to call them with.
 */
static const long numbers[] = {SYS_getppid, SYS_getuid, SYS_getgid, SYS_geteuid, SYS_getegid};
static const long values[] = {0, 1, 2, 3, 7, 31, 32, -1, 0x80000000L, 0x100000001L, 0x7fffffff};

static long pick(const long *from, size_t count)
{
    return from[(size_t)rand() % count];
}

static bool kernel_allows(long number, const long argument[6])
{
    errno = 0;
    return syscall(number, argument[0], argument[1], argument[2], argument[3], argument[4],
                   argument[5]) >= 0;
}

static int compare(unsigned calls)
{
    for (unsigned i = 0; i < calls; i++) {
        long number = pick(numbers, sizeof numbers / sizeof *numbers), argument[6];
        for (int j = 0; j < 6; j++)
            argument[j] = pick(values, sizeof values / sizeof *values);
        bool allowed = kernel_allows(number, argument);
        if (sandbox_allows(number, argument) != allowed || (sandbox_allows_any(number) && !allowed))
            return DISAGREED;
    }
    return AGREED;
}

/* Before a call that does not return ASan makes some of its own, which these filters forbid. */
__attribute__((no_sanitize("address"))) static int in_child(int (*work)(const void *),
                                                            const void *argument)
{
    int status;
    pid_t child = fork();
    if (child == 0)
        _exit(work(argument));
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* --- filters written by hand --- */

/* Allows what the child needs to end, and leaves the number in A. */
#define PROLOGUE LOAD(nr), IS(SYS_exit_group, 0, 1), RETURN(SECCOMP_RET_ALLOW)

#define PROGRAM(...)                                                                               \
    {                                                                                              \
        .length = sizeof((struct sock_filter[]){__VA_ARGS__}) / sizeof(struct sock_filter),        \
        .instruction = {__VA_ARGS__},                                                              \
    }

static const struct program allow_list =
    PROGRAM(PROLOGUE, IS(SYS_getppid, 1, 0), RETURN(DENIED), RETURN(SECCOMP_RET_ALLOW));
static const struct program allow_by_argument =
    PROGRAM(PROLOGUE, IS(SYS_getppid, 0, 2), LOAD(args[1]), IS(7, 1, 0), RETURN(DENIED),
            RETURN(SECCOMP_RET_ALLOW));
static const struct program whatever_the_argument = PROGRAM(
    PROLOGUE, LOAD(args[0]), IS(7, 0, 1), RETURN(SECCOMP_RET_ALLOW), RETURN(SECCOMP_RET_ALLOW));
static const struct program traced =
    PROGRAM(PROLOGUE, IS(SYS_getppid, 0, 1), RETURN(SECCOMP_RET_TRACE), RETURN(SECCOMP_RET_ALLOW));
/* Where the call comes from nobody knows beforehand. */
static const struct program by_caller =
    PROGRAM(PROLOGUE, IS(SYS_getppid, 0, 2), LOAD(instruction_pointer), IS(7, 1, 0),
            RETURN(SECCOMP_RET_ALLOW), RETURN(DENIED));
static const struct program another_arch = PROGRAM(PROLOGUE, LOAD(arch), IS(AUDIT_ARCH_PPC64, 1, 0),
                                                   RETURN(DENIED), RETURN(SECCOMP_RET_ALLOW));

struct expected {
    const struct program *program;
    long number, second_argument;
    bool allowed, whatever;
};

static int judge(const void *argument)
{
    const struct expected *expected = argument;
    const long arguments[6] = {0, expected->second_argument};
    if (!install(expected->program))
        return REFUSED_BY_KERNEL;
    return sandbox_allows(expected->number, arguments) == expected->allowed &&
                   sandbox_allows_any(expected->number) == expected->whatever &&
                   kernel_allows(expected->number, arguments) >= expected->allowed
               ? AGREED
               : DISAGREED;
}

static void test_written_by_hand(void **state)
{
    static const struct expected all[] = {
        {&allow_list, SYS_getppid, 0, true, true},
        {&allow_list, SYS_getuid, 0, false, false},
        {&allow_by_argument, SYS_getppid, 7, true, false},
        {&allow_by_argument, SYS_getppid, 8, false, false},
        {&whatever_the_argument, SYS_getuid, 3, true, true},
        {&traced, SYS_getppid, 0, false, false}, /* nobody traces: ENOSYS */
        {&traced, SYS_getuid, 0, true, true},
        {&by_caller, SYS_getppid, 0, false, false},
        {&another_arch, SYS_getuid, 0, false, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        assert_int_equal(in_child(judge, &all[i]), AGREED);
}

/* Both filters count, and a failed attempt to add a third changes nothing. */
static int judge_several(const void *unused)
{
    static const struct program invalid =
        PROGRAM(BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 0), RETURN(SECCOMP_RET_ALLOW));
    static const struct program blacklist =
        PROGRAM(LOAD(nr), IS(SYS_getgid, 0, 1), RETURN(DENIED), RETURN(SECCOMP_RET_ALLOW));
    (void)unused;
    if (sandbox_entered() || !install(&whatever_the_argument) || !install(&blacklist) ||
        install(&invalid))
        return REFUSED_BY_KERNEL;
    return sandbox_allows_any(SYS_getuid) && !sandbox_allows_any(SYS_getgid) && sandbox_entered()
               ? compare(100)
               : DISAGREED;
}

static void test_several(void **state)
{
    (void)state;
    assert_int_equal(in_child(judge_several, NULL), AGREED);
}

/* While a filter is being installed nothing is allowed; one that the kernel refused allows all. */
static int judge_steps(const void *unused)
{
    (void)unused;
    sandbox_prepare();
    bool served = sandbox_serves(SANDBOX_BYTES);
    uint32_t ticket = sandbox_close();
    bool allowed = sandbox_allows_any(SYS_read);
    sandbox_settle(ticket, false, NULL);
    if (served || allowed || !sandbox_allows_any(SYS_read) || !sandbox_serves(SANDBOX_EVERYTHING))
        return DISAGREED;
    sandbox_settle(sandbox_close(), true, NULL);
    return sandbox_allows_any(SYS_read) && !sandbox_allows_any(SYS_exit_group) &&
                   !sandbox_serves(SANDBOX_BYTES) && !sandbox_serves(SANDBOX_CEILINGS)
               ? AGREED
               : DISAGREED;
}

static void test_steps(void **state)
{
    (void)state;
    assert_int_equal(in_child(judge_steps, NULL), AGREED);
}

static int judge_clock(const void *unused)
{
    static const struct program only_exit = PROGRAM(PROLOGUE, RETURN(SECCOMP_RET_KILL_PROCESS));
    struct timespec before, after, spent = {1, 1};
    (void)unused;
    clock_source(CLOCK_MONOTONIC, &before);
    if (!install(&only_exit))
        return REFUSED_BY_KERNEL;
    clock_source(CLOCK_MONOTONIC, &after);
    clock_source(CLOCK_THREAD_CPUTIME_ID, &spent);
    return after.tv_sec - before.tv_sec < 60 && before.tv_sec - after.tv_sec < 2 &&
                   spent.tv_sec == 0 && spent.tv_nsec == 0
               ? AGREED
               : DISAGREED;
}

static void test_time_goes_on_without_the_call(void **state)
{
    (void)state;
    assert_int_equal(in_child(judge_clock, NULL), AGREED);
}

/* --- filters drawn at random --- */

static uint32_t any_word(void)
{
    static const uint32_t words[] = {0,          1,           2,           7,
                                     31,         SYS_getppid, SYS_getuid,  SYS_geteuid,
                                     0xffffffff, 0x80000000,  SYS_getegid, SYS_getgid};
    return words[(size_t)rand() % (sizeof words / sizeof *words)];
}

static struct sock_filter any_load(void)
{
    switch (rand() % 8) {
    case 0:
        return (struct sock_filter)BPF_STMT(BPF_LD | BPF_IMM, any_word());
    case 1:
        return (struct sock_filter)BPF_STMT(BPF_LD | BPF_MEM, (unsigned)rand() % 2);
    case 2:
        return (struct sock_filter)BPF_STMT(BPF_LDX | BPF_MEM, (unsigned)rand() % 2);
    case 3:
        return (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0);
    case 4:
        return (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (unsigned)rand() % 2 * 4);
    default: /* an argument's half */
        return (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                                            16 + (unsigned)rand() % 12 * 4);
    }
}

static struct sock_filter any_calculation(void)
{
    static const unsigned short operations[] = {BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_AND,
                                                BPF_OR,  BPF_XOR, BPF_LSH, BPF_RSH, BPF_NEG};
    unsigned short operation =
        operations[(size_t)rand() % (sizeof operations / sizeof *operations)];
    /* Division by 0 ends in a kill, and a shift by more than 31 is undefined. */
    bool any = operation != BPF_DIV && operation != BPF_LSH && operation != BPF_RSH;
    unsigned short source = any && rand() % 2 ? BPF_X : BPF_K;
    return (struct sock_filter)BPF_STMT(BPF_ALU | operation | source,
                                        source == BPF_K ? 1 + (unsigned)rand() % 31 : 0);
}

static struct sock_filter any_jump(unsigned room)
{
    static const unsigned short operations[] = {BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET, BPF_JA};
    unsigned short operation =
        operations[(size_t)rand() % (sizeof operations / sizeof *operations)];
    if (operation == BPF_JA)
        return (struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, (unsigned)rand() % room);
    return (struct sock_filter)BPF_JUMP(
        (unsigned short)(BPF_JMP | operation | (rand() % 4 ? BPF_K : BPF_X)), any_word(),
        (unsigned char)((unsigned)rand() % room), (unsigned char)((unsigned)rand() % room));
}

static struct sock_filter any_instruction(unsigned room)
{
    switch (rand() % 8) {
    case 0:
        return (struct sock_filter)BPF_STMT(rand() % 2 ? BPF_ST : BPF_STX, (unsigned)rand() % 2);
    case 1:
        return (struct sock_filter)BPF_STMT(BPF_MISC | (rand() % 2 ? BPF_TAX : BPF_TXA), 0);
    case 2:
        return any_calculation();
    case 3:
    case 4:
        return any_load();
    case 5:
        return (struct sock_filter)RETURN(rand() % 2 ? SECCOMP_RET_ALLOW : DENIED);
    default:
        return any_jump(room);
    }
}

/* Every slot of the memory that is loaded from is stored to first: the kernel insists on it. */
static struct program any_program(void)
{
    static const struct program start =
        PROGRAM(PROLOGUE, BPF_STMT(BPF_ST, 0), BPF_STMT(BPF_STX, 1));
    struct program program = start;
    unsigned length = 8 + (unsigned)rand() % (PROGRAM_MAX - 12);
    while (program.length < length)
        program.instruction[program.length] = any_instruction(length - program.length),
        program.length++;
    program.instruction[program.length++] =
        (struct sock_filter)RETURN(rand() % 2 ? SECCOMP_RET_ALLOW : DENIED);
    return program;
}

static int judge_any(const void *argument)
{
    return install(argument) ? compare(60) : REFUSED_BY_KERNEL;
}

static void test_drawn_at_random(void **state)
{
    unsigned agreed = 0;
    (void)state;
    for (unsigned seed = 1; seed <= 400; seed++) {
        srand(seed);
        struct program program = any_program();
        int outcome = in_child(judge_any, &program);
        if (outcome == DISAGREED)
            print_message("the filter of seed %u\n", seed);
        assert_int_not_equal(outcome, DISAGREED);
        agreed += outcome == AGREED;
    }
    assert_in_range(agreed, 200, 400); /* most are valid */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_written_by_hand),
        cmocka_unit_test(test_several),
        cmocka_unit_test(test_steps),
        cmocka_unit_test(test_time_goes_on_without_the_call),
        cmocka_unit_test(test_drawn_at_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
