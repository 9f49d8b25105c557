/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Keeping listeners at their ceiling out of the program's sight, in epoll.
 *
 * Only epoll sets that watch a listener are known here; all others pay one table look-up. While
 * there is room, nothing is changed. When the kernel reports a listener that is at its ceiling, its
 * interest is taken out of the set (epoll_ctl MOD to no events), and put back when there is room:
 * putting it back reports it anew, to edge-triggered programs too (epoll(7)). While something is
 * out of sight, waits come in slices, so that room made by another process is noticed.
 */
#ifndef BACKPRESSURE_READINESS_H
#define BACKPRESSURE_READINESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

/* epoll_ctl(2), with its errors. */
int readiness_control(int set, int operation, int fd, struct epoll_event *event);

/* A non-blocking accept on `fd` was told EAGAIN: where edges count, the next one must come. */
void readiness_hold(int fd);

/* A thread that does not wait itself leaves a client of `fd` to those that wait for it: they are
 * woken by an edge. False when no set watches it. */
bool readiness_report_again(int fd);

/* A slot may be free: puts back at once what this process has out of sight. */
void readiness_room_made(void);

/* Puts everything back, room or not. */
void readiness_show_everything(void);

void readiness_set_closed(int set);
void readiness_listener_closed(int fd);

/*
 * The child shares the kernel's sets with its parent: it finds them as the program made them, and
 * must not change them behind the parent's back as long as that one lives.
 */
void readiness_before_fork(void);
void readiness_after_fork_in_child(uint64_t parent);

/* Whether any listener is out of sight in any set. */
bool readiness_hidden(void);

#endif
