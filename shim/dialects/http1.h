/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the files of HTTP/1.x share.
 */
#ifndef BACKPRESSURE_HTTP1_H
#define BACKPRESSURE_HTTP1_H

#include "dialects/request.h"

/* In http1_requests.c. */
extern const struct request_rules http1_requests;

/* In http1_answers.c, as struct request_rules has them. */
enum answer_step http1_answer(struct request_stream *stream, const char *bytes, size_t length,
                              bool first);
void http1_unseen(struct request_stream *stream, size_t length);
void http1_refused(struct request_stream *stream);

/* The head of a request is whole: an answer to it is to come, by its bits in `flags`. */
void http1_asked(struct request_stream *stream);

/*
 * Writes a 503 with Retry-After, which is drawn anew for each, and returns its length; 0 when it
 * does not fit. `connection` is what its Connection field says, NULL: it has none. Without `body`
 * it is the answer to HEAD: RFC 9110, 15.6.4, 10.2.3 and 9.3.2.
 */
size_t http1_unavailable(const struct limits *limits, const char *connection, bool body, char *out,
                         size_t size);

#endif
