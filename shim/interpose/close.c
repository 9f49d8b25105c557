/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/real.h"
#include "interpose/interpose.h"
#include "process/descriptors.h"

#include <errno.h>
#include <linux/close_range.h>
#include <stdio.h>

int __close(int fd);

static int close_real(int fd, void *context)
{
    (void)context;
    return REAL(close)(fd);
}

INTERPOSE int close(int fd)
{
    if (descriptor_at(fd) == 0)
        return REAL(close)(fd);
    return descriptor_close(fd, close_real, NULL);
}

/* What libc's own older libraries, and some programs, call it by. */
INTERPOSE int __close(int fd)
{
    return close(fd);
}

static int close_range_real(unsigned first, unsigned last, void *context)
{
    return REAL(close_range)(first, last, *(const int *)context);
}

INTERPOSE int close_range(unsigned first, unsigned last, int flags)
{
    /* With CLOSE_RANGE_CLOEXEC nothing is closed before exec. */
    if (first > last || (flags & ~(int)CLOSE_RANGE_UNSHARE) != 0)
        return REAL(close_range)(first, last, flags);
    return descriptors_close_range(first, last, close_range_real, &flags);
}

/* closefrom knows no end: where the kernel does not close a range, it closes all. */
static int close_from_real(unsigned first, unsigned last, void *context)
{
    (void)context;
    if (last == UINT32_MAX || kernel_call(SYS_close_range, first, last, 0) < 0)
        REAL(closefrom)((int)first);
    return 0;
}

INTERPOSE void closefrom(int low)
{
    descriptors_close_range(low < 0 ? 0 : (unsigned)low, UINT32_MAX, close_from_real, NULL);
}

static int stream_fd(FILE *stream)
{
    int saved = errno, fd = fileno(stream);
    errno = saved;
    return fd;
}

static int fclose_real(int fd, void *context)
{
    (void)fd;
    return REAL(fclose)(context);
}

INTERPOSE int fclose(FILE *stream)
{
    int fd = stream_fd(stream);
    if (descriptor_at(fd) == 0)
        return REAL(fclose)(stream);
    return descriptor_close(fd, fclose_real, stream);
}

struct reopening {
    FILE *(*real)(const char *, const char *, FILE *);
    const char *path, *mode;
    FILE *stream, *result;
};

static int freopen_real(int fd, void *context)
{
    struct reopening *reopening = context;
    (void)fd;
    reopening->result = reopening->real(reopening->path, reopening->mode, reopening->stream);
    return 0;
}

static FILE *reopen(struct reopening reopening)
{
    descriptor_close(stream_fd(reopening.stream), freopen_real, &reopening);
    return reopening.result;
}

INTERPOSE FILE *freopen(const char *restrict path, const char *restrict mode, FILE *restrict stream)
{
    return reopen((struct reopening){REAL(freopen), path, mode, stream, NULL});
}

INTERPOSE FILE *freopen64(const char *restrict path, const char *restrict mode,
                          FILE *restrict stream)
{
    return reopen((struct reopening){REAL(freopen64), path, mode, stream, NULL});
}
