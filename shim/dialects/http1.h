/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the two files of HTTP/1.x share.
 */
#ifndef BACKPRESSURE_HTTP1_H
#define BACKPRESSURE_HTTP1_H

#include "dialects/request.h"

/* In http1_requests.c. */
extern const struct request_rules http1_requests;

/*
 * Writes a 503 with Retry-After, which is drawn anew for each, and returns its length; 0 when it
 * does not fit. `connection` is what its Connection field says, NULL: it has none. Without `body`
 * it is the answer to HEAD: RFC 9110, 15.6.4, 10.2.3 and 9.3.2.
 */
size_t http1_unavailable(const struct limits *limits, const char *connection, bool body, char *out,
                         size_t size);

#endif
