/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What answers requests, and when they end: an answer begins with its first byte, and the request
 * has ended when the program then asks for more input with all of its output handed to the kernel:
 * by a read, by a wait, or by putting the connection in its epoll set again. Where the dialect
 * follows answers to their end, it must have come to that, too, unless it takes longer than a
 * second: then it is a stream.
 *
 * Async-signal-safe.
 */
#ifndef BACKPRESSURE_ANSWERS_H
#define BACKPRESSURE_ANSWERS_H

#include "requests/entries.h"

#include <sys/uio.h>

/* Before the program writes to the connection. */
void answers_writes(struct flow *flow);

/*
 * `bytes` were written, those of `vector` behind its first `skip`; NULL: nobody saw them. `rest`
 * more could not be, for want of room.
 */
void answers_wrote(struct flow *flow, const struct iovec *vector, size_t skip, size_t bytes,
                   size_t rest);

/* The program asks for input of this connection: its request ends, if it was answered. */
void answers_end(struct request *request);

/*
 * The same by a thread that is one of request->readers. While another one is, which was let in to
 * read what came before, nothing ends: it may read what comes next, and that has this place then
 * (answers_next: whether it has).
 */
void answers_end_reading(struct request *request);
bool answers_next(struct request *request);

/* A thread of the program waits for input: all that were answered end. */
void answers_turn(void);

/* It sleeps, and no more. What another thread answers meanwhile ends with its answer. */
void answers_sleeps(bool begins);

/* Nanoseconds until answers_turn has something to do; -1: nothing. */
int64_t answers_next_look(void);

#endif
