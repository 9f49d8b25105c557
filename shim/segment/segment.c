/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Uses raw system calls where a symbol is also interposed: this file is linked into bpctl too, and
 * inside the shim its own housekeeping must not pass through the shim.
 */
#include "segment/segment.h"

#include "base/libc.h"
#include "base/real.h"
#include "base/sandbox.h"
#include "segment/growth.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define READS_WHILE_LIMITS_MOVE 10000

static void close_quietly(int fd)
{
    int saved = errno;
    kernel_call(SYS_close, fd);
    errno = saved;
}

void words_store(_Atomic uint64_t *to, const void *from, size_t length)
{
    for (size_t i = 0; i < length / 8; i++) {
        uint64_t word;
        memcpy(&word, (const char *)from + i * 8, 8);
        atomic_store_explicit(&to[i], word, memory_order_relaxed);
    }
}

void words_load(void *to, const _Atomic uint64_t *from, size_t length)
{
    for (size_t i = 0; i < length / 8; i++) {
        uint64_t word = atomic_load_explicit(&from[i], memory_order_relaxed);
        memcpy((char *)to + i * 8, &word, 8);
    }
}

enum segment_result segment_directory(uid_t uid, bool create, char *out, size_t size)
{
    const char *chosen = libc_secure_getenv("BACKPRESSURE_DIR");
    struct stat status;

    int length = chosen && *chosen ? snprintf(out, size, "%s", chosen)
                                   : snprintf(out, size, "/dev/shm/backpressure.%u", uid);
    if (length < 0 || (size_t)length >= size) {
        errno = ENAMETOOLONG;
        return SEGMENT_FAILED;
    }
    if (create && mkdir(out, 0700) < 0 && errno != EEXIST)
        return SEGMENT_FAILED;
    if (libc_lstat(out, &status) < 0)
        return errno == ENOENT ? SEGMENT_ABSENT : SEGMENT_FAILED;
    if (!S_ISDIR(status.st_mode) || status.st_uid != uid || (status.st_mode & 022))
        return SEGMENT_DENIED;
    return SEGMENT_OK;
}

enum segment_result segment_map(int fd, struct segment **out)
{
    struct stat status;
    if (libc_fstat(fd, &status) < 0)
        return SEGMENT_FAILED;
    if (!S_ISREG(status.st_mode) || status.st_size < 64)
        return SEGMENT_DAMAGED;
    /* The header is read, not mapped: a file that is too short would raise SIGBUS. */
    struct {
        uint64_t magic;
        uint32_t version, reserved;
        uint64_t size;
    } header;
    if (pread(fd, &header, sizeof header, 0) != (ssize_t)sizeof header)
        return SEGMENT_FAILED;
    if (header.magic != SEGMENT_MAGIC)
        return SEGMENT_DAMAGED;
    if (header.version != SEGMENT_VERSION)
        return SEGMENT_OTHER_VERSION;
    if (header.size != sizeof(struct segment) || (uint64_t)status.st_size != header.size)
        return SEGMENT_DAMAGED;
    void *memory = mmap(NULL, sizeof(struct segment), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return SEGMENT_FAILED;
    *out = memory;
    return SEGMENT_OK;
}

enum segment_result segment_open(const char *path, struct segment **segment, int *fd)
{
    int file = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (file < 0)
        return errno == ENOENT                     ? SEGMENT_ABSENT
               : errno == EACCES || errno == EPERM ? SEGMENT_DENIED
                                                   : SEGMENT_FAILED;
    enum segment_result result = segment_map(file, segment);
    if (result != SEGMENT_OK || !fd)
        close_quietly(file);
    else
        *fd = file;
    return result;
}

/* The kernel lets n + 1 connections wait after listen(fd, n): sk_acceptq_is_full() compares with >.
 */
int segment_backlog(const struct segment *segment, int asked)
{
    uint64_t queue = segment_limit(segment, LIMIT_QUEUE);
    if (queue == LIMIT_OFF)
        return asked;
    if (queue == 0)
        return 0;
    return queue > INT_MAX ? INT_MAX : (int)queue - 1;
}

void limits_bound(struct limits *limits)
{
    if (limits->value[LIMIT_EXEMPT] > LIMIT_NETWORKS_MAX)
        limits->value[LIMIT_EXEMPT] = LIMIT_NETWORKS_MAX;
    if (limits->text_length > LIMIT_TEXT_MAX)
        limits->text_length = LIMIT_TEXT_MAX;
    if (limits->value[LIMIT_EXEMPT_REQUEST] > LIMIT_PATHS_MAX)
        limits->value[LIMIT_EXEMPT_REQUEST] = LIMIT_PATHS_MAX;
    limits->exempt_request[LIMIT_PATHS_BYTES - 1] = '\0';
}

void segment_read_limits(const struct segment *segment, struct limits *limits)
{
    /* A latch: one of the two copies is whole at any moment, so neither a writer that was preempted
     * nor one that was killed half way makes anybody wait or guess. Only a write that ends
     * meanwhile asks for another try.
     */
    for (unsigned tries = 0; tries < READS_WHILE_LIMITS_MOVE; tries++) {
        uint32_t sequence = atomic_load(&segment->limits_sequence);
        words_load(limits, sequence & 1 ? segment->limit_before : segment->limit, sizeof *limits);
        atomic_thread_fence(memory_order_acquire);
        if (atomic_load(&segment->limits_sequence) == sequence)
            break;
    }
    limits_bound(limits);
}

void segment_write_limits(struct segment *segment, const struct limits *limits)
{
    uint32_t sequence = atomic_load(&segment->limits_sequence);
    if (!(sequence & 1)) { /* else a writer was killed, and what stood before it still stands */
        atomic_thread_fence(memory_order_release);
        for (size_t i = 0; i < SEGMENT_LIMIT_WORDS; i++)
            atomic_store_explicit(&segment->limit_before[i],
                                  atomic_load_explicit(&segment->limit[i], memory_order_relaxed),
                                  memory_order_relaxed);
        atomic_store(&segment->limits_sequence, ++sequence);
    }
    atomic_thread_fence(memory_order_release);
    words_store(segment->limit, limits, sizeof *limits);
    atomic_store(&segment->limits_sequence, sequence + 1);
}

void segment_event(struct segment *segment, enum event_kind kind, uint32_t pid, uint64_t amount,
                   const char *text)
{
    char padded[SEGMENT_EVENT_TEXT] = "";
    if (text) {
        size_t length = strlen(text);
        memcpy(padded, text, length < sizeof padded ? length : sizeof padded - 1);
    }
    uint64_t number = atomic_fetch_add(&segment->events_next, 1);
    uint32_t index = (uint32_t)(number % SEGMENT_EVENTS);
    struct segment_event *event = &segment->event[index];
    if (!growth_reach(segment, GROWING_EVENTS, index))
        return;
    atomic_store(&event->ticket, 0);
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(&event->time_ns, realtime_ns(), memory_order_relaxed);
    atomic_store_explicit(&event->kind, kind, memory_order_relaxed);
    atomic_store_explicit(&event->pid, pid, memory_order_relaxed);
    atomic_store_explicit(&event->amount, amount, memory_order_relaxed);
    words_store(event->text, padded, sizeof padded);
    atomic_store(&event->ticket, number + 1);
}

void segment_wake(struct segment *segment, bool everybody)
{
    atomic_fetch_add(&segment->room, 1);
    /* In a sandbox that forbids it the sleepers look for themselves, when their slices end; the
     * next one who may wakes them. */
    if (!atomic_load(&segment->room_awaited) || !sandbox_permits(SYS_futex))
        return;
    /* The one that is woken may be at a ceiling of its own process, and of no use. */
    everybody = everybody || segment_limit(segment, LIMIT_CONNS) != LIMIT_OFF;
    int saved = errno;
    /* Cleared first: who goes to sleep after this sets it again. */
    atomic_store(&segment->room_awaited, 0);
    if (kernel_call(SYS_futex, &segment->room, FUTEX_WAKE, everybody ? INT_MAX : 1, NULL, NULL, 0) >
            0 &&
        !everybody)
        atomic_store(&segment->room_awaited, 1); /* there may be more than the one woken */
    errno = saved;
}
