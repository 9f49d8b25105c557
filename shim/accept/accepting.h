/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What stands behind accept and accept4, and what a wait makes of a listener that is ready: an
 * attempt goes through turns.h, reservation.h and newcomers.h, and waits by accept_wait.h.
 */
#ifndef BACKPRESSURE_ACCEPTING_H
#define BACKPRESSURE_ACCEPTING_H

#include "fd/listeners.h"

#include <sys/socket.h>

/*
 * accept4(2), with its errors, for a program whose ceilings may be reached: a blocking listener
 * then waits for a slot as it would wait for a client (EINTR, SO_RCVTIMEO and cancellation
 * included), a non-blocking one has nobody to accept (EAGAIN), or clients are refused, as
 * `when-full` says.
 */
int accepting_accept(int fd, struct sockaddr *address, socklen_t *length, int flags);

/* The same for accept(2), which is left to be accept where a sandbox may know no accept4. */
int accepting_accept_plain(int fd, struct sockaddr *address, socklen_t *length);

/*
 * What a wait makes of a listener that the kernel reports readable. Clients that the program's
 * accept would turn away are turned away here, so that it finds somebody when it was told that
 * there is somebody. To see whether one is to be turned away it may have to be accepted: then it
 * waits in the waiting room for the program's accept, which is reported all the same.
 */
enum report {
    REPORT_NOW,
    REPORT_LATER,  /* somebody waits, for a slot or because enough were turned away at a time */
    REPORT_NOBODY, /* they are gone */
};
enum report accepting_screen(struct listener *listener, int fd);

#endif
