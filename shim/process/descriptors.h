/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What each descriptor of this process is: one word a descriptor, one load to look it up.
 *
 * A number is taken out of the table before the real close and put in after the real accept, so
 * that a thread which gets the same number in between finds the table right.
 */
#ifndef BACKPRESSURE_DESCRIPTORS_H
#define BACKPRESSURE_DESCRIPTORS_H

#include "base/internal.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define DESCRIPTORS_MAX (1 << 20) /* the kernel's default fs.nr_open */

enum descriptor_kind {
    DESCRIPTOR_NONE,
    DESCRIPTOR_CONN,     /* an admitted connection: slot and generation */
    DESCRIPTOR_LISTENER, /* index in listeners.h */
    DESCRIPTOR_EPOLL,    /* an epoll set that watches a listener: index in readiness.h */
    DESCRIPTOR_OUTBOUND, /* a connection that the program made: index in outbound.h */
    DESCRIPTOR_OWN,      /* the shim's own: a lingering refusal, a waiting room */
    DESCRIPTOR_SEGMENT,  /* the segment's file: see kept.h */
};

#define DESCRIPTOR_KINDS (DESCRIPTOR_SEGMENT + 1)

/* kind << 60 | index << 32 | generation; 0 is a descriptor that is not tracked */
typedef uint64_t descriptor;

extern INTERNAL _Atomic uint64_t descriptor_table[DESCRIPTORS_MAX];

static inline descriptor descriptor_make(enum descriptor_kind kind, uint32_t index,
                                         uint32_t generation)
{
    return (uint64_t)kind << 60 | (uint64_t)(index & 0xfffffff) << 32 | generation;
}

static inline enum descriptor_kind descriptor_kind(descriptor what)
{
    return (enum descriptor_kind)(what >> 60);
}

static inline uint32_t descriptor_index(descriptor what)
{
    return what >> 32 & 0xfffffff;
}

static inline uint32_t descriptor_generation(descriptor what)
{
    return (uint32_t)what;
}

/* What `fd` is; DESCRIPTOR_NONE for any number out of range. */
static inline descriptor descriptor_at(int fd)
{
    if (__builtin_expect((unsigned)fd >= DESCRIPTORS_MAX, 0))
        return 0;
    return atomic_load_explicit(&descriptor_table[fd], memory_order_acquire);
}

/* Nothing is known of `fd`: the call is none of the shim's business. A comparison and a load. */
static inline bool descriptor_untracked(int fd)
{
    return __builtin_expect((unsigned)fd >= DESCRIPTORS_MAX ||
                                atomic_load_explicit(&descriptor_table[fd], memory_order_relaxed) ==
                                    0,
                            1);
}

/*
 * The listeners and epoll sets among them, whose readiness may be withheld from the program: a bit
 * each, in the words that select takes.
 */
#define DESCRIPTORS_PER_WORD 64
extern INTERNAL _Atomic uint64_t descriptors_withheld[DESCRIPTORS_MAX / DESCRIPTORS_PER_WORD];
extern INTERNAL _Atomic int descriptors_withheld_end; /* one above the highest there ever was */

/* The first of them from `fd` on; -1 when there is none. */
int descriptors_next_withheld(int fd);

/* A close, from before it, while it can be prepared to tell who else holds the connection, to after
 * it. */
struct departure {
    bool verify; /* others may: `set` tells (witness.h), or -1 */
    int set;
};
/* Of a descriptor that is gone already. */
static const struct departure departure_unseen = {.verify = false, .set = -1};

/* What a kind of descriptor does when its descriptors come and go. Any may be NULL. Called without
 * a lock; async-signal-safe; errno is not kept. */
struct descriptor_operations {
    /* One more number for it. */
    void (*retain)(descriptor what);
    /* It is about to be closed, and still is `fd`. Then it was closed, or stays open after all. */
    void (*departing)(int fd, descriptor what, struct departure *departure);
    void (*departed)(int fd, descriptor what, const struct departure *departure);
    void (*stays)(const struct departure *departure);
    /* The program takes its number, which the program does not know of: it moves elsewhere. */
    void (*steps_aside)(void);
    /* It goes out in a message: anybody may hold it from now on, or the message itself. */
    void (*passed)(descriptor what);
};

/*
 * Puts one of the shim's own at `fd` which the program's closing of numbers and ranges leaves open,
 * and its dup2 onto that number moves. There is one at most. -1: there is none any more.
 */
void descriptors_stays(int fd);

/* Which room serves a kind; `operations` live for ever. Before the program runs. */
void descriptors_serve(enum descriptor_kind kind, const struct descriptor_operations *operations);

/* Who knows what a stream socket is that was inherited or received, and tracks it: asked in the
 * order in which they were named, until one says true. Before the program runs. */
void descriptors_ask(bool (*adopts)(int fd));

/* One above the highest number that was ever tracked. */
int descriptors_end(void);

/*
 * One above the highest number there is room for in the kernel's table of this process, beyond
 * which select looks at nothing, whatever it is asked (fs/select.c, core_sys_select). INT_MAX when
 * /proc does not tell (proc_pid_status(5), FDSize). Some ten microseconds.
 */
int descriptors_kernel_end(void);

/*
 * Puts `what` at `fd`. What was there is the trace of a close that the shim did not see: it is
 * released, and reported as found unless it was one of the shim's own.
 */
void descriptor_put(int fd, descriptor what);

/* Takes `fd` out of the table and returns what it was. */
descriptor descriptor_take(int fd);

/*
 * `fd`, looked up as `what`, is found not to be that any more: takes it out, unless somebody else
 * did, who releases it then. True when it was released here.
 */
bool descriptor_lost(int fd, descriptor what);

/*
 * Closes a tracked descriptor: takes it out, calls `close_real`, and lets the room that owns it
 * know. Returns what `close_real` returns, with its errno.
 */
int descriptor_close(int fd, int (*close_real)(int fd, void *context), void *context);

/*
 * Closes every descriptor from `first` to `last`, both included, but the segment's: those that are
 * tracked one by one, the rest by `close_real`, once or for what lies on either side of that.
 * Returns what the last of its calls returned.
 */
int descriptors_close_range(unsigned first, unsigned last,
                            int (*close_real)(unsigned first, unsigned last, void *context),
                            void *context);

/* A second number for what `from` is: dup, dup2 and their kin made `to`, closing what it was. */
int descriptor_dup2(int from, int to, int (*dup_real)(int from, int to, void *context),
                    void *context);
void descriptor_duplicated(int from, int to);

/* Closes a descriptor of the shim's own, unless somebody else has closed it before. */
void descriptor_close_own(int fd);

/*
 * Moves a descriptor of the shim's own to a high number, so that programs which use select find the
 * low ones free, and makes it close on exec, in a program that cannot know of it. Returns the new
 * number, or `fd` when there is none.
 */
int descriptor_move_high(int fd);

/* Finds out what an inherited or received descriptor is, and tracks it. */
void descriptor_adopt(int fd);

/* The descriptor goes out in a message. */
void descriptor_passed(int fd);

/* Adopts everything this process was started with. */
void descriptors_adopt_all(void);

#endif
