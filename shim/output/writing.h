/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What stands behind the write family on an admitted connection.
 *
 * While the kernel alone bounds it, a call is passed on as it is, and its result looked at. Where
 * credit can run out, a rate applies or a stall counts, the same bytes go as sendmsg with
 * MSG_DONTWAIT: as many system calls as before, but one that comes back short can ask for more
 * credit. A blocking descriptor's wait is then made here, and ends as the kernel's own would: by
 * room, a signal, SO_SNDTIMEO, an error or cancellation, with the bytes taken so far as the result.
 */
#ifndef BACKPRESSURE_WRITING_H
#define BACKPRESSURE_WRITING_H

#include "output/flows.h"

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* As writev(2) and sendmsg(2), with their errors. `flow` is flow_of(fd), not NULL. */
ssize_t writing_vector(int fd, struct flow *flow, const struct iovec *vector, int count, int flags);
ssize_t writing_message(int fd, struct flow *flow, const struct msghdr *message, int flags);

/* The bytes of a message, as far as one call can write them; 0 when it has too many parts. */
size_t writing_length(const struct msghdr *message);

/* Whether a call on this connection must go through writing_vector, rather than be passed on. */
static inline bool writing_carefully(const struct flow *flow)
{
    return atomic_load_explicit(&flow->careful, memory_order_relaxed);
}

/*
 * After a call that was passed on: `wanted` bytes of `vector` were to be written, `result` is what
 * it returned. NULL: they are of a file or a pipe, which may have ended, so that less was not for
 * want of room.
 */
void writing_passed(int fd, struct flow *flow, const struct iovec *vector, size_t wanted,
                    ssize_t result);

/* Before it. */
void writing_passes(int fd, struct flow *flow);

/*
 * sendfile(2) on a connection, in pieces that fit, for a blocking descriptor. `send` makes the call
 * for at most `count` bytes.
 */
ssize_t writing_pieces(int fd, struct flow *flow, size_t count,
                       ssize_t (*send)(size_t count, void *context), void *context);

/* The error that ended a write half way, told by the next call on the connection: 0 if none. */
int writing_late_error(struct flow *flow);

#endif
