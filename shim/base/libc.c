/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/libc.h"

#include "base/real.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>

/* The first version of each machine's glibc. What it had then, it still has under that version. */
#if defined __x86_64__
#define FIRST_VERSION "GLIBC_2.2.5"
#elif defined __aarch64__
#define FIRST_VERSION "GLIBC_2.17"
#else
#define FIRST_VERSION "GLIBC_2.27" /* riscv64's */
#endif

/* Before 2.34 these are in libpthread, which only a program with threads has loaded. */
#define WEAK_OF_OLD(name)                                                                          \
    _Pragma(WEAK_OF_OLD_TEXT(weak name));                                                          \
    __asm__(".symver " #name "," #name "@" FIRST_VERSION)
#define WEAK_OF_OLD_TEXT(text) #text

void _pthread_cleanup_push(void *buffer, void (*routine)(void *), void *argument);
void _pthread_cleanup_pop(void *buffer, int run);
WEAK_OF_OLD(_pthread_cleanup_push);
WEAK_OF_OLD(_pthread_cleanup_pop);
WEAK_OF_OLD(pthread_testcancel);

/* What pthread_atfork calls in glibc, where it is in no shared library between 2.17 and 2.34. */
int __register_atfork(void (*before)(void), void (*in_parent)(void), void (*in_child)(void),
                      void *library);
#pragma weak __register_atfork
#pragma weak pthread_atfork
#pragma weak secure_getenv

/* Cancellation leaves frames without returning from them. ASan would go on guarding what was around
 * their variables, where libc's own end of the thread comes to stand. */
#ifdef __SANITIZE_ADDRESS__
void __asan_handle_no_return(void);
#define FRAMES_ARE_LEFT() __asan_handle_no_return()
#else
#define FRAMES_ARE_LEFT() ((void)0)
#endif

static void at_cancellation(void *argument)
{
    struct libc_cleanup *cleanup = argument;
    FRAMES_ARE_LEFT();
    cleanup->routine(cleanup->argument);
}

void libc_cleanup_push(struct libc_cleanup *cleanup, void (*routine)(void *), void *argument)
{
    cleanup->routine = routine;
    cleanup->argument = argument;
    if (_pthread_cleanup_push)
        _pthread_cleanup_push(cleanup->libcs, at_cancellation, cleanup);
}

void libc_cleanup_pop(struct libc_cleanup *cleanup, bool run)
{
    if (_pthread_cleanup_pop)
        _pthread_cleanup_pop(cleanup->libcs, 0);
    if (run)
        cleanup->routine(cleanup->argument);
}

void libc_test_cancel(void)
{
    if (pthread_testcancel)
        pthread_testcancel();
}

void libc_at_fork(void (*before)(void), void (*in_child)(void))
{
    if (__register_atfork)
        __register_atfork(before, NULL, in_child, NULL);
    else if (pthread_atfork)
        pthread_atfork(before, NULL, in_child);
}

const char *libc_secure_getenv(const char *name)
{
    return secure_getenv ? secure_getenv(name) : getenv(name);
}

/* On 64 bits the kernel's struct stat is that of both libcs. */
int libc_stat(const char *path, struct stat *status)
{
    return (int)kernel_call(SYS_newfstatat, AT_FDCWD, path, status, 0);
}

int libc_lstat(const char *path, struct stat *status)
{
    return (int)kernel_call(SYS_newfstatat, AT_FDCWD, path, status, AT_SYMLINK_NOFOLLOW);
}

int libc_fstat(int fd, struct stat *status)
{
    return (int)kernel_call(SYS_fstat, fd, status);
}
