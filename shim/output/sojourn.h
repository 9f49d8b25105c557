/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How long a request is in the program: from its arrival to the first byte of its answer.
 *
 * An event loop reads a request when its turn comes, so the time from read to write leaves out what
 * it waited in the socket; that is asked of the kernel (tcpi_last_data_recv), for a bounded number
 * of requests a second. Only while a ceiling finds itself, or bpctl watches: then it is counted in
 * the segment's histogram.
 */
#ifndef BACKPRESSURE_SOJOURN_H
#define BACKPRESSURE_SOJOURN_H

#include "output/flows.h"

/* Whether bpctl looked of late. */
bool sojourn_watched(void);

/* Asks for times while a ceiling finds itself, or bpctl watches. */
extern const struct flow_feature sojourn_feature;

/* Input was read from the connection; output was written to it. */
void sojourn_read(int fd, struct flow *flow);
void sojourn_wrote(struct flow *flow);

#endif
