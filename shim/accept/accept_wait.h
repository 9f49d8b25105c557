/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How a blocking accept waits at a ceiling: as it would for a client, with EINTR, SO_RCVTIMEO and
 * cancellation.
 */
#ifndef BACKPRESSURE_ACCEPT_WAIT_H
#define BACKPRESSURE_ACCEPT_WAIT_H

#include "accept/accept_call.h"

/* Until a slot may be free. False with errno set when the accept must end. */
bool accept_wait_for_slot(struct accept_wait *wait);

/* With a slot in sight: until there is a client. As above. */
bool accept_wait_for_client(struct accept_wait *wait);

/* Whether the listener has an error, or listens no more: the real accept tells. */
bool accept_wait_broken(int fd);

#endif
