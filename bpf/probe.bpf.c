/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Queue depths of every process's stream sockets, as the kernel has them.
 *
 * Two iterators walk all descriptors of all processes: `sockets` prints a table for people,
 * `measure` a stream of records for bpctl, which makes the map `depth` of it. Four small programs
 * see what a walk cannot: how long connections waited to be accepted, peaks, and what was turned
 * away. Each of these can be missing on an older kernel; then only its figure is.
 */
#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "kernel.h"
#include "probe.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define WAITING_MAX 65536
#define WAITS_MAX 16384
#define LISTENING_MAX 4096
#define TCP_FLAG_SYN 0x02
#define TCP_FLAG_ACK 0x10

/* When each connection that nobody accepted yet was established. The oldest give way. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, WAITING_MAX);
    __type(key, __u64); /* the kernel's address of the socket */
    __type(value, __u64);
} waiting SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, WAITS_MAX);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct accept_wait_key);
    __type(value, struct accept_wait);
} accept_wait SEC(".maps");

/* Written by bpctl after each walk. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, LISTENING_MAX);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct listening_key);
    __type(value, struct listening);
} listening SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, LISTENING_MAX);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct depth_key);
    __type(value, struct depth);
} depth SEC(".maps");

/* --- what one socket is like --- */

static __always_inline __u64 network_of(const struct sock *sk)
{
    return BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
}

static __always_inline __u32 ip_version_of(const struct sock *sk)
{
    __u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);
    return family == AF_INET ? 4 : family == AF_INET6 ? 6 : 0;
}

static __always_inline bool is_stream(const struct sock *sk)
{
    __u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);
    return (family == AF_INET || family == AF_INET6 || family == AF_UNIX) &&
           BPF_CORE_READ(sk, sk_type) == SOCK_STREAM;
}

static __always_inline void read_address(const struct sock *sk, char *out, __u32 size)
{
    __u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);
    if (family == AF_INET) {
        __u32 address = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
        BPF_SNPRINTF(out, size, "%pI4", &address);
    } else if (family == AF_INET6) {
        struct in6_addr address;
        BPF_CORE_READ_INTO(&address, sk, __sk_common.skc_v6_rcv_saddr);
        BPF_SNPRINTF(out, size, "%pI6c", &address);
    } else {
        const struct unix_sock *local = (const void *)sk;
        struct unix_address *name = BPF_CORE_READ(local, addr);
        if (!name)
            return;
        const char *path = (const char *)&name->name[0].sun_path;
        char first = 0;
        bpf_probe_read_kernel(&first, 1, path);
        if (first) {
            bpf_probe_read_kernel_str(out, size, path);
        } else {
            out[0] = '@';
            bpf_probe_read_kernel_str(out + 1, size - 1, path + 1);
        }
    }
}

static __always_inline void read_queues(const struct sock *sk, struct socket_record *record)
{
    bool local = BPF_CORE_READ(sk, __sk_common.skc_family) == AF_UNIX;
    if (record->state == PROBE_LISTENER) {
        record->accept_queue =
            local ? BPF_CORE_READ(sk, sk_receive_queue.qlen) : BPF_CORE_READ(sk, sk_ack_backlog);
        record->accept_queue_limit = BPF_CORE_READ(sk, sk_max_ack_backlog);
        record->drops = local ? 0 : (__u32)BPF_CORE_READ(sk, sk_drops.counter);
    } else if (!local) {
        const struct tcp_sock *tcp = (const void *)sk;
        __u32 written = BPF_CORE_READ(tcp, write_seq);
        record->send_queue_bytes = written - BPF_CORE_READ(tcp, snd_una);
        record->unsent_bytes = written - BPF_CORE_READ(tcp, snd_nxt);
        record->receive_queue_bytes = BPF_CORE_READ(tcp, rcv_nxt) - BPF_CORE_READ(tcp, copied_seq);
    }
}

/* Fills the record of a stream socket that listens or is connected; false for any other file. */
static __always_inline bool describe(const struct bpf_iter__task_file *context,
                                     struct socket_record *record)
{
    struct file *file = context->file;
    struct task_struct *task = context->task;
    if (!file || !task)
        return false;
    struct socket *socket = bpf_sock_from_file(file);
    if (!socket)
        return false;
    const struct sock *sk = BPF_CORE_READ(socket, sk);
    if (!sk || !is_stream(sk))
        return false;
    __u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);
    if (state == TCP_CLOSE)
        return false;
    record->state = state == TCP_LISTEN ? PROBE_LISTENER : PROBE_CONNECTION;
    record->process = (__u32)BPF_CORE_READ(task, tgid);
    BPF_CORE_READ_STR_INTO(&record->command, task, comm);
    record->network = network_of(sk);
    record->socket = (__u64)sk;
    record->cookie = (__u64)BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
    record->ip_version = ip_version_of(sk);
    if (record->ip_version)
        record->port = BPF_CORE_READ(sk, __sk_common.skc_num);
    else
        record->unix_inode = (__u32)BPF_CORE_READ(file, f_inode, i_ino);
    read_address(sk, record->address, sizeof record->address);
    read_queues(sk, record);
    return true;
}

SEC("iter/task_file")
int measure(struct bpf_iter__task_file *context)
{
    struct socket_record record = {};
    if (describe(context, &record))
        bpf_seq_write(context->meta->seq, &record, sizeof record);
    return 0;
}

SEC("iter/task_file")
int sockets(struct bpf_iter__task_file *context)
{
    struct seq_file *out = context->meta->seq;
    struct socket_record record = {};

    if (context->meta->seq_num == 0)
        BPF_SEQ_PRINTF(out, "%8s %-15s %5s %-10s %-39s %6s %6s %6s %10s %10s %10s\n", "PROCESS",
                       "COMMAND", "FD", "STATE", "LOCAL-ADDRESS", "PORT", "QUEUE", "LIMIT",
                       "SEND-Q", "UNSENT", "RECEIVE-Q");
    if (!describe(context, &record))
        return 0;
    BPF_SEQ_PRINTF(out, "%8u %-15s %5u %-10s %-39s %6u %6u %6u %10u %10u %10u\n", record.process,
                   record.command, context->fd,
                   record.state == PROBE_LISTENER ? "listening" : "connected", record.address,
                   record.port, record.accept_queue, record.accept_queue_limit,
                   record.send_queue_bytes, record.unsent_bytes, record.receive_queue_bytes);
    return 0;
}

/* --- what happens between two walks --- */

static __always_inline struct listening *listener_of(const struct sock *sk)
{
    struct listening_key key = {.network = network_of(sk),
                                .port = BPF_CORE_READ(sk, __sk_common.skc_num),
                                .ip_version = ip_version_of(sk)};
    return bpf_map_lookup_elem(&listening, &key);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(connection_established, const struct sock *sk, int before, int after)
{
    __u64 address = (__u64)sk, now;
    if (after == TCP_CLOSE) {
        bpf_map_delete_elem(&waiting, &address);
        return 0;
    }
    if (before != TCP_SYN_RECV || after != TCP_ESTABLISHED)
        return 0;
    now = bpf_ktime_get_ns();
    bpf_map_update_elem(&waiting, &address, &now, BPF_ANY);
    struct listening *listener = listener_of(sk);
    if (!listener)
        return 0;
    __sync_fetch_and_add(&listener->arrived, 1);
    /* The address was right at the last walk: what is there now is read with care. */
    const struct sock *queue = (const void *)listener->socket;
    __u64 length = BPF_CORE_READ(queue, sk_ack_backlog); /* with this one: tcp_check_req */
    if (BPF_CORE_READ(queue, __sk_common.skc_state) == TCP_LISTEN &&
        BPF_CORE_READ(queue, __sk_common.skc_num) == BPF_CORE_READ(sk, __sk_common.skc_num) &&
        length > listener->accept_queue_peak)
        listener->accept_queue_peak = length;
    return 0;
}

/* Eighths of a power of two: what is shown is at most an eighth off. */
static __always_inline void bucket_of(__u64 waited_us, struct accept_wait_key *key)
{
    __u64 width = 1;
    for (int i = 0; i < 28 && waited_us >= width * 16; i++)
        width *= 2;
    key->from_us = (__u32)(waited_us / width * width);
    key->below_us = key->from_us + (__u32)width;
}

static __always_inline void accepted(long fd)
{
    struct task_struct *task = (void *)bpf_get_current_task();
    struct file **table = BPF_CORE_READ(task, files, fdt, fd), *file = NULL;
    if (fd < 0 || (unsigned long)fd >= BPF_CORE_READ(task, files, fdt, max_fds))
        return;
    bpf_probe_read_kernel(&file, sizeof file, table + fd);
    const struct socket *socket = BPF_CORE_READ(file, private_data);
    const struct sock *sk = BPF_CORE_READ(socket, sk);
    __u64 address = (__u64)sk, *since = bpf_map_lookup_elem(&waiting, &address);
    if (!since)
        return;
    __u64 waited_us = (bpf_ktime_get_ns() - *since) / 1000;
    bpf_map_delete_elem(&waiting, &address);
    struct accept_wait_key key = {.process = bpf_get_current_pid_tgid() >> 32,
                                  .port = BPF_CORE_READ(sk, __sk_common.skc_num),
                                  .ip_version = ip_version_of(sk)};
    bucket_of(waited_us, &key);
    struct accept_wait first = {}, *wait = bpf_map_lookup_elem(&accept_wait, &key);
    if (!wait) {
        bpf_map_update_elem(&accept_wait, &key, &first, BPF_NOEXIST);
        wait = bpf_map_lookup_elem(&accept_wait, &key);
    }
    if (!wait)
        return;
    __sync_fetch_and_add(&wait->connections, 1);
    if (waited_us > wait->longest_us)
        wait->longest_us = waited_us;
}

SEC("tracepoint/syscalls/sys_exit_accept4")
int accept4_returned(struct trace_event_raw_sys_exit *context)
{
    accepted(context->ret);
    return 0;
}

SEC("tracepoint/syscalls/sys_exit_accept")
int accept_returned(struct trace_event_raw_sys_exit *context)
{
    accepted(context->ret);
    return 0;
}

/* A dropped segment, of which only a SYN that our gate (a socket filter) refused is counted here.
 */
SEC("tp_btf/kfree_skb")
int BPF_PROG(segment_dropped, const struct sk_buff *skb, void *where, int reason)
{
    bool gate =
        bpf_core_enum_value_exists(enum skb_drop_reason, SKB_DROP_REASON_SOCKET_FILTER) &&
        reason == (int)bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_SOCKET_FILTER);
    (void)where;
    if (!gate)
        return 0;
    const unsigned char *head = BPF_CORE_READ(skb, head);
    struct {
        __be16 source, to;
        __u8 numbers[9], flags;
    } __attribute__((packed)) segment = {};
    __u8 version = 0;
    bpf_probe_read_kernel(&segment, sizeof segment, head + BPF_CORE_READ(skb, transport_header));
    bpf_probe_read_kernel(&version, 1, head + BPF_CORE_READ(skb, network_header));
    if ((segment.flags & (TCP_FLAG_SYN | TCP_FLAG_ACK)) != TCP_FLAG_SYN)
        return 0;
    struct listening_key key = {.network = BPF_CORE_READ(skb, dev, nd_net.net, ns.inum),
                                .port = bpf_ntohs(segment.to),
                                .ip_version = version >> 4};
    struct listening *listener = bpf_map_lookup_elem(&listening, &key);
    if (listener)
        __sync_fetch_and_add(&listener->refused_by_gate, 1);
    return 0;
}
