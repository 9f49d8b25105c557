/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Back pressure that reaches the client: while a program has output pending on a connection, it is
 * not handed more input from it.
 *
 * The program's own sign is that it asks for writability together with readability; for those that
 * are edge-triggered for both all the time, it is a write that came back short. The sign ends when
 * it stops asking, or when a write goes through whole; and it was false when the program was told
 * that it could write, and did not.
 *
 * Nothing is changed as long as the client sends nothing: only when the kernel reports readability
 * of such a connection is that withheld, and, where it would be reported again and again, taken out
 * of the set. It is reported anew, to edge-triggered programs too, by an epoll_ctl MOD (epoll(7)).
 */
#ifndef BACKPRESSURE_PAUSING_H
#define BACKPRESSURE_PAUSING_H

#include "output/flows.h"

#include <sys/epoll.h>

/* epoll_ctl(2) for an admitted connection, with its errors. */
int pausing_control(int set, int operation, int fd, struct epoll_event *event);

/* A wait of this thread begins: whoever was told in the last one that it could write, and did not,
 * had nothing to write. */
void pausing_new_turn(void);

/* Takes out of what the kernel reported of `set` the readability that is withheld; returns how many
 * events are left. */
int pausing_filter(int set, struct epoll_event *events, int ready);

/* Gives back what is withheld when pausing ends, and forgets who is gone. */
extern const struct flow_feature pausing_feature;

/* Before each write: whatever it comes to, the program made use of the room it was told of. */
void pausing_writes(struct flow *flow);

/* After it: it went through whole, or the kernel took less than it was given. */
void pausing_wrote_all(struct flow *flow);
void pausing_fell_short(struct flow *flow);

/* Whether a read on `fd` is to find nothing. If so, readability is reported once that is over. */
bool pausing_withholds(int fd, struct flow *flow);

/* A read was cut short: what edge-triggered programs were told of is reported again. */
void pausing_report_again(struct flow *flow);

/* For poll and select: whether readability of `fd`, asked for together with writability, is left
 * out; and that the program was told that it is writable. */
bool pausing_masks(int fd);
void pausing_told(int fd);

/* Whether any connection's input may be withheld, so that waits have to be looked at. */
bool pausing_active(void);

/* Pausing ended: what is withheld from the program is given back. */
void pausing_resume(struct flow *flow);

/*
 * Before `fd` is closed. Its number may be another connection's the moment it is, and events are
 * told apart by what the program put there, which is mostly the number: what is remembered of the
 * old one must not be taken for the new one's.
 */
void pausing_closes(int fd, struct flow *flow);

#endif
