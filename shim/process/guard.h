/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Surviving a control segment whose file was truncated: mmap(2) promises SIGBUS for its pages.
 * The shim's handler for that one signal stands before the program's own, which sees all the rest.
 */
#ifndef BACKPRESSURE_GUARD_H
#define BACKPRESSURE_GUARD_H

#include <signal.h>
#include <stdbool.h>

void guard_install(void);

/*
 * sigaction(2) for a guarded signal: keeps the program's action for guard_install's handler to pass
 * on to. False when the signal is not guarded, and the real call is due.
 */
bool guard_sigaction(int signal_number, const struct sigaction *action, struct sigaction *before);

#endif
