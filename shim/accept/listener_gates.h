/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The gates of listeners (gate.h): shut while nobody may come, or while refusals cost too much, and
 * opened when that is over.
 */
#ifndef BACKPRESSURE_LISTENER_GATES_H
#define BACKPRESSURE_LISTENER_GATES_H

#include "fd/listeners.h"

/* While queue=0 or a pause is in force: lets no SYN in, or lets them in again, as there is room. */
void listener_gates_follow(bool room);

/* Whether one of this process's listeners is gated, so that somebody must come back to open it. */
bool listener_gates_shut(void);

/* Opens the gates that this process knows of, whatever they were shut for. */
void listener_gates_open(void);

/* The shim lets go: gates are opened, and backlogs are what the program asked for. */
void listener_gates_release(void);

/* A socket accepted from a gated listener may have inherited the filter. */
void listener_gates_ungate_accepted(const struct listener *listener, int fd);

#endif
