/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Back pressure that reaches the client: while a program has output pending on a connection, it is
 * not handed more input from it (watches.h).
 *
 * The program's own sign is that it asks for writability together with readability; for those that
 * are edge-triggered for both all the time, it is a write that came back short. The sign ends when
 * it stops asking, or when a write goes through whole; and it was false when the program was told
 * that it could write, and did not.
 */
#ifndef BACKPRESSURE_PAUSING_H
#define BACKPRESSURE_PAUSING_H

#include "output/flows.h"

#include <sys/epoll.h>

/* epoll_ctl(2) for an admitted connection, with its errors. */
int pausing_control(int set, int operation, int fd, struct epoll_event *event);

/* How many connections were told in this thread's last wait that they can be written to. */
extern INTERNAL _Thread_local unsigned pausing_told_count
    __attribute__((tls_model("initial-exec")));

void pausing_judge_told(void);

/* A wait of this thread begins: whoever was told in the last one that it could write, and did not,
 * had nothing to write. */
static inline void pausing_new_turn(void)
{
    if (pausing_told_count)
        pausing_judge_told();
}

/* What a wait makes of an event, in this order: whether pausing withholds its input; that this was
 * done; that the program is told by it that it can write. */
bool pausing_judges(struct flow *flow, const struct epoll_event *event);
void pausing_count(struct flow *flow);
void pausing_tells_writable(struct flow *flow);

/* Gives back what is withheld when pausing ends. */
extern const struct flow_feature pausing_feature;

/* Before each write: whatever it comes to, the program made use of the room it was told of. */
void pausing_writes(struct flow *flow);

/* After it: it went through whole, or the kernel took less than it was given. */
void pausing_wrote_all(struct flow *flow);
void pausing_fell_short(struct flow *flow);

/* Whether a read on `fd` is to find nothing. If so, readability is reported once that is over. */
bool pausing_withholds(int fd, struct flow *flow);

/* For poll and select: whether readability, asked for together with writability, is left out; and
 * that the program was told that `fd` is writable. */
bool pausing_masks(struct flow *flow);
void pausing_told(int fd);

#endif
