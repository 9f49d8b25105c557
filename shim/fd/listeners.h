/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The listening sockets of this process, their backlog, and the gate that turns SYNs away.
 */
#ifndef BACKPRESSURE_LISTENERS_H
#define BACKPRESSURE_LISTENERS_H

#include "segment/segment.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#define LISTENERS_MAX 256 /* of one process */
#define LISTENER_UNKNOWN (-1)

struct listener {
    _Atomic uint32_t references; /* descriptors of this process; 0: the entry is free */
    int family;
    bool auditable;    /* plain TCP or AF_UNIX: sock_diag lists what it accepts */
    int asked_backlog; /* -1 when the program's own listen was not seen */
    uint64_t cookie;
    struct segment_listener *_Atomic shared; /* NULL when the segment's table was full */
    struct segment_turn own_turn;            /* among this process's threads, then */
    _Atomic int unread;                      /* the next two are to be asked for first */
    _Atomic int nonblocking;                 /* O_NONBLOCK as last seen */
    _Atomic uint64_t receive_timeout_ns;     /* SO_RCVTIMEO; 0 waits for ever */
    _Atomic int own_filter; /* 1: the program attached one, hands off; -1: not asked yet */
    _Atomic int seen_gated; /* to be opened, even if the segment forgets that it is shut */
    _Atomic int deals_out;  /* SO_REUSEPORT: others cannot take what waits here; -1: not asked */
    _Atomic int holding;    /* clients wait at the ceiling, and it is recorded */
    _Atomic uint64_t holding_since_ns; /* 0 while none do */
    _Atomic uint64_t refused_ns;       /* when this process last refused or parked a client of it */
    _Atomic int accepts;               /* this process has called accept on it */
};

/* Calls the real listen with the backlog that `queue` allows, and learns the listener. */
int listeners_listen(int fd, int backlog);

/* Tracks `fd` if it is a listening stream socket; false if not. */
bool listeners_learn(int fd);

/* The listener at `fd`, learned now if need be, with what accept goes by; NULL when it is none. */
struct listener *listeners_at(int fd);

/* The same as listeners_at, by the table alone. */
struct listener *listeners_tracked(int fd);
uint32_t listeners_index(const struct listener *listener);

/* No index at or above it was ever used. */
uint32_t listeners_count(void);

/* The one with this index, below LISTENERS_MAX, or NULL. */
struct listener *listeners_number(uint32_t index);

/* Whether a listener of this process has clients that no other process can accept. */
bool listeners_deal_out(void);

/* In a forked child: no turn among its threads is under way. */
void listeners_after_fork_in_child(void);

/* Notes that clients wait at the ceiling, or no longer do; true when that is news. */
bool listeners_note_holding(struct listener *listener, bool holding);

/* Whether that is noted of any listener. */
bool listeners_holding(void);

/* Whether all that come are welcome as long as there are slots: nobody is held, and neither
 * queue-delay nor peer-conns is in force. One load. */
bool listeners_welcome_all(void);

/* This process turned a client of the listener away; and whether it did within the last second. */
void listeners_note_refusal(struct listener *listener);
bool listeners_refused_lately(const struct listener *listener);

/* Whether this process has any. */
bool listeners_exist(void);

/* Who hears of listeners that are closed; async-signal-safe. */
struct listeners_audience {
    /* One descriptor of it was; and its last one in this process. */
    void (*descriptor_closed)(int fd);
    void (*closed)(uint32_t index);
};

/* `audience` lives for ever. Before a service is joined. */
void listeners_tell(const struct listeners_audience *audience);

void listeners_retain(uint32_t index);
void listeners_closed(int fd, uint32_t index);

/* After fcntl or ioctl touched a listener: reads again what accept goes by. */
void listeners_reread(int fd);

/* Asks for what accept goes by, unless that is known: whether the listener blocks, and how long. */
static inline void listeners_make_known(struct listener *listener, int fd)
{
    if (__builtin_expect(atomic_load_explicit(&listener->unread, memory_order_relaxed), 0))
        listeners_reread(fd);
}

/* After setsockopt set the SOL_SOCKET option `name`. */
void listeners_option_set(int fd, int name);

/*
 * Brings backlogs in line when limits changed since the last call: one load if not. Asks then
 * whether limits concern single clients, so that not all are welcome though there are slots.
 */
void listeners_refresh(bool (*single_clients_concerned)(void));

/* Whether nothing is to be brought in line, no gate is shut, no queue stands, and nobody is held.
 */
bool listeners_calm(void);

/* Whether a gate may be put on it: nobody's on what has a filter of its own. */
static inline bool listeners_can_be_gated(const struct listener *listener)
{
    return atomic_load_explicit(&listener->references, memory_order_relaxed) && listener->shared &&
           listener->family != AF_UNIX &&
           atomic_load_explicit(&listener->own_filter, memory_order_relaxed) != 1;
}

#endif
