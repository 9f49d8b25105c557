/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What becomes of a client that was taken out of the kernel's queue: let in, parked, or refused.
 */
#ifndef BACKPRESSURE_NEWCOMERS_H
#define BACKPRESSURE_NEWCOMERS_H

#include "accept/accept_call.h"
#include "limits/limits.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

/* Whether somebody comes back for those who are made to linger: see shedding.h. */
bool newcomers_attended(const struct admission *admission);

/*
 * Accepts one, and does what is to become of him: with a slot reserved he may be admitted, without
 * one he comes to be turned away, parked, or let in as exempt. A slot that he does not get has been
 * given back.
 */
struct accept_outcome newcomers_take(struct admission *admission);

/* Admits somebody from the waiting room, with the slot that is reserved, or ACCEPT_NOBODY. */
struct accept_outcome newcomers_admit_parked(struct admission *admission);

/* Hands out an exempt client from the waiting room, who needs no slot, or ACCEPT_NOBODY. */
struct accept_outcome newcomers_admit_exempt(const struct admission *admission);

/* Gives the slot back if one is reserved still. errno may change. While the caller has the listener
 * for itself, whoever was woken for the slot could but wait for the listener, a process for each
 * refusal: newcomers_wake does it later. */
void newcomers_give_slot_back(struct admission *admission);
void newcomers_wake(struct admission *admission);

/* Charges what refusals cost since the last time: the clock is a system call, so not for each. */
void newcomers_bill(struct admission *admission);

/* While the waiting room is occupied: turns away who must not wait there any longer: the late, and
 * everybody but the exempt where clients are not held and the slots are taken. */
void newcomers_attend(void);

/* What `when-full` says. */
enum when_full newcomers_when_full(void);

#endif
