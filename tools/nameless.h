/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Services whose file has lost its name: see ../shim/segment/finding.h.
 */
#ifndef BPCTL_NAMELESS_H
#define BPCTL_NAMELESS_H

#include "service_file.h"

struct nameless_wanted {
    const char *name;
    bool any_owner;
    uid_t owner; /* unless any_owner */
};

/* Opens the service; closed with service_close. Its processes run. False, without a word, when
 * there is none. */
bool nameless_find(const struct nameless_wanted *wanted, struct service_file *service);

/* Visits all of them, as services_each does. */
void nameless_each(void (*visit)(struct service_file *service, enum segment_result result,
                                 void *context),
                   void *context);

#endif
