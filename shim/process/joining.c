/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "process/joining.h"

#include "base/libc.h"
#include "base/real.h"
#include "process/liveness.h"
#include "segment/finding.h"
#include "segment/growth.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LOCK_NAME ".lock" /* no service has such a name */

static void close_quietly(int fd)
{
    int saved = errno;
    kernel_call(SYS_close, fd);
    errno = saved;
}

static uint64_t network_namespace(void)
{
    struct stat status;
    return libc_stat("/proc/self/ns/net", &status) == 0 ? (uint64_t)status.st_ino : 0;
}

/* --- the lock --- */

/* By fcntl, which hardly a sandbox forbids; by flock where locks of descriptions are not known. */
static bool wait_for_lock(int fd)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    while (kernel_call(SYS_fcntl, fd, F_OFD_SETLKW, &whole) < 0)
        if (errno != EINTR)
            return flock(fd, LOCK_EX) == 0;
    return true;
}

int segment_lock_directory(const char *directory)
{
    char path[SEGMENT_PATH_MAX];
    struct stat owner;
    if ((size_t)snprintf(path, sizeof path, "%s/" LOCK_NAME, directory) >= sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    for (;;) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
        if (fd < 0)
            return -1;
        /* Created by root for another user's directory, it is that user's all the same. */
        if (geteuid() == 0 && libc_lstat(directory, &owner) == 0 && owner.st_uid != 0 &&
            fchown(fd, owner.st_uid, owner.st_gid) < 0)
            owner.st_uid = 0;
        if (!wait_for_lock(fd)) {
            close_quietly(fd);
            return -1;
        }
        if (finding_is_named(path, fd))
            return fd;
        close_quietly(fd); /* removed while we waited: others lock another file by now */
    }
}

/* --- creating --- */

static bool fill_header(struct segment *segment, const char *path, const struct limits *limits)
{
    char padded[SEGMENT_PATH_MAX] = "";
    snprintf(padded, sizeof padded, "%s", path);
    atomic_store(&segment->version, SEGMENT_VERSION);
    atomic_store(&segment->size, sizeof *segment);
    atomic_store(&segment->network, network_namespace());
    words_store(segment->path, padded, sizeof padded);
    words_store(segment->limit_first, limits, sizeof *limits);
    segment_write_limits(segment, limits);
    /* The entry of those that find no room for one of their own. */
    bool grown = growth_reach(segment, GROWING_PROCESSES, 0);
    atomic_store(&segment->magic, SEGMENT_MAGIC);
    return grown;
}

static enum segment_result create_file(const char *path, const struct limits *limits,
                                       struct joined *joined)
{
    char temporary[SEGMENT_PATH_MAX + 16];
    snprintf(temporary, sizeof temporary, "%s.new", path);
    unlink(temporary);
    int fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return SEGMENT_FAILED;
    void *memory = MAP_FAILED;
    if (ftruncate(fd, sizeof(struct segment)) == 0)
        memory = mmap(NULL, sizeof(struct segment), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    bool ready = memory != MAP_FAILED;
    if (ready && !growth_touch(memory, offsetof(struct segment, listener))) {
        errno = ENOSPC;
        ready = false;
    }
    if (ready)
        ready = fill_header(memory, path, limits);
    if (!ready || rename(temporary, path) < 0) {
        int error = errno;
        if (memory != MAP_FAILED)
            munmap(memory, sizeof(struct segment));
        unlink(temporary);
        close_quietly(fd);
        errno = error;
        return SEGMENT_FAILED;
    }
    *joined = (struct joined){.segment = memory, .fd = fd, .created = true};
    return SEGMENT_OK;
}

/* --- joining --- */

struct wanted {
    const char *path;
    struct joined *joined;
};

static bool is_wanted(int fd, void *context)
{
    const struct wanted *wanted = context;
    char path[SEGMENT_PATH_MAX];
    struct stat status;
    struct joined found = {.fd = fd, .found = true};
    if (!finding_read_path(fd, path) || strcmp(path, wanted->path) != 0 ||
        libc_fstat(fd, &status) < 0 || status.st_uid != geteuid() ||
        segment_map(fd, &found.segment) != SEGMENT_OK)
        return false;
    struct onlooker onlooker = {liveness_own_namespace(), fd};
    if (!liveness_of_anybody(found.segment, &onlooker)) {
        munmap(found.segment, sizeof *found.segment);
        return false;
    }
    *wanted->joined = found;
    return true;
}

static bool find(const char *path, struct joined *joined)
{
    struct wanted wanted = {path, joined};
    int saved = errno;
    bool found = finding_inherited(is_wanted, &wanted) || finding_each(is_wanted, &wanted);
    errno = saved;
    return found;
}

enum segment_result segment_open_or_find(const char *path, struct joined *joined)
{
    *joined = (struct joined){.fd = -1};
    enum segment_result result = segment_open(path, &joined->segment, &joined->fd);
    return result == SEGMENT_OK || !find(path, joined) ? result : SEGMENT_OK;
}

static const char *explain(enum segment_result result)
{
    switch (result) {
    case SEGMENT_DAMAGED:
        return "truncated or overwritten; remove it";
    case SEGMENT_OTHER_VERSION:
        return "made by another version; remove it once its processes are gone";
    case SEGMENT_DENIED:
        return "belongs to another user";
    default:
        return strerror(errno);
    }
}

static enum segment_result join_or_create(const char *path, const struct limits *limits,
                                          struct joined *joined, char *why, size_t why_size)
{
    enum segment_result result = segment_open(path, &joined->segment, &joined->fd);
    if (result == SEGMENT_OK) {
        struct onlooker onlooker = {liveness_own_namespace(), joined->fd};
        if (liveness_of_anybody(joined->segment, &onlooker))
            return SEGMENT_OK;
        munmap(joined->segment, sizeof *joined->segment);
        close_quietly(joined->fd);
        result = SEGMENT_ABSENT;
    }
    /* Before a second one is made beside it, or given up: the first may have lost its name. */
    if (find(path, joined))
        return SEGMENT_OK;
    *joined = (struct joined){.fd = -1};
    if (result == SEGMENT_ABSENT)
        result = create_file(path, limits, joined);
    else
        snprintf(why, why_size, "%s: %s", path, explain(result));
    if (result == SEGMENT_FAILED)
        snprintf(why, why_size, "%s: cannot create: %s", path, strerror(errno));
    return result;
}

enum segment_result segment_join(const char *name, const struct limits *limits,
                                 struct joined *joined, char *why, size_t why_size)
{
    char directory[SEGMENT_PATH_MAX - SERVICE_NAME_MAX - 8] = "", path[SEGMENT_PATH_MAX];
    *joined = (struct joined){.fd = -1};
    enum segment_result result = segment_directory(geteuid(), true, directory, sizeof directory);
    snprintf(path, sizeof path, "%s/%s", directory, name);
    if (result != SEGMENT_OK) {
        snprintf(why, why_size, "%s: %s", directory,
                 result == SEGMENT_DENIED ? "not a directory that this user alone can write to"
                                          : strerror(errno));
        return find(path, joined) ? SEGMENT_OK : result;
    }
    /* Two processes that start together must not both create. */
    int lock = segment_lock_directory(directory);
    if (lock < 0) {
        snprintf(why, why_size, "%s: cannot lock: %s", directory, strerror(errno));
        return SEGMENT_FAILED;
    }
    result = join_or_create(path, limits, joined, why, why_size);
    close_quietly(lock);
    return result;
}
