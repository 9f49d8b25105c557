/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * One accept under way, on its path through the rooms: admission.h decides whom the program sees,
 * accept_wait.h waits, newcomers.h lets in and turns away, accepting.h goes from one to the next.
 */
#ifndef BACKPRESSURE_ACCEPT_CALL_H
#define BACKPRESSURE_ACCEPT_CALL_H

#include "fd/listeners.h"
#include "process/signals.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#define ACCEPT_WAIT_FOREVER UINT64_MAX

struct accept_wait {
    int fd;
    struct listener *listener;
    uint64_t deadline_ns; /* ACCEPT_WAIT_FOREVER without SO_RCVTIMEO */
    struct held_signals held;
};

/* One accept of the program's, or one look at who waits before the program is told of it. */
struct admission {
    struct accept_wait wait;
    int flags;
    bool plain; /* the program called accept, not accept4 */
    struct sockaddr *address;
    socklen_t *length;
    bool blocking;
    bool screening; /* whoever is welcome waits in the waiting room for the program's accept */
    bool reserved;  /* there is a slot for whoever comes: newcomers_give_slot_back */
    bool owes_wake; /* a slot was given back, and nobody was told */
    unsigned refusals;
    uint64_t billed_ns; /* processor time when refusals were billed last */
};

/* What one attempt came to. */
enum accept_end {
    ACCEPT_ADMITTED,      /* somebody comes in, by `fd` */
    ACCEPT_FAILED,        /* the kernel would not accept: errno */
    ACCEPT_TURNED_AWAY,   /* somebody was; another may be there */
    ACCEPT_FULL,          /* there is no slot */
    ACCEPT_NOBODY,        /* no client waits */
    ACCEPT_PROMISED,      /* the program's next accept finds somebody in the waiting room */
    ACCEPT_LEFT_TO_WAITS, /* a thread that waits for the listener refuses who is there */
    ACCEPT_ENDS
};

struct accept_outcome {
    enum accept_end end;
    int fd; /* of who is admitted, otherwise -1: what accept(2) returns */
};

/* Nobody is admitted. */
static inline struct accept_outcome accept_without(enum accept_end end)
{
    return (struct accept_outcome){end, -1};
}

#endif
