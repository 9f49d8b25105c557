/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the kernel tells of a TCP socket: getsockopt(2) with TCP_INFO, see tcp(7). Its structure is
 * <linux/tcp.h>'s, where the fields that came after Linux 4.0 are, and which cannot be included
 * beside <netinet/tcp.h>.
 */
#ifndef BACKPRESSURE_TCP_STATE_H
#define BACKPRESSURE_TCP_STATE_H

#include <stdbool.h>
#include <stdint.h>

struct tcp_state {
    bool known;         /* false: it is no TCP socket, or the kernel would not say; all else is 0 */
    bool is_closed;     /* no connection: reset, timed out, or never one */
    bool peer_ended;    /* the peer has closed its side, and the program has not */
    bool tells_acked;   /* `bytes_acked` is known: since Linux 4.1 */
    uint32_t waiting;   /* of a listener: connections in its accept queue */
    uint32_t backlog;   /* of a listener: how long that queue may be */
    uint64_t acked_ago; /* since the last acknowledgement came, in nanoseconds, to a millisecond */
    uint64_t input_ago; /* the same since the last data came */
    uint64_t bytes_acked;    /* that the peer acknowledged */
    uint64_t bytes_received; /* and that came from it; 0 before Linux 4.1 */
};

/* Asks about the socket at `fd`, with one system call. Async-signal-safe; keeps errno. */
struct tcp_state tcp_state_of(int fd);

/*
 * Dissolves the connection at `fd` with a RST, whoever else holds the descriptor, and leaves it to
 * the program to close: reads and writes then say ECONNRESET, as after a reset by the peer. It is
 * connect(2) to AF_UNSPEC (tcp_disconnect). False when the kernel would not. Async-signal-safe;
 * errno is not kept.
 */
bool tcp_dissolve(int fd);

#endif
