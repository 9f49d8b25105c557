/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Variables that several rooms share, which are nobody's outside the shim. -fvisibility=hidden says
 * so of definitions only: a declaration without this has its address looked up at every use, an
 * instruction more on the way of calls that are none of the shim's business.
 */
#ifndef BACKPRESSURE_INTERNAL_H
#define BACKPRESSURE_INTERNAL_H

#define INTERNAL __attribute__((visibility("hidden")))

#endif
