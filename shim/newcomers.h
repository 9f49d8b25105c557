/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What becomes of a client that was taken out of the kernel's queue: let in, parked, or refused.
 */
#ifndef BACKPRESSURE_NEWCOMERS_H
#define BACKPRESSURE_NEWCOMERS_H

#include "accept_wait.h"
#include "limits.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

/* One accept of the program's, or one look at who waits before the program is told of it. */
struct admission {
    struct accept_wait wait;
    int flags;
    bool plain; /* the program called accept, not accept4 */
    struct sockaddr *address;
    socklen_t *length;
    bool blocking;
    bool screening; /* whoever is welcome waits in the waiting room for the program's accept */
    bool owes_wake; /* a slot was given back, and nobody was told */
    unsigned refusals;
    uint64_t billed_ns; /* processor time when refusals were billed last */
};

/* What one attempt came to, besides a descriptor, or -1 with errno. */
enum {
    TRY_AGAIN = -2,     /* somebody was turned away */
    MUST_WAIT = -3,     /* there is no slot */
    NOBODY = -4,        /* no client waits */
    PROMISED = -5,      /* the program's next accept finds somebody in the waiting room */
    LEFT_TO_WAITS = -6, /* a thread that waits for the listener refuses who is there */
};

/* Whether somebody comes back for those who are made to linger: see shedding.h. */
bool newcomers_attended(const struct admission *admission);

/* Accepts one. `reserved` tells whether there is a slot for it, or it came to be refused. */
int newcomers_take(struct admission *admission, bool reserved);

/* Admits somebody from the waiting room, with the slot that is reserved; -1 when nobody can be. */
int newcomers_admit_parked(const struct admission *admission);

/* Hands out an exempt client from the waiting room, who needs no slot; -1 when there is none. */
int newcomers_admit_exempt(const struct admission *admission);

/* Gives the reserved slot back. While the caller has the listener for itself, whoever was woken for
 * the slot could but wait for the listener, a process for each refusal: newcomers_wake does
 * it later. */
void newcomers_give_slot_back(struct admission *admission);
void newcomers_wake(struct admission *admission);

/* Charges what refusals cost since the last time: the clock is a system call, so not for each. */
void newcomers_bill(struct admission *admission);

/* While the waiting room is occupied: turns away who must not wait there any longer: the late, and
 * everybody but the exempt where clients are not held and the slots are taken. */
void newcomers_attend(void);

/* What `when-full` says, and whether anybody is exempt. */
enum when_full newcomers_when_full(void);
bool newcomers_anybody_exempt(void);

#endif
