/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Chance, so that many do not do the same at the same moment. Not for secrets.
 */
#ifndef BACKPRESSURE_CHANCE_H
#define BACKPRESSURE_CHANCE_H

#include <stdint.h>

/* A number from 0 to `most`, all as likely. Async-signal-safe. */
uint64_t chance_up_to(uint64_t most);

/* A forked child would draw what its parent draws. */
void chance_after_fork_in_child(void);

#endif
