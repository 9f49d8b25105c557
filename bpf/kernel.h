/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The few members of kernel structures that the probe reads. libbpf finds where they are in the
 * kernel that runs (CO-RE), so neither their order here nor what is left out matters, and no BTF is
 * needed to build.
 */
#ifndef BACKPRESSURE_KERNEL_H
#define BACKPRESSURE_KERNEL_H

#define AS_IN_KERNEL __attribute__((preserve_access_index))

typedef _Bool bool;
#define true 1
#define false 0
enum { AF_UNIX = 1, AF_INET = 2, AF_INET6 = 10 };
enum { TCP_ESTABLISHED = 1, TCP_SYN_RECV = 3, TCP_CLOSE = 7, TCP_LISTEN = 10 };
enum { SOCK_STREAM = 1, IPPROTO_TCP = 6 };

struct in6_addr {
    __u8 bytes[16];
};

struct ns_common {
    unsigned int inum;
} AS_IN_KERNEL;

struct net {
    struct ns_common ns;
} AS_IN_KERNEL;

typedef struct {
    struct net *net;
} possible_net_t;

typedef struct {
    int counter;
} atomic_t;

typedef struct {
    __s64 counter;
} atomic64_t;

struct sock_common {
    unsigned short skc_family;
    volatile unsigned char skc_state;
    __u16 skc_num;
    __u32 skc_rcv_saddr;
    struct in6_addr skc_v6_daddr;
    struct in6_addr skc_v6_rcv_saddr;
    possible_net_t skc_net;
    atomic64_t skc_cookie;
} AS_IN_KERNEL;

struct sk_buff_head {
    __u32 qlen;
} AS_IN_KERNEL;

struct sock {
    struct sock_common __sk_common;
    __u32 sk_ack_backlog;
    __u32 sk_max_ack_backlog;
    atomic_t sk_drops;
    __u16 sk_type;
    struct sk_buff_head sk_receive_queue;
} AS_IN_KERNEL;

struct tcp_sock {
    __u32 write_seq;
    __u32 snd_una;
    __u32 snd_nxt;
    __u32 rcv_nxt;
    __u32 copied_seq;
} AS_IN_KERNEL;

struct inode {
    unsigned long i_ino;
} AS_IN_KERNEL;

struct socket {
    struct sock *sk;
} AS_IN_KERNEL;

struct file {
    void *private_data;
    struct inode *f_inode;
} AS_IN_KERNEL;

struct fdtable {
    unsigned int max_fds;
    struct file **fd;
} AS_IN_KERNEL;

struct files_struct {
    struct fdtable *fdt;
} AS_IN_KERNEL;

struct task_struct {
    int tgid;
    char comm[16];
    struct files_struct *files;
} AS_IN_KERNEL;

struct sockaddr_un {
    __u16 sun_family;
    char sun_path[108];
} AS_IN_KERNEL;

struct unix_address {
    int len;
    struct sockaddr_un name[0];
} AS_IN_KERNEL;

struct unix_sock {
    struct unix_address *addr;
} AS_IN_KERNEL;

struct net_device {
    possible_net_t nd_net;
} AS_IN_KERNEL;

struct sk_buff {
    struct net_device *dev;
    unsigned char *head;
    __u16 transport_header;
    __u16 network_header;
} AS_IN_KERNEL;

enum skb_drop_reason {
    SKB_DROP_REASON_SOCKET_FILTER,
};

struct seq_file;

struct bpf_iter_meta {
    struct seq_file *seq;
    __u64 seq_num;
} AS_IN_KERNEL;

struct bpf_iter__task_file {
    struct bpf_iter_meta *meta;
    struct task_struct *task;
    __u32 fd;
    struct file *file;
} AS_IN_KERNEL;

struct trace_event_raw_sys_exit {
    long id;
    long ret;
} AS_IN_KERNEL;

#endif
