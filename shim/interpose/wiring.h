/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who hears of what: lower rooms name what they tell, and here it is written down which of the
 * rooms above them listens. So no room includes one that is above it.
 */
#ifndef BACKPRESSURE_WIRING_H
#define BACKPRESSURE_WIRING_H

/* Once, before a service is joined. */
void wiring_connect(void);

#endif
