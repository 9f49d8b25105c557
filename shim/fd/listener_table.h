/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The segment's table of listeners: an entry for each listening socket of the service, known by
 * its cookie, and which processes have it open.
 *
 * An entry is free when nobody holds it. Each process has a bit in it, set while a descriptor of
 * the process refers to the socket: by a fork for the child, taken off at the last close, and for
 * a process that was killed when its place in the table of processes is cleared. An entry that
 * somebody left keeps its cookie while a spawned program may still have inherited the socket.
 *
 *   free --register--> held --last holder leaves--> free
 *
 * Two processes that meet a socket at once may make two entries: the one with the higher index
 * yields. Whoever holds an entry that was given to another socket meanwhile sees it by the cookie
 * (listener_table_is), and registers anew.
 */
#ifndef BACKPRESSURE_LISTENER_TABLE_H
#define BACKPRESSURE_LISTENER_TABLE_H

#include "segment/segment.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * The entry of the socket `cookie`, held by this process once more; NULL when all are held. `fresh`
 * tells that it is a new one, whose address the caller fills in. No system call.
 */
struct segment_listener *listener_table_register(uint64_t cookie, bool *fresh);

/* This process has it once less. NULL is allowed. */
void listener_table_leave(struct segment_listener *entry);

/* Whether it still is the entry of this socket. */
static inline bool listener_table_is(const struct segment_listener *entry, uint64_t cookie)
{
    return atomic_load_explicit(&entry->cookie, memory_order_relaxed) == cookie;
}

/* Before a fork: the child, which is to have this index in the table of processes, will hold what
 * this process holds. */
void listener_table_inherit(uint32_t child);

/* After a fork in the child, and after an exec: nothing is held but what is known to be open. */
void listener_table_forget_unheld(void);

/* Somebody's place in the table of processes is cleared. */
void listener_table_forget_process(uint32_t process);

/* Before a program is spawned, which may inherit what this process holds. */
void listener_table_spawning(void);

#endif
