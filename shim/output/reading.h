/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What stands behind the read family: whether a read on an admitted connection may have input now,
 * and how much (metering.h, pausing.h).
 */
#ifndef BACKPRESSURE_READING_H
#define BACKPRESSURE_READING_H

#include "output/flows.h"

#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

struct reading {
    int fd;
    struct flow *flow; /* NULL when the read is none of our business */
    bool refused;      /* and errno is set */
    bool peeks;
    bool requests; /* reading_make makes the call */
    size_t asked, allowed;
};

/* Who hears of a read, on any descriptor, that ended with ECONNRESET. Before the program runs. */
void reading_on_reset(void (*hear)(int fd));

/*
 * Before a read of `count` bytes with the `flags` of recv(2); and after it, returning its result.
 * It may be cut to fewer bytes, as by a slower network; but not below what the program knows is
 * there (it peeked, or asked FIONREAD) nor below SO_RCVLOWAT.
 */
struct reading reading_begin(int fd, size_t count, int flags);
ssize_t reading_end(const struct reading *reading, ssize_t result);

/*
 * Makes the call of a `reading` that says so, with at most what it is allowed: as recv(2) into
 * `buffer`, and as recvmsg(2), whose vector was cut already.
 */
ssize_t reading_make(const struct reading *reading, void *buffer, int flags);
ssize_t reading_make_message(const struct reading *reading, struct msghdr *message, int flags);

/* Bytes of a connection went where nobody sees them: splice(2). */
void reading_unseen(int fd);

#define READING_VECTORS 8

/* A vector cut to what may be read: the caller's own, when it may be read whole. */
struct reading_vector {
    struct iovec *vector;
    size_t count;
    struct iovec cut[READING_VECTORS];
};

struct reading reading_begin_vector(int fd, const struct iovec *vector, int count, int flags,
                                    struct reading_vector *out);

/* The same for recvmsg(2). One that takes control data is never cut: descriptors, credentials or a
 * record's type belong to all of the bytes that they came with. */
struct reading reading_begin_message(int fd, const struct msghdr *message, int flags,
                                     struct reading_vector *out);

/* Whether reads on `fd` may be cut, so that several messages are better read one at a time. One
 * that blocks waits for them all (recvmmsg(2)), and is not cut. */
bool reading_metered(int fd);

/* The program was told that so many bytes are there. */
void reading_told(int fd, int bytes);

/* It set SO_RCVLOWAT. */
void reading_low_water_set(int fd);

#endif
