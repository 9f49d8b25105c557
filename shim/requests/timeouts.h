/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * `idle` and `header-timeout`: connections that hold a slot and do nothing with it are ended.
 *
 * A connection is idle while nothing of its client is unread, begun or unanswered, and nothing of
 * the program unsent; a transaction is something begun. It may go when it was so at all looks for
 * as long as `idle` says, and somebody wants its slot (idle.h). A head is waited for from the
 * accept until the first one is whole, and then from the first byte of each until that is: bytes
 * that come one by one do not make that longer.
 *
 *     at REST --(somebody wants its slot, or its head is late)--> input ends: shutdown(2), SHUT_RD
 *                                                     |
 *                           the program reads the end of input, and closes as it does for a client
 *                           that has gone; what it still writes arrives
 *
 * A client that asks just then finds the connection closed and nothing done of what it asked: it
 * may ask again on another one (RFC 9112, 9.3.1). HTTP's clients whose head is late read 408 first.
 * Only a connection that no other process holds is ended, since another may be at work on it.
 *
 * Looks are an eighth of the shorter limit apart (10 ms to 1 s): nothing ends early, and late by
 * two looks at most while the program waits in poll, select, epoll, accept or a read.
 * Async-signal-safe; errno is kept.
 */
#ifndef BACKPRESSURE_TIMEOUTS_H
#define BACKPRESSURE_TIMEOUTS_H

#include "requests/entries.h"

/* Bytes of the client were read, and shown to the request's stream; `begun`: a head became whole
 * among them. */
void timeouts_read(struct request *request, bool begun);

/* Does what is due, on each turn of a wait. Two loads where neither limit is set. */
void timeouts_attend(void);

/* Nanoseconds until timeouts_attend has something to do; -1: nothing. */
int64_t timeouts_next_look(void);

/* The longest that a read of the connection may sleep in one piece, in milliseconds; -1: as long as
 * it likes. */
int timeouts_slice_ms(const struct request *request);

/* Looks on each turn of a wait. */
extern const struct flow_feature timeouts_feature;

#endif
