/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What `bpctl show` tells of requests, of the service and of each process.
 */
#ifndef BPCTL_REQUESTS_H
#define BPCTL_REQUESTS_H

#include "services.h"

#include <jansson.h>

/*
 * The object `requests`: what is counted in `counter`, under its name there without `requests_`,
 * and what is in flight, waits and streams; `sojourn` and `response` with p50_us, p99_us and their
 * buckets; `auto` where `limit` finds itself. The caller owns it.
 */
json_t *requests_json(const struct requests_view *requests, const uint64_t counter[COUNTERS],
                      uint64_t limit);

/* A part of its own on standard output; nothing where no limit on requests was ever set. */
void print_requests(const struct service_view *view);

/* A line or two below the process's own; nothing where it never had to do with requests. */
void print_requests_of(const struct service_view *view, const struct process_view *process);

/* Whether a counter is one of those that are told of requests. */
bool is_of_requests(unsigned counter);

#endif
