/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/real.h"
#include "fd/listeners.h"
#include "interpose/interpose.h"
#include "output/flows.h"
#include "output/reading.h"
#include "process/descriptors.h"

#include <fcntl.h>
#include <stdarg.h>
#include <sys/ioctl.h>

int __dup2(int from, int to);

INTERPOSE int dup(int fd)
{
    int result = REAL(dup)(fd);
    if (result >= 0)
        descriptor_duplicated(fd, result);
    return result;
}

static int dup2_real(int from, int to, void *context)
{
    (void)context;
    return REAL(dup2)(from, to);
}

INTERPOSE int dup2(int from, int to)
{
    return descriptor_dup2(from, to, dup2_real, NULL);
}

INTERPOSE int __dup2(int from, int to)
{
    return dup2(from, to);
}

static int dup3_real(int from, int to, void *context)
{
    return REAL(dup3)(from, to, *(const int *)context);
}

INTERPOSE int dup3(int from, int to, int flags)
{
    return descriptor_dup2(from, to, dup3_real, &flags);
}

/* O_NONBLOCK may have changed. */
static void reread(int fd, long status)
{
    listeners_reread(fd);
    flows_reread(fd, status);
}

/* Whether the command makes a descriptor, or changes what is kept of a tracked one. */
static inline bool concerns(int fd, int command)
{
    return command == F_DUPFD || command == F_DUPFD_CLOEXEC ||
           (command == F_SETFL && !descriptor_untracked(fd));
}

/* fcntl's argument is an int or a pointer; both fit in, and come out of, a pointer's register. */
static __attribute__((noinline)) int control(int (*real)(int, int, ...), int fd, int command,
                                             void *argument)
{
    int result = real(fd, command, argument);
    if (result < 0)
        return result;
    if (command == F_DUPFD || command == F_DUPFD_CLOEXEC)
        descriptor_duplicated(fd, result);
    else if (command == F_SETFL)
        reread(fd, (long)(uint32_t)(uintptr_t)argument);
    return result;
}

#define ARGUMENT_AFTER(last, argument)                                                             \
    do {                                                                                           \
        va_list arguments;                                                                         \
        va_start(arguments, last);                                                                 \
        (argument) = va_arg(arguments, void *);                                                    \
        va_end(arguments);                                                                         \
    } while (0)

INTERPOSE int fcntl(int fd, int command, ...)
{
    void *argument;
    ARGUMENT_AFTER(command, argument);
    if (!concerns(fd, command))
        return REAL(fcntl)(fd, command, argument);
    return control(REAL(fcntl), fd, command, argument);
}

INTERPOSE int fcntl64(int fd, int command, ...)
{
    void *argument;
    ARGUMENT_AFTER(command, argument);
    if (!concerns(fd, command))
        return REAL(fcntl64)(fd, command, argument);
    return control(REAL(fcntl64), fd, command, argument);
}

int __fcntl(int fd, int command, ...);

INTERPOSE int __fcntl(int fd, int command, ...)
{
    void *argument;
    ARGUMENT_AFTER(command, argument);
    if (!concerns(fd, command))
        return REAL(fcntl)(fd, command, argument);
    return control(REAL(fcntl), fd, command, argument);
}

static __attribute__((noinline)) int ioctl_with_care(int fd, unsigned long request, void *argument)
{
    /* To the kernel, and to musl, whose programs pass an int, it has 32 bits. */
    bool asks = (uint32_t)request == FIONREAD;
    int result = REAL(ioctl)(fd, request, argument);
    if (result >= 0 && asks && !descriptor_untracked(fd))
        reading_told(fd, *(const int *)argument);
    else if (result >= 0 && (uint32_t)request == FIONBIO)
        reread(fd, -1);
    return result;
}

INTERPOSE int ioctl(int fd, unsigned long request, ...)
{
    void *argument;
    ARGUMENT_AFTER(request, argument);
    if (descriptor_untracked(fd) && BOUND(ioctl))
        return real_functions.ioctl(fd, request, argument);
    return ioctl_with_care(fd, request, argument);
}
