/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Reaching into running processes, so that a change is in force while they sleep in a wait.
 */
#ifndef BPCTL_LIVE_H
#define BPCTL_LIVE_H

#include "services.h"

/*
 * Brings the backlog of every listener of the service in line with `queue`, and its SYN gate with
 * pause and resume, through a copy of the descriptor (pidfd_getfd(2)). Where that is not permitted,
 * each process does it itself the next time it comes to wait or to accept.
 */
void live_apply_listeners(const struct service_file *service);

#endif
