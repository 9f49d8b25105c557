/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether a client has waited too long to be worth serving: `queue-delay`, by the rule that
 * policy/queue_delay.h has.
 *
 * How long a client waited is the kernel's own word: tcpi_last_ack_recv of the accepted socket is
 * the time since the handshake's last segment, or since the request, if that came later. AF_UNIX
 * has no such clock; its clients are never late.
 */
#ifndef BACKPRESSURE_LATENESS_H
#define BACKPRESSURE_LATENESS_H

#include "fd/listeners.h"
#include "policy/queue_delay.h"

/* The target in nanoseconds, or LIMIT_OFF. Two loads. */
uint64_t lateness_target(void);

/* What the kernel tells of a connection that was just accepted; its wait is 0 when it does not. */
struct queue_client lateness_ask(int fd);

/*
 * Whether a client of the listener, descriptor `fd`, is to be shed: it waited too long, or while
 * the queue stands it has closed its side. Every accepted client is shown here, since it is the
 * short waits that tell that no queue stands.
 */
bool lateness_sheds(int fd, struct listener *listener, struct queue_client client,
                    uint64_t target_ns);

/* Whether lateness_sheds may say so of the next: somebody was late, or a queue stands. */
bool lateness_suspects(const struct listener *listener);

/* Whether the listener's queue was found to stand, and is watched. Two loads and the time. */
bool lateness_stands(const struct listener *listener);

/* The same of any queue that is judged so. */
bool lateness_queue_stands(struct segment_queue *queue);

/*
 * Whether the listener's queue should take no more for now: it stands and is half full. The kernel
 * turns SYNs away only when it is full, and then also drops the last segment of handshakes under
 * way, whose clients believe that they are connected (tcp_conn_request, tcp_check_req).
 */
bool lateness_overfills(int fd, const struct listener *listener);

/* Connections that wait at the listener `fd`. */
uint32_t lateness_queue(int fd);

#endif
