/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Joining and reading a service's control segment, whose layout is in layout.h. Linked into bpctl,
 * too.
 */
#ifndef BACKPRESSURE_SEGMENT_H
#define BACKPRESSURE_SEGMENT_H

#include "base/clock.h"
#include "segment/layout.h"

enum segment_result {
    SEGMENT_OK,
    SEGMENT_ABSENT,  /* no such service */
    SEGMENT_DENIED,  /* it belongs to somebody else */
    SEGMENT_DAMAGED, /* truncated or overwritten */
    SEGMENT_OTHER_VERSION,
    SEGMENT_FAILED, /* errno tells */
};

/*
 * The directory of the segments of user `uid`: $BACKPRESSURE_DIR, or /dev/shm/backpressure.UID.
 * With `create`, makes it (0700). Returns SEGMENT_DENIED when what is there is not a directory of
 * that user which others cannot write to, so that nobody can squat on the name.
 */
enum segment_result segment_directory(uid_t uid, bool create, char *out, size_t size);

/* Maps an existing segment file by path for reading and writing, checking owner, size and header.
 * Stores a descriptor of it, which the caller closes, unless `fd` is NULL. */
enum segment_result segment_open(const char *path, struct segment **segment, int *fd);

/* The same for a file that is open, whatever its name. The descriptor stays the caller's. */
enum segment_result segment_map(int fd, struct segment **segment);

/* Whether the header is intact. One load and a comparison: cheap enough for every admission. */
static inline bool segment_intact(const struct segment *segment)
{
    return atomic_load_explicit(&segment->magic, memory_order_relaxed) == SEGMENT_MAGIC;
}

/* One limit of the service, without copying the rest. */
static inline uint64_t segment_limit(const struct segment *segment, enum limit_key key)
{
    return atomic_load_explicit(&segment->limit[offsetof(struct limits, value) / 8 + key],
                                memory_order_relaxed);
}

/* One limit as it holds for a process: its own, or the service's. */
static inline uint64_t segment_process_limit(const struct segment *segment,
                                             const struct segment_process *process,
                                             enum limit_key key)
{
    if (atomic_load_explicit(&process->override_mask, memory_order_relaxed) >> key & 1)
        return atomic_load_explicit(&process->override[key], memory_order_relaxed);
    return segment_limit(segment, key);
}

/* What `limit` (conns or total-conns) allows now, as `found` has it when it finds itself. */
static inline uint64_t segment_ceiling(uint64_t limit, const struct segment_concurrency *found)
{
    if (!limit_is_auto(limit))
        return limit;
    uint64_t least = limit_auto_least(limit), most = limit_auto_most(limit);
    uint64_t ceiling = atomic_load_explicit(&found->ceiling, memory_order_relaxed);
    ceiling = ceiling ? ceiling : CONCURRENCY_FIRST;
    return ceiling < least ? least : ceiling > most ? most : ceiling;
}

/* The backlog for listen(2) that `queue` makes of what the program asked for. */
int segment_backlog(const struct segment *segment, int asked);

/* Brings every length and index in limits that were read from a segment within its bounds. */
void limits_bound(struct limits *limits);

/* Copies all limits, consistently; every member of the copy is within its bounds. */
void segment_read_limits(const struct segment *segment, struct limits *limits);

/* Publishes limits. Callers hold the lock on the segment's file by flock(2). */
void segment_write_limits(struct segment *segment, const struct limits *limits);

/* Adds an event. Lock-free and bounded; `text` is cut to what fits. */
void segment_event(struct segment *segment, enum event_kind kind, uint32_t pid, uint64_t amount,
                   const char *text);

/* Copies `length` bytes, a multiple of 8, between plain memory and the segment's words. */
void words_store(_Atomic uint64_t *to, const void *from, size_t length);
void words_load(void *to, const _Atomic uint64_t *from, size_t length);

/* Wakes those who wait for a slot: call after one became free or a limit was raised. */
void segment_wake(struct segment *segment, bool everybody);

#endif
