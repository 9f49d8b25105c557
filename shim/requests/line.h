/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The line of requests that wait for a place, in the order in which they arrived, over all
 * processes of the service.
 *
 * Each process keeps its own line, and shows who is first in it (turn[] in the segment: when that
 * request arrived, and its slot). A place goes to the first of all; a process that does not take it
 * for some milliseconds, because it is stopped or at work, is passed over until it shows somebody
 * again.
 *
 * Who waits is an event loop, then its flow is out of the program's sight, or a thread in a read,
 * which sleeps until `turn` of its slot in the segment moves.
 *
 * Async-signal-safe: the line is guarded by a spinlock, under which signals are blocked.
 */
#ifndef BACKPRESSURE_LINE_H
#define BACKPRESSURE_LINE_H

#include "requests/entries.h"

/* Puts a request of the connection `fd`, in phase REST, in line by its asked_ns; it is WAITING
 * then. `blocked`: a thread waits in a read for it; otherwise the flow's input is withheld. One
 * whose thread has it in hand (request.in_hand) is at REST again, and late, when it waited too
 * long. */
void line_join(struct request *request, int fd, bool blocked);

/* Takes it out again, if it is in: then it is at REST. */
void line_leave(struct request *request);

/* Gives free places to those of this process whose turn it is, and refuses those who have waited
 * too long by queue-delay; wakes another process whose turn it is. Called whenever a place may have
 * become free, and on each turn of a wait. */
void line_serve(void);

/* Nanoseconds until line_serve has something to do though no place became free: -1 when it has not.
 */
int64_t line_next_look(void);

/* Whether it is the first of this process's line, whose thread looks on for all the others. */
bool line_is_first(const struct request *request);

/* How many wait in this process. One load. */
uint32_t line_length(void);

/* How many wait in the service: in this process, and at least so many in others. */
uint32_t line_waiting(void);

/* Whether somebody waits in any process, so that a newcomer has to queue up. */
bool line_stands(void);

/* The process is gone: nobody waits there. */
void line_forget_process(uint32_t process);

void line_after_fork_in_child(void);

#endif
