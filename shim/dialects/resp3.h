/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Answers of version 3 of Redis' protocol, in which messages that answer nothing stand between them
 * (push messages: a key that the client has cached was changed).
 *
 * Pure, as all that request.h has.
 */
#ifndef BACKPRESSURE_RESP3_H
#define BACKPRESSURE_RESP3_H

#include "dialects/request.h"

/* The next byte that the program writes begins a message. */
void resp3_begin(struct request_stream *stream);

/* Takes bytes that the program wrote; *step as request_rules.answer has it. False when they are not
 * of that protocol: nothing can be told of those that follow. */
bool resp3_answer(struct request_stream *stream, const char *bytes, size_t length,
                  enum answer_step *step);

#endif
