/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "segment/finding.h"

#include "base/libc.h"
#include "base/proc.h"
#include "base/real.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PATH_ROOM 128
#define SEEN_MOST 64 /* more files than that may be visited twice */
#define PAGE 4096

struct search {
    finding_visit visit;
    void *context;
    unsigned seen;
    uint64_t seen_inode[SEEN_MOST];
};

bool finding_is_named(const char *path, int fd)
{
    struct stat named, open_file;
    return libc_lstat(path, &named) == 0 && libc_fstat(fd, &open_file) == 0 &&
           named.st_ino == open_file.st_ino && named.st_dev == open_file.st_dev;
}

bool finding_read_path(int fd, char path[SEGMENT_PATH_MAX])
{
    uint64_t magic = 0;
    if (kernel_call(SYS_pread64, fd, &magic, sizeof magic, (off_t)0) != (long)sizeof magic ||
        magic != SEGMENT_MAGIC ||
        kernel_call(SYS_pread64, fd, path, (size_t)SEGMENT_PATH_MAX,
                    (off_t)offsetof(struct segment, path)) != SEGMENT_PATH_MAX)
        return false;
    path[SEGMENT_PATH_MAX - 1] = '\0';
    return path[0] == '/';
}

/* Opened by its path alone first, which has no effect on a device or a pipe: open(2), O_PATH. */
static int open_candidate(const char *path, uint64_t inode)
{
    char again[PATH_ROOM];
    struct stat status;
    int file = -1;
    int place = (int)kernel_call(SYS_openat, AT_FDCWD, path, O_PATH | O_CLOEXEC);
    if (place < 0)
        return -1;
    if (libc_fstat(place, &status) == 0 && S_ISREG(status.st_mode) &&
        status.st_size == (off_t)sizeof(struct segment) && (!inode || status.st_ino == inode)) {
        snprintf(again, sizeof again, "/proc/self/fd/%d", place);
        file = (int)kernel_call(SYS_openat, AT_FDCWD, again, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    }
    kernel_call(SYS_close, place);
    return file;
}

static bool offer(struct search *search, int fd, uint64_t inode)
{
    for (unsigned i = 0; i < search->seen; i++)
        if (search->seen_inode[i] == inode) {
            kernel_call(SYS_close, fd);
            return false;
        }
    if (search->seen < SEEN_MOST)
        search->seen_inode[search->seen++] = inode;
    if (search->visit(fd, search->context))
        return true;
    kernel_call(SYS_close, fd);
    return false;
}

struct descriptors_of {
    struct search *search;
    const char *process;
    uint64_t inode; /* that is looked for; 0: any */
};

static bool look_at_descriptor(int directory, const char *name, void *context)
{
    const struct descriptors_of *of = context;
    char path[PATH_ROOM];
    struct stat status;
    (void)directory;
    snprintf(path, sizeof path, "%s/fd/%s", of->process, name);
    if (libc_stat(path, &status) < 0 || !S_ISREG(status.st_mode) ||
        status.st_size != (off_t)sizeof(struct segment) ||
        (of->inode && status.st_ino != of->inode))
        return false;
    int fd = open_candidate(path, status.st_ino);
    return fd >= 0 && offer(of->search, fd, status.st_ino);
}

static bool look_at_descriptors(struct search *search, const char *process, uint64_t inode)
{
    char path[PATH_ROOM];
    struct descriptors_of of = {search, process, inode};
    snprintf(path, sizeof path, "%s/fd", process);
    return proc_each(path, look_at_descriptor, &of).ended;
}

/* A line of proc_pid_maps(5). True when the search is over. */
static bool look_at_mapping(struct search *search, const char *process, const char *line)
{
    const size_t size = (sizeof(struct segment) + PAGE - 1) / PAGE * PAGE;
    unsigned long start, end, inode;
    char permissions[5], path[PATH_ROOM];
    if (sscanf(line, "%lx-%lx %4s %*s %*s %lu", &start, &end, permissions, &inode) != 4 ||
        end - start != size || strcmp(permissions, "rw-s") != 0)
        return false;
    snprintf(path, sizeof path, "%s/map_files/%lx-%lx", process, start, end);
    int fd = open_candidate(path, inode);
    return fd >= 0 ? offer(search, fd, inode) : look_at_descriptors(search, process, inode);
}

static bool look_at_process(int directory, const char *pid, void *context)
{
    char process[32], path[PATH_ROOM], text[2048 + 1];
    size_t used = 0;
    bool ended = false;
    long got;

    (void)directory;
    snprintf(process, sizeof process, "/proc/%s", pid);
    snprintf(path, sizeof path, "%s/maps", process);
    int maps = (int)kernel_call(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (maps < 0)
        return false;
    while (!ended && (got = kernel_call(SYS_read, maps, text + used, sizeof text - 1 - used)) > 0) {
        char *line = text, *newline;
        text[used + (size_t)got] = '\0';
        for (; !ended && (newline = strchr(line, '\n')); line = newline + 1) {
            *newline = '\0';
            ended = look_at_mapping(context, process, line);
        }
        used = strlen(line);
        memmove(text, line, used);
        if (used == sizeof text - 1)
            used = 0; /* a path longer than any of ours */
    }
    kernel_call(SYS_close, maps);
    return ended;
}

bool finding_each(finding_visit visit, void *context)
{
    struct search search = {.visit = visit, .context = context};
    return proc_each("/proc", look_at_process, &search).ended;
}

bool finding_inherited(finding_visit visit, void *context)
{
    struct search search = {.visit = visit, .context = context};
    return look_at_descriptors(&search, "/proc/self", 0);
}
