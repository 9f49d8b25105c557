/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Waiting as accept does: signal(7) restarts a blocked accept after a handler that was installed
 * with SA_RESTART, and ends it with EINTR after one that was not. poll alone cannot tell which it
 * was.
 */
#ifndef BACKPRESSURE_SIGNALS_H
#define BACKPRESSURE_SIGNALS_H

#include <stdbool.h>
#include <stdint.h>

enum wait_result { WAIT_READY, WAIT_TIMED_OUT, WAIT_INTERRUPTED, WAIT_FAILED };

/*
 * Waits until `fd` (-1: none) is ready for `events` (of poll) or in error, at most `timeout_ms`
 * (-1: for ever). A cancellation point. `restartable` is whether a handler with SA_RESTART lets the
 * wait go on.
 */
enum wait_result signals_poll(int fd, short events, int timeout_ms, bool restartable);

/* Whether handlers of both kinds exist, so that only signals_poll can tell which one ran. */
bool signals_mixed(bool restartable);

/* After a wait that cannot be made restartable ended with EINTR: whether accept would have, too. */
bool signals_would_interrupt(bool restartable);

/* Handlers changed. */
void signals_changed(void);

#endif
