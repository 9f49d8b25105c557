/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where accepted connections wait that cannot be admitted yet but stood in the way of others: an
 * exempt client behind them, or a client whose address is below its own ceiling. Here, too, wait
 * for a moment those of whom the program was told, and whom its next accept finds.
 *
 * They wait in flight: sent over a socket pair of the process to itself, so that no descriptor
 * table holds them until they are admitted. unix(7), SCM_RIGHTS.
 */
#ifndef BACKPRESSURE_WAITING_ROOM_H
#define BACKPRESSURE_WAITING_ROOM_H

#include "accept/peers.h"
#include "base/internal.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define WAITING_ROOM_MAX 256

enum guest_kind {
    GUEST_HELD,     /* waits for a slot, and may be late one day */
    GUEST_PROMISED, /* was found to be in time, and the program was told */
    GUEST_EXEMPT,   /* the same, and needs no slot */
};

struct guest {
    struct peer_key key;
    enum guest_kind kind;
    uint64_t since_ns; /* of one that is held: when its wait began (monotonic) */
};

/* Parks `fd`, accepted from the listener with this index. True when it waits, and is closed here.
 */
bool waiting_room_park(uint32_t listener, int fd, struct guest guest);

/*
 * The first parked connection, of those that are not exempt, whose address is below peer-conns: a
 * descriptor that the caller owns, with FD_CLOEXEC, and its reserved `peer`; -1 when there is none.
 * The caller has a slot for it.
 */
int waiting_room_next(uint32_t listener, uint32_t *peer);

/* The first that is exempt, as above; -1 when there is none. */
int waiting_room_next_exempt(uint32_t listener);

/* Since when the first one is held, 0 when it is not. */
uint64_t waiting_room_since(uint32_t listener);

/* Takes the first out that is not exempt, to be turned away; -1 when there is none. */
int waiting_room_take_first(uint32_t listener);

/* Whether waiting_room_next would find one, and whether waiting_room_next_exempt would. */
bool waiting_room_ready(uint32_t listener);
bool waiting_room_exempt(uint32_t listener);

/* Whether anybody waits for any listener. */
extern INTERNAL _Atomic uint32_t waiting_room_occupants;

static inline bool waiting_room_occupied(void)
{
    return atomic_load_explicit(&waiting_room_occupants, memory_order_relaxed) != 0;
}

/* How many wait for this listener; whether one more has room. */
uint32_t waiting_room_count(uint32_t listener);
bool waiting_room_has_space(uint32_t listener);

/* The program's descriptors have run out: closes what nobody waits in; whether there was any. */
bool waiting_room_give_back(void);

/* The listener is closed: who waits for it is turned away, as the kernel's own queue is. */
void waiting_room_close(uint32_t listener);

void waiting_room_forget(int fd);
void waiting_room_after_fork_in_child(void);

#endif
