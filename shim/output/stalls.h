/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * `stall`: a connection whose output has stood still for so long is reset.
 *
 * Output stands while some is queued and the peer takes none of it, by the kernel's own figures:
 * SIOCOUTQ says what is queued, and TCP_INFO's tcpi_bytes_acked what the peer acknowledged
 * (tcp(7), <linux/tcp.h>). Who wrote it, how, and whether a write ever came back short does not
 * matter, nor what the program writes meanwhile; a peer that acknowledges with a closed window
 * takes nothing. AF_UNIX acknowledges nothing: there output stands while the queue is as it was and
 * the program wrote nothing more. Of one whose writes the shim does not see (stdio) that would say
 * too much, so it is let be.
 *
 * A receiver opens its window by no less than a segment or half its buffer (RFC 9293, 3.8.6.2.2,
 * __tcp_select_window in net/ipv4/tcp_output.c): who reads less than that within `stall` looks like
 * one that reads nothing. On loopback a segment is 64 KiB.
 *
 *     nothing queued --(a look finds output)--> queued since --(the peer takes some)--> queued
 * since ^                                        |                                   now
 *           +--(a look finds none)-------------------+--(as old as `stall`)--> reset
 *
 * Time begins with the first look that finds the output, and looks are an eighth of `stall` apart
 * (10 ms to 1 s): a reset is never early, and late by two looks at most while the program waits in
 * poll, select, epoll, accept or a write.
 */
#ifndef BACKPRESSURE_STALLS_H
#define BACKPRESSURE_STALLS_H

#include "output/flows.h"

/* What the three functions below do under `stall`. */
void stalls_note_running(void);
void stalls_look(void);
int64_t stalls_until_look(void);

/*
 * The program begins a wait: it may have written since the last look, and another one is due.
 * Async-signal-safe, as all here, and a load without `stall`.
 */
static inline void stalls_stir(void)
{
    if (flows_may_stall())
        stalls_note_running();
}

/* Looks at every connection of this process, if that is due. Keeps errno. */
static inline void stalls_attend(void)
{
    if (flows_may_stall())
        stalls_look();
}

/*
 * The longest that a wait may last, in nanoseconds, so that the next look comes when it is due; -1
 * for as long as it likes, as no output is outstanding.
 */
static inline int64_t stalls_slice(void)
{
    return flows_may_stall() ? stalls_until_look() : -1;
}

/* Looks at one connection. True while output is outstanding on it; false too when it was reset. */
bool stalls_check(int fd, struct flow *flow);

/* Looks on each turn of a wait; after limits changed, time counts from now. */
extern const struct flow_feature stalls_feature;

#endif
