/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Places under the ceilings, reserved before the kernel's accept, so that the counts are never too
 * low.
 */
#ifndef BACKPRESSURE_RESERVATION_H
#define BACKPRESSURE_RESERVATION_H

#include "process/descriptors.h"

#include <stdbool.h>
#include <stdint.h>

enum reservation {
    RESERVED,
    RESERVATION_FULL,   /* conns or total-conns; or no credit for its output */
    RESERVATION_RATE,   /* accept-rate */
    RESERVATION_PAUSED, /* bpctl pause or drain */
};

/* Reserves a slot for a connection about to be accepted. Undone by commit or cancel. */
enum reservation reservation_make(void);
void reservation_cancel(void);

/* Cancels, too, and leaves it to the caller to wake those who wait for a slot, by segment_wake. */
void reservation_cancel_quietly(void);

/* Changes of slots that are under way in the service's processes. */
uint64_t reservation_changing(void);

/* What reservation_make would say now, reserving nothing. */
enum reservation reservation_room(void);

/* Whether there certainly is, buffers aside. Cheaper; false also where accept-rate is to be asked.
 */
bool reservation_roomy(void);

/* Nanoseconds until accept-rate allows the next connection; 0 when it does now. */
uint64_t reservation_rate_wait(void);

/*
 * Whether the ceiling is reached by connections that are really open: not by slots which somebody
 * only reserved, nor by ones whose holder is dead. Looks at the kernel, at a bounded rate.
 */
bool reservation_full_for_certain(void);

/* How a connection came to this process. */
struct connection_origin {
    int family;
    long status;    /* its file status flags (F_GETFL), or -1: not known */
    bool inherited; /* or received; not accepted here */
};

/*
 * What other rooms do for connections, since output has its own limits and waits their listeners.
 * Async-signal-safe; no lock is held; errno need not be kept.
 */
struct connection_features {
    /* This process has a first descriptor for the connection: accepted, or inherited. */
    void (*begins)(int fd, uint32_t slot, uint32_t generation, struct connection_origin origin);
    /* It is about to close `fd`; and it has no descriptor for it any more. */
    void (*closes)(int fd, descriptor what);
    void (*ends)(uint32_t slot, uint32_t generation);
    /* One more process holds it; one holds it no longer; nobody does, and its slot is to be free.
     */
    void (*shared)(uint32_t slot, uint32_t process);
    void (*left)(uint32_t slot, uint32_t process);
    void (*freed)(uint32_t slot);
    /* Whether there is room for what one more would have queued; and makes some. */
    bool (*room)(void);
    void (*make_room)(void);
    /* A slot may be free. */
    void (*room_made)(void);
    /* What is due: for their bytes, on each turn of a wait; and comparing the counts with the
     * kernel, before somebody is refused. */
    void (*attend)(void);
    void (*verify)(void);
};

/* A ceiling was raised: tells everybody who waits, in all processes. */
void reservation_room_made(void);

/* Does what is due for the bytes of connections. */
void reservation_attend(void);

/* Makes room for what a newcomer would have queued, where there is none. */
void reservation_make_room(void);

/* Every member is set; `features` live for ever. Before a service is joined. */
void reservation_serve(const struct connection_features *features);

/* What reservation_serve was given. */
extern INTERNAL const struct connection_features *connection_features;

/* Around each change of slots and their counts: audits see `pending` of the process raised
 * meanwhile. Nests; async-signal-safe. */
void reservation_change_begins(void);
void reservation_change_ends(void);

#endif
