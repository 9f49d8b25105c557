/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What goes on while the probe is loaded: ten times a second, or less often where a walk is dear,
 * every process's sockets are walked, the map `depth` is published, and each service's segment is
 * told.
 */
#ifndef BPCTL_FEEDER_H
#define BPCTL_FEEDER_H

#include "loader.h"

#include <signal.h>

struct feeder;

/* NULL when memory is short. The loader stays the caller's. */
struct feeder *feeder_new(struct loader *loader);
void feeder_free(struct feeder *feeder);

/* One walk. The processor time it took, in nanoseconds, and how many sockets there were. */
__u64 feeder_walk(struct feeder *feeder, size_t *sockets);

/* Walks until `stop` is set. */
void feeder_run(struct feeder *feeder, const volatile sig_atomic_t *stop);

#endif
