/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the probe's maps and its stream of records hold. Plain numbers in host order, no padding:
 * what `bpftool map dump` prints is meant to be read.
 */
#ifndef BACKPRESSURE_PROBE_H
#define BACKPRESSURE_PROBE_H

#ifndef __bpf__
#include <linux/types.h>
#endif

#define PROBE_DIRECTORY "/sys/fs/bpf/backpressure"
#define PROBE_COMMAND 16
#define PROBE_ADDRESS 48

/* One process and what it listens at. Of AF_UNIX, which has no port, the socket's inode. */
struct depth_key {
    __u32 process;
    __u32 port;
    __u32 ip_version; /* 4 or 6; 0 for AF_UNIX */
    __u32 unix_inode;
};

/* Queues now; peaks since the probe was started. Times in microseconds. */
struct depth {
    char command[PROBE_COMMAND];
    char address[PROBE_ADDRESS];
    __u64 accept_queue;
    __u64 accept_queue_peak;
    __u64 accept_queue_limit;
    __u64 arrived;      /* connections that came to the listener since the probe was started */
    __u64 accept_waits; /* of those, accepted by this process while that was traced */
    __u64 accept_wait_p50_us;
    __u64 accept_wait_p99_us;
    __u64 accept_wait_max_us;
    __u64 dropped_queue_full; /* SYNs, since the probe was started */
    __u64 refused_by_gate;
    __u64 connections;
    __u64 connections_peak;
    __u64 send_queue_bytes; /* written, and not acknowledged */
    __u64 send_queue_peak;
    __u64 unsent_bytes; /* of these, not even sent */
    __u64 unsent_peak;
    __u64 receive_queue_bytes;
    __u64 receive_queue_peak;
};

/* How many connections waited in an accept queue at least so long, and less than the other. */
struct accept_wait_key {
    __u32 process;
    __u32 port;
    __u32 ip_version;
    __u32 from_us;
    __u32 below_us;
};

struct accept_wait {
    __u64 connections;
    __u64 longest_us;
};

/* A listening socket, wherever it is held: found by what a segment names. */
struct listening_key {
    __u64 network; /* inode of the network namespace */
    __u32 port;
    __u32 ip_version;
};

struct listening {
    __u64 socket; /* the kernel's address of it */
    __u64 arrived;
    __u64 accept_queue_peak;
    __u64 refused_by_gate;
};

enum probe_state { PROBE_CONNECTION, PROBE_LISTENER };

/* One socket of one process, in the stream that bpctl reads. */
struct socket_record {
    char command[PROBE_COMMAND];
    char address[PROBE_ADDRESS];
    __u64 network;
    __u64 cookie;
    __u64 socket; /* the kernel's address of it */
    __u32 process;
    __u32 state; /* enum probe_state */
    __u32 port;
    __u32 ip_version;
    __u32 unix_inode;
    __u32 accept_queue;
    __u32 accept_queue_limit;
    __u32 drops; /* sk_drops: whatever a listener did not take */
    __u32 send_queue_bytes;
    __u32 unsent_bytes;
    __u32 receive_queue_bytes;
    __u32 unused;
};

#endif
