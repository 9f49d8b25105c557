/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections whose last close the shim did not see: by a system call that no library sees, by
 * SIGKILL, in a program that is not under it. Their slots are found, and freed on proof.
 *
 * Three looks, each dearer and narrower than the one before:
 *
 *   1. What sock_diag lists is held. What it does not is under suspicion, no more: it passes
 * sockets over while its table changes, and does not know connections that were reset.
 *   2. An exact look-up of a suspect, by what was remembered when it was listed once, may find it
 *      after all; or find that the kernel has it still and no descriptor is left, which is proof.
 *   3. Otherwise its proof is that none of those who may hold it does, by their descriptors in
 *      /proc: its holders', and where others may, everybody's. They are gone through twice, because
 *      a descriptor may be moved under the first look. Who cannot be looked at may hold it: his
 *      slots are kept until he closes them, or ends.
 *
 * Where sock_diag is refused, everything is under suspicion, and the third look decides alone.
 */
#ifndef BACKPRESSURE_LOST_H
#define BACKPRESSURE_LOST_H

#include <stdint.h>

/* Finds out what the kernel tells here, for bpctl to show before there is anything to look for. */
void lost_prepare(void);

/* Looks at all slots that were filled before now. Frees what is lost; returns how many. Not
 * reentrant: false starts are the caller's to prevent. Async-signal-safe; errno is not kept. */
uint32_t lost_find(void);

/* Frees what this process watched (witness.h) and nobody holds any more; returns how many. */
uint32_t lost_watched(void);

#endif
