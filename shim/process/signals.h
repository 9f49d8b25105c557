/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Waiting as accept does: signal(7) restarts a blocked accept after a handler that was installed
 * with SA_RESTART, and ends it with EINTR after one that was not. poll alone cannot tell which it
 * was.
 */
#ifndef BACKPRESSURE_SIGNALS_H
#define BACKPRESSURE_SIGNALS_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

enum wait_result { WAIT_READY, WAIT_TIMED_OUT, WAIT_INTERRUPTED, WAIT_FAILED };

/*
 * A wait made of several kernel calls keeps signals out of its own work in between: a handler that
 * ran there would not end the next call, and the program would never hear of it. They come in
 * while the kernel waits, through the mask that ppoll and its kin take.
 */
struct held_signals {
    sigset_t before; /* the thread's mask, as the program set it */
    bool held;
};

/* Holds back what can wait; does nothing when it is done already. Keeps errno. */
void signals_hold(struct held_signals *held);

/* The same, where the program has a handler that could run: two system calls saved otherwise. */
void signals_hold_handled(struct held_signals *held);

/* Ends that: handlers of what came meanwhile run here. Keeps errno. */
void signals_let_in(struct held_signals *held);

/* The same, for pthread_cleanup_push. */
void signals_let_in_at_end(void *held);

/* The mask for the kernel's wait: `asked`, the program's own for this call, or what it had. */
const sigset_t *signals_opened(const struct held_signals *held, const sigset_t *asked);

/*
 * Waits until `fd` (-1: none) is ready for `events` (of poll) or in error, at most `timeout_ms`
 * (-1: for ever). A cancellation point. `restartable` is whether a handler with SA_RESTART lets the
 * wait go on. From the first call on signals that have handlers are held, until the caller lets
 * them in.
 */
enum wait_result signals_poll(struct held_signals *held, int fd, short events, int timeout_ms,
                              bool restartable);

/*
 * Sleeps until the futex `word`, shared with other processes, moves on from `seen`, or for
 * `slice_ns` (shorter where a handler may end the wait). False when a signal's handler ends it, as
 * it would end accept; `restartable` as above.
 */
bool signals_sleep(struct held_signals *held, _Atomic uint32_t *word, uint32_t seen,
                   uint64_t slice_ns, bool restartable);

/* Whether handlers of both kinds exist, so that only signals_poll can tell which one ran. */
bool signals_mixed(bool restartable);

/* Lets in what came while signals were held; whether accept would have ended with EINTR. */
bool signals_ended_it(struct held_signals *held, bool restartable);

/* After a wait that cannot be made restartable ended with EINTR: whether accept would have, too. */
bool signals_would_interrupt(bool restartable);

/* Whether there is a handler that would end accept, as far as the program's own calls tell. */
bool signals_can_interrupt(bool restartable);

/* Handlers changed. */
void signals_changed(void);

#endif
