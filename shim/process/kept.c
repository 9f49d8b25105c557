/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "process/kept.h"

#include "base/due.h"
#include "base/libc.h"
#include "base/real.h"
#include "process/descriptors.h"
#include "process/service.h"
#include "segment/finding.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define NUMBERS 256
#define WATCH_EVERY_NS UINT64_C(1000000000)
#define WATCH_LONGEST_NS UINT64_C(10000000000)

static _Atomic int kept = -1;
static dev_t device;
static ino_t inode;

int kept_number(void)
{
    return atomic_load_explicit(&kept, memory_order_relaxed);
}

static bool is_ours(int fd)
{
    struct stat status;
    return fd >= 0 && libc_fstat(fd, &status) == 0 && status.st_ino == inode &&
           status.st_dev == device;
}

/* Above what most programs use, but not so high that the kernel's table of descriptors grows by
 * much, which is copied by every fork (fs/file.c, dup_fd). */
static int least_number(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return 0;
    int most = limit.rlim_cur < NUMBERS ? (int)limit.rlim_cur : NUMBERS;
    return most - most / 4;
}

static void keep(int fd)
{
    int moved = (int)kernel_call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, least_number());
    if (moved >= 0)
        kernel_call(SYS_close, fd);
    else
        kernel_call(SYS_fcntl, fd, F_SETFD, FD_CLOEXEC);
    moved = moved >= 0 ? moved : fd;
    descriptor_put(moved, 0); /* the trace of an unseen close, if there is one */
    descriptors_stays(moved);
    atomic_store(&kept, moved);
}

void kept_start(int fd)
{
    struct stat status;
    if (fd < 0 || libc_fstat(fd, &status) < 0)
        return;
    device = status.st_dev;
    inode = status.st_ino;
    keep(fd);
}

static void path_of_segment(char path[SEGMENT_PATH_MAX])
{
    words_load(path, service.segment->path, SEGMENT_PATH_MAX);
    path[SEGMENT_PATH_MAX - 1] = '\0';
}

static int open_ours(const char *path)
{
    int fd = (int)kernel_call(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0 && !is_ours(fd)) {
        kernel_call(SYS_close, fd);
        fd = -1;
    }
    return fd;
}

int kept_open(void)
{
    char path[SEGMENT_PATH_MAX];
    if (!inode)
        return -1;
    /* Another description of the same file, with or without a name: proc_pid_fd(5). */
    snprintf(path, sizeof path, "/proc/self/fd/%d", kept_number());
    int fd = open_ours(path);
    if (fd >= 0)
        return fd;
    path_of_segment(path);
    return open_ours(path);
}

int kept_descriptor(void)
{
    int saved = errno, fd = kept_number();
    if (!is_ours(fd)) {
        /* Closed behind our back; its number may be the program's by now. */
        if (fd >= 0 && descriptor_kind(descriptor_at(fd)) == DESCRIPTOR_SEGMENT)
            descriptor_take(fd);
        atomic_store(&kept, -1);
        descriptors_stays(-1);
        fd = kept_open();
        if (fd >= 0)
            keep(fd);
        fd = kept_number();
    }
    errno = saved;
    return fd;
}

void kept_move(void)
{
    int before = kept_number();
    int fd = is_ours(before) ? (int)kernel_call(SYS_fcntl, before, F_DUPFD_CLOEXEC, 0) : -1;
    descriptor_take(before);
    atomic_store(&kept, -1);
    descriptors_stays(-1);
    if (fd >= 0)
        keep(fd);
}

static bool has_its_name(void)
{
    char path[SEGMENT_PATH_MAX];
    path_of_segment(path);
    return finding_is_named(path, kept_number());
}

static void close_on_exec(bool on)
{
    int saved = errno;
    if (is_ours(kept_number()) && (on || !has_its_name()))
        kernel_call(SYS_fcntl, kept_number(), F_SETFD, on ? FD_CLOEXEC : 0);
    errno = saved;
}

void kept_before_exec(void)
{
    close_on_exec(false);
}

void kept_after_failed_exec(void)
{
    close_on_exec(true);
}

void kept_watch(void)
{
    struct segment *segment = service.segment;
    uint64_t now = monotonic_ns();
    uint32_t not_said = 0;
    if (!due_claim(&segment->name_next_ns, now, WATCH_LONGEST_NS))
        return;
    int saved = errno;
    if (kept_descriptor() >= 0 && !has_its_name() &&
        atomic_compare_exchange_strong(&segment->name_lost, &not_said, 1))
        service_say_name_is_lost();
    atomic_store(&segment->name_next_ns, now + WATCH_EVERY_NS);
    errno = saved;
}
