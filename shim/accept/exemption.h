/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who is let in whatever the ceilings say: `exempt` by the client's address, `exempt-request` by
 * the path of the first request, which has to be there for that.
 */
#ifndef BACKPRESSURE_EXEMPTION_H
#define BACKPRESSURE_EXEMPTION_H

#include "dialects/dialect.h"

#include <stdbool.h>
#include <sys/socket.h>

/* Whether anybody may be exempt, so that a full service has to look at who waits. A load or two. */
bool exemption_possible(void);

/* Whether the address lies in one of the networks of `exempt`. */
bool exemption_by_address(const struct sockaddr_storage *from);

/* Whether what waits in the connection `fd` begins with a request that exempt-request names;
 * BUSY_UNDECIDED as long as too little has come. One system call where that is set, and none
 * otherwise. */
enum busy_recognition exemption_by_request(int fd);

#endif
