/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Telling whether anybody still holds a connection that this process let go of.
 *
 * An epoll set knows open files, not descriptors, and forgets one when the last descriptor for it,
 * in whatever process, is closed (epoll(7), "Will closing a file descriptor cause it to be removed
 * from all epoll interest lists?"). So a connection that others may hold is put into a set before
 * this process closes it, and what the set still lists in /proc/self/fdinfo afterwards is held by
 * somebody, or under way in a message. That is exact: no table of the kernel is walked, and it
 * needs neither netlink, nor a look at other processes, nor does it matter what became of the
 * connection meanwhile.
 *
 * One set of its own for each close answers at once; one for all goes on watching what is held
 * elsewhere. Async-signal-safe; errno is not kept.
 */
#ifndef BACKPRESSURE_WITNESS_H
#define BACKPRESSURE_WITNESS_H

#include <stdbool.h>
#include <stdint.h>

enum witness_answer { WITNESS_HELD, WITNESS_GONE, WITNESS_UNKNOWN };

/*
 * Begins to watch the slot's connection, which `fd` still is. Returns a set to be asked once `fd`
 * is closed, to be given to witness_ask or witness_drop, or -1 when there can be none.
 */
int witness_watch(int fd, uint32_t slot, uint32_t generation);

/* Whether somebody holds the connection that `set` was made for. The set is closed. */
enum witness_answer witness_ask(int set);
void witness_drop(int set);

/* Whether the slot's connection, in this generation, is one that this process goes on watching. */
bool witness_watches(uint32_t slot, uint32_t generation);

/*
 * Calls `gone` for each slot that this process watched and whose connection nobody holds any more.
 * It is watched no longer then. Some microseconds, and one for each connection watched.
 */
void witness_look(void (*gone)(uint32_t slot, uint32_t generation));

/* The descriptor of the shim's own was closed by the program: what it watched, it watches no more.
 */
void witness_forget(int fd);

/* The child watches what its parent does: the set is the same, and it does not inherit a look that
 * another thread of the parent was at. */
void witness_after_fork_in_child(void);

#endif
