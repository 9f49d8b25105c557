/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/real.h"
#include "interpose/interpose.h"
#include "interpose/lifecycle.h"
#include "process/service.h"

#include <errno.h>
#include <stdlib.h>

INTERPOSE pid_t fork(void)
{
    pid_t child = REAL(fork)(); /* runs the atfork handlers */
    if (child != 0)
        lifecycle_forked(child);
    return child;
}

INTERPOSE pid_t _Fork(void)
{
    lifecycle_before_fork();
    pid_t child = REAL(_Fork)();
    lifecycle_after_fork(child);
    return child;
}

/*
 * A vfork child runs on its parent's stack, so no C function may return twice over it: the return
 * address waits in a register that the system call preserves, as in every libc's vfork. The child
 * counts itself in in_vfork_child, and the parent counts it out when it goes on.
 */
#if defined __x86_64__
pid_t vfork(void);
__attribute__((used)) static void before_vfork(void)
{
    lifecycle_before_spawn();
}

__attribute__((used)) static void after_vfork(void)
{
    lifecycle_after_spawn();
}

__attribute__((used)) static pid_t vfork_failed(int error)
{
    lifecycle_after_spawn();
    errno = error;
    return -1;
}

__asm__(".text\n"
        ".globl vfork\n"
        ".type vfork, @function\n"
        "vfork:\n"
        "    endbr64\n"
        "    sub $8, %rsp\n"
        "    call before_vfork\n"
        "    add $8, %rsp\n"
        "    mov in_vfork_child@gottpoff(%rip), %rdx\n"
        "    pop %rdi\n"
        "    mov $58, %eax\n" /* SYS_vfork */
        "    syscall\n"
        "    push %rdi\n"
        "    cmp $-4095, %rax\n"
        "    jae 1f\n"
        "    test %eax, %eax\n"
        "    jnz 2f\n"
        "    incl %fs:(%rdx)\n"
        "    ret\n"
        "2:  decl %fs:(%rdx)\n"
        "    push %rax\n"
        "    call after_vfork\n"
        "    pop %rax\n"
        "    ret\n"
        "1:  mov %eax, %edi\n"
        "    neg %edi\n"
        "    sub $8, %rsp\n"
        "    call vfork_failed\n"
        "    add $8, %rsp\n"
        "    ret\n"
        ".size vfork, . - vfork\n");
#else
/* vfork(2): it may be implemented as fork. */
INTERPOSE pid_t vfork(void)
{
    return fork();
}
#endif

INTERPOSE int posix_spawn(pid_t *restrict pid, const char *restrict path,
                          const posix_spawn_file_actions_t *actions,
                          const posix_spawnattr_t *restrict attributes,
                          char *const arguments[restrict], char *const environment[restrict])
{
    lifecycle_before_spawn();
    int result = REAL(posix_spawn)(pid, path, actions, attributes, arguments, environment);
    lifecycle_after_spawn();
    return result;
}

INTERPOSE int posix_spawnp(pid_t *restrict pid, const char *restrict file,
                           const posix_spawn_file_actions_t *actions,
                           const posix_spawnattr_t *restrict attributes,
                           char *const arguments[restrict], char *const environment[restrict])
{
    lifecycle_before_spawn();
    int result = REAL(posix_spawnp)(pid, file, actions, attributes, arguments, environment);
    lifecycle_after_spawn();
    return result;
}

INTERPOSE int system(const char *command)
{
    lifecycle_before_spawn();
    int status = REAL(system)(command);
    lifecycle_after_spawn();
    return status;
}

INTERPOSE FILE *popen(const char *command, const char *mode)
{
    lifecycle_before_spawn();
    FILE *stream = REAL(popen)(command, mode);
    lifecycle_after_spawn();
    return stream;
}
