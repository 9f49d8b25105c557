/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Makes calls of the shim fail: preloaded behind it, so that what it binds and imports is found
 * here first. Calls of the program, and of libc itself, are left alone.
 *
 *   FAULT_AT=N       the N-th call of each process fails
 *   FAULT_EVERY=N    every N-th does
 *   FAULT_COUNT=PATH how many there were is written there at exit
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static uintptr_t shim_start, shim_end;
static unsigned long fail_at, fail_every;
static _Atomic unsigned long calls;

static int find_shim(struct dl_phdr_info *info, size_t size, void *context)
{
    (void)size, (void)context;
    if (!strstr(info->dlpi_name, "libbackpressure.so"))
        return 0;
    shim_start = info->dlpi_addr;
    for (unsigned i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        uintptr_t end = info->dlpi_addr + part->p_vaddr + part->p_memsz;
        if (part->p_type == PT_LOAD && end > shim_end)
            shim_end = end;
    }
    return 1;
}

static unsigned long number(const char *variable)
{
    const char *text = getenv(variable);
    return text ? strtoul(text, NULL, 10) : 0;
}

static void *next(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

/* Whether this call is to fail; the shim starts before our constructor would run. */
static bool fails(const void *caller, const char *what, long call_number)
{
    static _Atomic int ready;
    if (!atomic_exchange(&ready, 1)) {
        dl_iterate_phdr(find_shim, NULL);
        fail_at = number("FAULT_AT");
        fail_every = number("FAULT_EVERY");
    }
    if ((uintptr_t)caller < shim_start || (uintptr_t)caller >= shim_end)
        return false;
    unsigned long call = atomic_fetch_add(&calls, 1) + 1;
    bool now = call == fail_at || (fail_every && call % fail_every == 0);
    if (now) {
        fprintf(stderr, "faults: %s (%ld) fails, call %lu\n", what, call_number, call);
        errno = ENOMEM;
    }
    return now;
}

#define CALLER __builtin_return_address(0)

/* Calls whose failure the kernel does not know, or whose loss is the program's own, not ours. */
static bool cannot_fail(long call, const long argument[6])
{
    return (call == SYS_fcntl && argument[1] == F_GETFL) || call == SYS_gettid ||
           call == SYS_getpid || call == SYS_sched_yield || call == SYS_close ||
           call == SYS_rt_sigprocmask || call == SYS_shutdown;
}

long syscall(long call, ...)
{
    static long (*real)(long, ...);
    long argument[6];
    va_list arguments;
    va_start(arguments, call);
    for (int i = 0; i < 6; i++)
        argument[i] = va_arg(arguments, long);
    va_end(arguments);
    if (!real)
        real = (long (*)(long, ...))next("syscall");
    if (!cannot_fail(call, argument) && fails(CALLER, __func__, call))
        return -1;
    return real(call, argument[0], argument[1], argument[2], argument[3], argument[4], argument[5]);
}

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    if (fails(CALLER, __func__, 0))
        return MAP_FAILED;
    return (void *)(uintptr_t)((long (*)(long, ...))next("syscall"))(SYS_mmap, address, length,
                                                                     protection, flags, fd, offset);
}

int open(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    return fails(CALLER, __func__, 0)
               ? -1
               : ((int (*)(const char *, int, ...))next("open"))(path, flags, mode);
}

int mkdir(const char *path, mode_t mode)
{
    return fails(CALLER, __func__, 0) ? -1
                                      : ((int (*)(const char *, mode_t))next("mkdir"))(path, mode);
}

int posix_fallocate(int fd, off_t offset, off_t length)
{
    return fails(CALLER, __func__, 0)
               ? ENOMEM
               : ((int (*)(int, off_t, off_t))next("posix_fallocate"))(fd, offset, length);
}

int flock(int fd, int operation)
{
    return fails(CALLER, __func__, 0) ? -1 : ((int (*)(int, int))next("flock"))(fd, operation);
}

int rename(const char *from, const char *to)
{
    return fails(CALLER, __func__, 0)
               ? -1
               : ((int (*)(const char *, const char *))next("rename"))(from, to);
}

ssize_t pread(int fd, void *buffer, size_t count, off_t offset)
{
    return fails(CALLER, __func__, 0)
               ? -1
               : ((ssize_t(*)(int, void *, size_t, off_t))next("pread"))(fd, buffer, count, offset);
}

static void say_count(int signal_number)
{
    const char *path = getenv("FAULT_COUNT");
    char text[32];
    (void)signal_number;
    int fd = path ? (int)((long (*)(long, ...))next("syscall"))(SYS_openat, AT_FDCWD, path,
                                                                O_WRONLY | O_CREAT | O_TRUNC, 0600)
                  : -1;
    if (fd >= 0 &&
        write(fd, text, (size_t)snprintf(text, sizeof text, "%lu", atomic_load(&calls))) < 0)
        _exit(1);
    _exit(0);
}

/* SIGUSR2 ends the program and tells the count: servers of tests have no other end. */
__attribute__((constructor)) static void start(void)
{
    if (getenv("FAULT_COUNT"))
        signal(SIGUSR2, say_count);
}
