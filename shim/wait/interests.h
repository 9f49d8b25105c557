/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The epoll sets of this process that watch listeners: what the program asked for, what the kernel
 * has in its place, and how the two are kept together. For readiness.c, which decides.
 *
 * All that changes a set is done with the lock held: interests_lock.
 */
#ifndef BACKPRESSURE_INTERESTS_H
#define BACKPRESSURE_INTERESTS_H

#include "process/descriptors.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

#define SETS_MAX 256
#define INTERESTS_MAX 32 /* listeners in one set */

enum sight { IN_SIGHT, OUT_OF_SIGHT };

struct interest {
    int fd; /* the listener; -1 when the entry is free */
    enum sight sight;
    bool changed; /* in the kernel's set, too; else the shim filters what it reports */
    uint32_t events;
    epoll_data_t data;
};

struct watched_set {
    _Atomic int fd; /* the epoll set + 1, or 0 when the entry is free */
    _Atomic int waiters;
    _Atomic int hidden;
    bool nests;              /* another watched set is in it */
    uint64_t inherited_from; /* the process it was forked with (processes_self), or 0 */
    unsigned interests;
    struct interest interest[INTERESTS_MAX];
};

/* Entries below the end may be in use. */
extern INTERNAL struct watched_set interests_sets[SETS_MAX];
extern INTERNAL _Atomic uint32_t interests_sets_end;

/* How many interests are out of sight, in all sets. */
extern INTERNAL _Atomic int interests_hidden;

void interests_lock(void);
void interests_unlock(void);

/* The entry of the epoll set `fd`, or NULL when none is kept. */
static inline struct watched_set *interests_set_at(int fd)
{
    descriptor what = descriptor_at(fd);
    if (descriptor_kind(what) != DESCRIPTOR_EPOLL || descriptor_index(what) >= SETS_MAX)
        return NULL;
    return &interests_sets[descriptor_index(what)];
}

static inline int interests_set_fd(const struct watched_set *set)
{
    return atomic_load_explicit(&set->fd, memory_order_relaxed) - 1;
}

/* epoll_ctl(2) for a listener, or for a set within a set: with its errors, and told of what is out
 * of sight. Takes the lock. */
int interests_control(int set, int operation, int fd, struct epoll_event *event);
int interests_control_nested(int outer, int operation, int inner, struct epoll_event *event);

/* The interest of this listener in the set, if it is in use; NULL when there is none. */
struct interest *interests_find(struct watched_set *set, int fd);

/* The one that the kernel reported with `event`. */
struct interest *interests_of(struct watched_set *set, const struct epoll_event *event);

/* Takes it out of the kernel's set; puts it back, and reports it anew. Nothing where it is so. */
void interests_hide(struct watched_set *set, struct interest *interest);
void interests_show(struct watched_set *set, struct interest *interest);

/* Puts back all that is in the set. Takes the lock. */
void interests_show_all(struct watched_set *set);

/* What is in sight, and used up its edge or its one shot, is reported anew when it is ready. */
void interests_arm_again(struct watched_set *set, struct interest *interest);

/* The program, or the kernel, has taken it out. */
void interests_forget(struct watched_set *set, struct interest *interest);
void interests_forget_set(struct watched_set *set);

/* In a forked child: the sets belong to the parent, too, and the lock to nobody. */
void interests_after_fork_in_child(uint64_t parent);

#endif
