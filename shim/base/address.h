/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Socket addresses, as people read them: 127.0.0.1:80, [::1]:80, unix:/run/socket.
 */
#ifndef BACKPRESSURE_ADDRESS_H
#define BACKPRESSURE_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

/* The address of a socket's own end, or of its peer's; empty when it has none. Always terminates.
 */
void address_of(int fd, bool peer, char *out, size_t size);

/* The same of an address that a program gave. */
void address_text(const struct sockaddr *address, socklen_t length, char *out, size_t size);

#endif
