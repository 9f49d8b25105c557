/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Credit: how many bytes the kernel may hold for each connection.
 *
 * A connection's grant is its SO_SNDBUF, and the grants of a process sum to at most `buffer`, those
 * of the service to at most `total-buffer`: the kernel then keeps the ceiling, whatever path the
 * bytes take. What one connection is to have of what is free is policy/credit_shares.h's to say: a
 * small grant at first, more when a write comes back short. Who runs short makes the idle return
 * what they do not use.
 *
 * With so much free that the kernel's own growth (tcp_wmem) is affordable, a connection is granted
 * that, and no option is set at all.
 *
 * The kernel may exceed a grant by one segment, up to 64 KiB on loopback: it looks for room before
 * it starts one, not while it fills it (tcp_sendmsg).
 */
#ifndef BACKPRESSURE_CREDIT_H
#define BACKPRESSURE_CREDIT_H

#include "output/flows.h"

#include <sys/socket.h>

/* First grants for who is admitted; in line with the limits when those change. */
extern const struct flow_feature credit_feature;

/* Makes the idle return what they do not use, if that is due. */
void credit_reclaim(void);

/* After a write came back short: gives it more. False when there is none, or it has all it may. */
bool credit_grow(int fd, struct flow *flow);

/* After a write came back short: measures what is queued, if that is due. */
void credit_measure(void);

/*
 * Whether a wait must not last as long as the program says, because connections stand still, or
 * credit is short; and the longest it may then last, in nanoseconds (-1: as long as it likes).
 */
int64_t credit_slice(void);

/* Returns what the connection does not use, and reports what the kernel holds for it, in bytes. */
uint32_t credit_shrink(int fd, struct flow *flow);

/* The most that the connection may ever have, in KiB. */
uint64_t credit_most(const struct flow *flow);

/*
 * AF_UNIX: makes room for a message of `bytes` to be one piece in the queue, which a socket buffer
 * of less than twice that cuts (net/unix/af_unix.c). True when the grant was exceeded for that,
 * and credit_lent_back is due after the call.
 */
bool credit_lend(int fd, const struct flow *flow, size_t bytes);
void credit_lent_back(int fd, struct flow *flow);

/* Whether the kernel alone decides how much it holds for this connection. */
bool credit_is_kernels(const struct flow *flow);

/*
 * What setsockopt and getsockopt are to do with SO_SNDBUF and TCP_NOTSENT_LOWAT of a connection:
 * the program gets what it asks for up to its grant, and is told what it would be told without the
 * shim. Return true when the call is dealt with, and `result` is what it returns.
 */
bool credit_option_set(int fd, int level, int name, const void *value, socklen_t length,
                       int *result);
bool credit_option_get(int fd, int level, int name, void *value, socklen_t *length, int *result);

#endif
