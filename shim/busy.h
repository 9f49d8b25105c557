/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * 'Server busy' in the client's own protocol: recognising it, and composing the answer.
 */
#ifndef BACKPRESSURE_BUSY_H
#define BACKPRESSURE_BUSY_H

#include "limits.h"

#include <stdbool.h>
#include <stddef.h>

#define BUSY_REPLY_MAX 512

enum busy_protocol { BUSY_IN_HTTP, BUSY_IN_TEXT };

enum busy_recognition { BUSY_RECOGNISED, BUSY_UNDECIDED, BUSY_UNKNOWN };

/* The protocol that the operator chose; false for `auto`, which has to look. */
bool busy_protocol_of(enum busy_reply chosen, enum busy_protocol *protocol);

/* The protocol that a client speaks whose first `length` bytes are `sent`. */
enum busy_recognition busy_recognise(const char *sent, size_t length, enum busy_protocol *protocol);

/*
 * Writes the answer, at most `size` (BUSY_REPLY_MAX holds any), and returns its length. Retry-After
 * is drawn anew, uniformly, for every answer, so that the refused do not come back together.
 */
size_t busy_compose(enum busy_protocol protocol, const struct limits *limits, char *out,
                    size_t size);

#endif
