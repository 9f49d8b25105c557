/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/real.h"

#include "base/lookup.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct real_functions real_functions;
long (*_Atomic real_kernel)(long number, ...);

/*
 * What stands in for a function that this libc lacks. No program that was linked with it asks for
 * one, but one that looks with dlsym whether there is such a function finds the shim's.
 */

static int kernel_close_range(unsigned first, unsigned last, int flags)
{
    return (int)REAL(syscall)(SYS_close_range, first, last, flags);
}

static void kernel_closefrom(int low)
{
    struct rlimit limit = {0, 0};
    unsigned first = low < 0 ? 0 : (unsigned)low;
    int saved = errno;
    if (kernel_call(SYS_close_range, first, UINT32_MAX, 0) < 0) {
        kernel_call(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &limit);
        for (; first < limit.rlim_cur; first++)
            kernel_call(SYS_close, first);
    }
    errno = saved;
}

static int kernel_execveat(int directory, const char *path, char *const arguments[],
                           char *const environment[], int flags)
{
    return (int)REAL(syscall)(SYS_execveat, directory, path, arguments, environment, flags);
}

static int kernel_epoll_pwait2(int set, struct epoll_event *events, int events_max,
                               const struct timespec *timeout, const sigset_t *signals)
{
    return (int)REAL(syscall)(SYS_epoll_pwait2, set, events, events_max, timeout, signals,
                              sizeof(uint64_t));
}

/* The offset comes in two halves, of which 64-bit kernels read the first: preadv2(2). */
static ssize_t kernel_preadv2(int fd, const struct iovec *vector, int count, off64_t offset,
                              int flags)
{
    return REAL(syscall)(SYS_preadv2, fd, vector, count, offset, 0, flags);
}

static ssize_t kernel_pwritev2(int fd, const struct iovec *vector, int count, off64_t offset,
                               int flags)
{
    return REAL(syscall)(SYS_pwritev2, fd, vector, count, offset, 0, flags);
}

/* The forms that _FORTIFY_SOURCE calls. Those that read are asked for only when the buffer is too
 * short. */
static void overflow(void)
{
    abort();
}

static int plain_poll(struct pollfd *fds, nfds_t count, int timeout, size_t size)
{
    return size / sizeof *fds < count ? (abort(), -1) : REAL(poll)(fds, count, timeout);
}

static int plain_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
                       const sigset_t *signals, size_t size)
{
    return size / sizeof *fds < count ? (abort(), -1) : REAL(ppoll)(fds, count, timeout, signals);
}

/* What a kernel without the call would answer. */
static long missing(void)
{
    errno = ENOSYS;
    return -1;
}

typedef void (*function)(void);

static const struct {
    const char *name, *same; /* another name that it goes by where offsets are 64 bits long */
    function stand_in;
} lacking[] = {
    {"fcntl64", "fcntl", NULL},
    {"freopen64", "freopen", NULL},
    {"sendfile64", "sendfile", NULL},
    {"preadv64v2", "preadv2", (function)kernel_preadv2},
    {"pwritev64v2", "pwritev2", (function)kernel_pwritev2},
    {"close_range", NULL, (function)kernel_close_range},
    {"closefrom", NULL, (function)kernel_closefrom},
    {"execveat", NULL, (function)kernel_execveat},
    {"epoll_pwait2", NULL, (function)kernel_epoll_pwait2},
    {"__read_chk", NULL, overflow},
    {"__recv_chk", NULL, overflow},
    {"__recvfrom_chk", NULL, overflow},
    {"__poll_chk", NULL, (function)plain_poll},
    {"__ppoll_chk", NULL, (function)plain_ppoll},
};

static void do_without(struct lookup *wanted)
{
    function stand_in = (function)missing;
    for (size_t i = 0; i < sizeof lacking / sizeof *lacking; i++) {
        if (strcmp(lacking[i].name, wanted->name) != 0)
            continue;
        struct lookup same = {.name = lacking[i].same};
        if (same.name)
            lookup_next(&same, 1);
        wanted->found = same.found;
        if (lacking[i].stand_in)
            stand_in = lacking[i].stand_in;
    }
    if (!wanted->found)
        memcpy(&wanted->found, &stand_in, sizeof stand_in);
}

enum {
#define REAL_INDEX(type, name, arguments) INDEX_##name,
    REAL_FUNCTIONS(REAL_INDEX)
#undef REAL_INDEX
        REAL_COUNT
};

/* POSIX wants an object pointer to convert to a function pointer; ISO C has no cast for it. */
#define REAL_NAME(type, name, arguments) {#name, NULL, 0},
#define REAL_STORE(type, name, arguments)                                                          \
    __atomic_store((void **)&real_functions.name, &wanted[INDEX_##name].found, __ATOMIC_RELEASE);

void real_bind(void)
{
    long (*unbound)(long, ...) = NULL;
    struct lookup wanted[] = {REAL_FUNCTIONS(REAL_NAME)};
    lookup_next(wanted, REAL_COUNT);
    for (unsigned i = 0; i < REAL_COUNT; i++)
        if (!wanted[i].found)
            do_without(&wanted[i]);
    REAL_FUNCTIONS(REAL_STORE)
    atomic_compare_exchange_strong(&real_kernel, &unbound, real_functions.syscall);
}

static bool (*call_allowed)(long number, const long argument[6]);

static long kernel_call_allowed(long number, ...)
{
    long argument[6];
    va_list arguments;
    va_start(arguments, number);
    for (int i = 0; i < 6; i++)
        argument[i] = va_arg(arguments, long);
    va_end(arguments);
    if (call_allowed(number, argument))
        return REAL(syscall)(number, argument[0], argument[1], argument[2], argument[3],
                             argument[4], argument[5]);
    errno = EPERM;
    return -1;
}

void real_enter_sandbox(bool (*allows)(long number, const long argument[6]))
{
    call_allowed = allows;
    real_bind();
    atomic_store(&real_kernel, kernel_call_allowed);
}
