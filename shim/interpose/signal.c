/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/real.h"
#include "interpose/interpose.h"
#include "process/guard.h"
#include "process/signals.h"

#include <signal.h>

INTERPOSE int sigaction(int signal_number, const struct sigaction *restrict action,
                        struct sigaction *restrict before)
{
    if (guard_sigaction(signal_number, action, before))
        return 0;
    int result = REAL(sigaction)(signal_number, action, before);
    if (action)
        signals_changed();
    return result;
}

INTERPOSE signal_handler signal(int signal_number, signal_handler handler)
{
    struct sigaction action = {.sa_flags = SA_RESTART}, before;
    action.sa_handler = handler;
    if (guard_sigaction(signal_number, &action, &before))
        return before.sa_handler;
    signal_handler result = REAL(signal)(signal_number, handler);
    signals_changed();
    return result;
}
