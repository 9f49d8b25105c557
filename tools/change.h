/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Changing a running service: its limits, and whether it admits.
 */
#ifndef BPCTL_CHANGE_H
#define BPCTL_CHANGE_H

#include "commands.h"
#include "services.h"

#define CHANGE_WHY_MAX (LIMIT_ERROR_MAX + 96)

/*
 * Sets `pairs` (LIMIT=VALUE, ended by NULL) for the service, or for its process `pid` when that is
 * not 0: all of them, or none. In force when this returns. On failure `why` has one line.
 */
enum exit_code change_limits(struct service_file *service, uint32_t pid, char **pairs,
                             char why[CHANGE_WHY_MAX]);

/* Opens or shuts the service's door, and records it as an event. Fails when nothing of it runs. */
enum exit_code change_admission(struct service_file *service, enum admission_switch to,
                                char why[CHANGE_WHY_MAX]);

#endif
