/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What epoll reports of connections, without the input that is withheld (watches.h).
 */
#ifndef BACKPRESSURE_FLOW_EVENTS_H
#define BACKPRESSURE_FLOW_EVENTS_H

#include <sys/epoll.h>

/* Takes it out of what the kernel reported of `set`; how many events are left. */
int flow_events_filter(int set, struct epoll_event *events, int ready);

#endif
