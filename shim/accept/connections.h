/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connection slots: who holds which connection, and how many there are.
 *
 * A slot is reserved before the kernel's accept, filled after it, and freed when its last holder is
 * gone. Holders are processes, so a connection that was accepted in one and is served in another
 * counts for the service until both have let go, and for each of them while it has it.
 *
 * A slot is freed on proof alone. What a process has open is in its own table (descriptors.h);
 * where others may hold the connection, too, an epoll set tells when the last one is closed
 * (witness.h); where no process is there to tell, the kernel's and the processes' tables are gone
 * through (lost.h). Until one of them proves that nobody has it, it counts.
 *
 * Every change raises `pending` of its process first and lowers it last. An audit that reads the
 * gauge, then all `pending`, then the slots, never counts too few: see audit.c.
 */
#ifndef BACKPRESSURE_CONNECTIONS_H
#define BACKPRESSURE_CONNECTIONS_H

#include "accept/reservation.h"
#include "process/descriptors.h"

#include <sys/socket.h>

/* Fills the reserved slot with the accepted `fd`, and tracks it. `auditable`: sock_diag lists it.
 */
void connections_commit(int fd, struct connection_origin origin, bool auditable, uint32_t peer);

/*
 * `fd` was accepted past all ceilings, in a sandbox that forbids what they take: it is counted, and
 * tracked, all the same.
 */
void connections_count(int fd, int family);

/* `fd`, received or inherited, with that inode: tracked if the service knows it. */
bool connections_adopt(int fd, uint64_t inode);

/* One more, one fewer descriptor of this process for a connection. */
void connections_retain(descriptor what);

/* The descriptor is about to be closed; then it was, or it stays open after all. */
void connections_departing(int fd, descriptor what, struct departure *departure);
void connections_departed(descriptor what, const struct departure *departure);
void connections_stay(const struct departure *departure);

/* This connection goes out in a message: anybody may hold it from now on, or the message itself. */
void connections_passed(descriptor what);

/* Every connection of this process may be held by a process that the table does not know: a child
 * is about to be spawned; and it was, or was not. */
void connections_spawning(void);
void connections_spawned(void);

/* The process `child` gets everything this one holds: before fork, so that nothing is lost between.
 */
void connections_inherit(uint32_t child);

/* After exec: lets go of what was closed on the way. Descriptors were adopted before. */
void connections_forget_unadopted(void);

/* Takes the dead process `holder` off every slot, and frees those that nobody holds. When it is not
 * `proved` to be dead, an audit frees them once their sockets are gone. */
void connections_forget_process(uint32_t holder, bool proved);

/* Frees a slot of which it is proved that nobody holds its connection, if it still is in `state`.
 */
bool connections_free_lost(uint32_t slot, uint32_t state);

/*
 * Whether nothing can ever prove that nobody holds a connection which other programs may: neither
 * sock_diag nor /proc can be asked. Then a slot that no process of the service holds is free, for
 * it would be lost otherwise, and that is said once.
 */
bool connections_beyond_proof(void);

/* Frees a slot that nobody is at work on any more, if it still is in `state` (opening or closing).
 * What its gauges count too much is the caller's to mend. */
bool connections_free_orphan(uint32_t slot, uint32_t state);

/* Whether this process still has descriptors for the slot, in this generation. */
bool connections_held_here(uint32_t slot, uint32_t generation);

/* Whether this process alone has it, by one descriptor. */
bool connections_held_alone(uint32_t slot);

#endif
