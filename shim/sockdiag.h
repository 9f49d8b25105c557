/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Asking the kernel which sockets exist: sock_diag(7), which needs no privilege.
 */
#ifndef BACKPRESSURE_SOCKDIAG_H
#define BACKPRESSURE_SOCKDIAG_H

#include <stdbool.h>
#include <stdint.h>

/* What identifies one socket to sock_diag: noted while a descriptor is still at hand. */
struct sockdiag_socket {
    int family; /* AF_INET, AF_INET6, AF_UNIX, or 0 when it could not be noted */
    uint64_t cookie;
    uint32_t inode;
    uint16_t ports[2]; /* network order: local, remote */
    uint8_t addresses[2][16];
};

enum sockdiag_answer { SOCKDIAG_HELD, SOCKDIAG_GONE, SOCKDIAG_UNKNOWN };

/* The kernel's identity of a socket, or 0 when `fd` is none. */
uint64_t sockdiag_cookie(int fd);

/* Notes what sockdiag_ask needs. */
void sockdiag_note(int fd, struct sockdiag_socket *socket);

/* Whether any process still holds a noted socket. UNKNOWN when the kernel cannot be asked. */
enum sockdiag_answer sockdiag_ask(const struct sockdiag_socket *socket);

/* A listening or held socket in a dump. */
struct sockdiag_entry {
    uint64_t cookie;
    uint32_t inode;    /* 0: no process holds it */
    uint32_t queue;    /* listeners: connections waiting; others: bytes not yet acknowledged */
    uint32_t backlog;  /* listeners: how many may wait */
    uint32_t received; /* others: bytes not yet read */
    uint8_t state;     /* TCP_ESTABLISHED and so on */
    uint8_t family;
    uint16_t port;       /* the socket's own, in host order; 0 for AF_UNIX */
    uint8_t address[16]; /* likewise, in network order */
};

typedef void (*sockdiag_visit)(const struct sockdiag_entry *entry, void *context);

/* Visits every stream socket of `family`: listeners, or all the others. False when refused. */
bool sockdiag_dump(int family, bool listeners, sockdiag_visit visit, void *context);

#endif
