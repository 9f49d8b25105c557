/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Comparing the slots with the kernel, so that a close the shim never saw does not eat one for
 * good.
 */
#ifndef BACKPRESSURE_AUDIT_H
#define BACKPRESSURE_AUDIT_H

#include <stdint.h>

/* When a process joins: whoever is the first finds out what audits can see here. */
void audit_prepare(void);

/*
 * Does what is due, cheapest first: dead processes; descriptors of this process that are no longer
 * the connection they were; slots whose connection nobody holds any more (lost.h). Each is due
 * again after hundreds of times what it took, so that all audits together stay below one percent of
 * a core. Called while a ceiling is reached, before somebody is refused or goes on waiting.
 */
void audit_run(void);

/* Recounts what one client address (an index) has open, when that is due. */
void audit_peer(uint32_t peer);

/* A forked child does not inherit an audit that another thread of its parent was at. */
void audit_after_fork_in_child(void);

#endif
