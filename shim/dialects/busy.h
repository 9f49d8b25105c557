/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * 'Server busy' in the client's own protocol: recognising it, and composing the answer.
 */
#ifndef BACKPRESSURE_BUSY_H
#define BACKPRESSURE_BUSY_H

#include "dialects/dialect.h"

#define BUSY_REPLY_MAX 512

#define DIALECT(id, symbol, choice) BUSY_IN_##id,
enum busy_protocol {
#include "limits/dialects.def"
    BUSY_PROTOCOLS
};
#undef DIALECT

/*
 * The protocol to answer in: the operator's choice, or for `auto` what the client's first bytes
 * are, or, in protocols where the server speaks first, what the program or the port is known for.
 */
enum busy_recognition busy_recognise(enum busy_reply chosen, const struct busy_client *client,
                                     enum busy_protocol *protocol);

/* Whether the client has said all it will say before it reads: then no answer can be lost by
 * closing at once. */
bool busy_has_all(enum busy_protocol protocol, const struct busy_client *client);

/*
 * Writes the answer, at most `size` (BUSY_REPLY_MAX holds any), and returns its length. Retry-After
 * is drawn anew, uniformly, for every answer, so that the refused do not come back together.
 */
size_t busy_compose(enum busy_protocol protocol, const struct limits *limits,
                    const struct busy_client *client, char *out, size_t size);

#endif
