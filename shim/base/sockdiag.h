/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Asking the kernel which sockets exist: sock_diag(7), which needs no privilege.
 */
#ifndef BACKPRESSURE_SOCKDIAG_H
#define BACKPRESSURE_SOCKDIAG_H

#include <stdbool.h>
#include <stdint.h>

/* The kernel's SO_COOKIE, or 0 when `fd` is no socket or the kernel does not tell. */
uint64_t sockdiag_cookie(int fd);

/* The inode of a socket, by which /proc and sock_diag know it, too; 0 where fstat does not tell. */
uint64_t sockdiag_inode(int fd);

/* Either, for what must be told apart where one of them cannot be had: the cookie, or the inode
 * with SOCKDIAG_BY_INODE set, or 0. */
#define SOCKDIAG_BY_INODE (UINT64_C(1) << 63)
uint64_t sockdiag_identity(int fd);

enum sockdiag_same { SOCKDIAG_SAME, SOCKDIAG_OTHER, SOCKDIAG_UNTOLD };

/* Whether `fd` still is the socket with that inode. UNTOLD when the kernel would not say, which is
 * no proof of anything, or when the inode was not known. */
enum sockdiag_same sockdiag_is(int fd, uint64_t inode);

/* What an exact look-up needs to find one socket: see sockdiag_remember. */
struct sockdiag_socket {
    uint64_t cookie;
    uint32_t inode;
    uint32_t interface; /* that it is bound to, or 0 */
    uint16_t family;    /* AF_INET, AF_INET6, AF_UNIX, or 0: nothing is known */
    uint16_t ports[2];  /* network order: local, remote */
    uint8_t addresses[2][16];
};

/*
 * What an exact look-up says. Of TCP, ABSENT is no proof that nobody holds it: a connection that
 * was reset leaves the kernel's tables at once (tcp_set_state, TCP_CLOSE), while its descriptors
 * stay.
 */
enum sockdiag_answer {
    SOCKDIAG_HELD,
    SOCKDIAG_ORPHANED, /* it is there, and no descriptor is */
    SOCKDIAG_ABSENT,
    SOCKDIAG_UNKNOWN, /* the kernel cannot be asked */
};

/*
 * Looks one socket up. ENOENT is also what a kernel says that lacks the module for the family: only
 * for families that sockdiag_dump lists does ABSENT mean anything.
 */
enum sockdiag_answer sockdiag_ask(const struct sockdiag_socket *socket);

/* A listening or held socket in a dump. */
struct sockdiag_entry {
    uint64_t cookie;
    uint32_t inode; /* 0: no process holds it */
    uint32_t interface;
    uint32_t queue;    /* listeners: connections waiting; others: bytes not yet acknowledged */
    uint32_t backlog;  /* listeners: how many may wait */
    uint32_t received; /* others: bytes not yet read */
    uint8_t state;     /* TCP_ESTABLISHED and so on */
    uint8_t family;
    uint16_t port;       /* the socket's own, in host order; 0 for AF_UNIX */
    uint8_t address[16]; /* likewise, in network order */
    uint16_t remote_port;
    uint8_t remote_address[16];
};

/* Keeps of an entry what sockdiag_ask needs to find the same socket later. */
void sockdiag_remember(const struct sockdiag_entry *entry, struct sockdiag_socket *socket);

typedef void (*sockdiag_visit)(const struct sockdiag_entry *entry, void *context);

/*
 * Visits the stream sockets of `family` in the caller's network namespace: listeners, or all the
 * others. False when the kernel did not list them to the end; errno says why. What a whole dump
 * does not show may exist all the same: it goes on where its last message ended by counting sockets
 * in a hash chain (inet_diag's s_num), so one that closes makes it pass over another; and what was
 * reset is not in the table.
 */
bool sockdiag_dump(int family, bool listeners, sockdiag_visit visit, void *context);

#endif
