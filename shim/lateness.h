/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether a client has waited too long to be worth serving: `queue-delay`.
 *
 * The rule is CoDel's (Nichols and Jacobson, "Controlling Queue Delay", 2012; RFC 8289): one long
 * wait is a burst, and bursts are what queues are for. A queue stands when the wait of everyone who
 * was accepted stayed above the target for a whole interval; or when it is twice as long as when
 * the first one was late, which under a flood is seen sooner. CoDel then drops one packet at a
 * time, since senders slow down; clients of a server mostly do not, so a standing queue is drained
 * at once of all that waited longer than the target, and stays watched closely until nobody has for
 * a while (compare Maurer, "Fail at Scale", 2015).
 *
 * How long a client waited is the kernel's own word: tcpi_last_ack_recv of the accepted socket is
 * the time since the handshake's last segment, or since the request, if that came later. AF_UNIX
 * has no such clock; its clients are never late.
 */
#ifndef BACKPRESSURE_LATENESS_H
#define BACKPRESSURE_LATENESS_H

#include "listeners.h"

/* The target in nanoseconds, or LIMIT_OFF. Two loads. */
uint64_t lateness_target(void);

/* How long the accepted `fd` waited, in nanoseconds; 0 when the kernel does not tell. */
uint64_t lateness_waited(int fd);

/* Whether who waited `waited_ns` at the listener, descriptor `fd`, is to be shed. Every accepted
 * client is shown here, since it is the short waits that tell that no queue stands. */
bool lateness_sheds(int fd, struct listener *listener, uint64_t waited_ns, uint64_t target_ns);

#endif
