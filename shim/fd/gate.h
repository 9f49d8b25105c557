/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The SYN gate: a classic BPF filter on a listener that drops the first segment of every new
 * connection, so that the client's TCP tries again with its own exponential backoff.
 */
#ifndef BACKPRESSURE_GATE_H
#define BACKPRESSURE_GATE_H

#include <stdbool.h>

/* Shuts or opens the gate on a TCP listener; SO_ATTACH_FILTER of socket(7) needs no privilege. */
bool gate_shut(int fd);
bool gate_open(int fd);

/* What the kernel has there: SO_GET_FILTER of socket(7) returns the filter itself. */
bool gate_is_shut(int fd);

/* Whether a filter is attached that is not the gate: the program's own, so hands off. */
bool gate_is_foreign(int fd);

#endif
