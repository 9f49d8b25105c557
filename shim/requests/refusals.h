/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Refusing a request that waits in its connection's socket, in its protocol: it is taken out whole
 * and answered, and the connection stays. Where its end is not there yet, the rest is passed over
 * as it comes, if its protocol allows that; otherwise, or if it ends the connection by itself, the
 * answer says so, and the program sees the end of input.
 */
#ifndef BACKPRESSURE_REFUSALS_H
#define BACKPRESSURE_REFUSALS_H

#include "requests/look_ahead.h"

enum refusal {
    REFUSAL_GIVEN,  /* the request is gone, the connection as before it */
    REFUSAL_CLOSES, /* the program is to read the end of input, or the reset */
    REFUSAL_NOT, /* it cannot be refused: its client would not understand, or cannot be told now */
};

enum refusal_reason { REFUSED_LATE, REFUSED_FULL };

/* Refuses the request that `ahead` tells of; `how` is WHEN_FULL_RESET or, for all else, an answer.
 * errno is kept. */
enum refusal refuse_ahead(int fd, struct request *request, struct ahead *ahead, enum when_full how,
                          enum refusal_reason reason);

/* Takes out what has come of a request that was refused before its end was there. Whether that has
 * ended, or the connection has; otherwise there is nothing else. errno is kept. */
bool refusals_pass_over(int fd, struct request *request);

/* Refuses a whole request that was read already, of which the program knows nothing yet. */
enum refusal refuse_in_hand(int fd, struct request *request, enum when_full how,
                            enum refusal_reason reason);

/* The client of what waits, so many bytes, is gone, and nobody begins it: the program reads the
 * error that there is behind it. */
void refuse_broken(int fd, struct request *request, size_t unread);

/* The program closes a connection whose request is in line, since it has heard nothing of the
 * client for long: the client is told, which would otherwise see a reset. Before the close; errno
 * is kept. */
void refuse_at_close(int fd, struct request *request);

#endif
