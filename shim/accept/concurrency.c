/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "accept/concurrency.h"

#include "accept/connections.h"
#include "policy/auto_limit.h"
#include "process/service.h"

#include <errno.h>
#include <stdio.h>

bool concurrency_wanted(void)
{
    return limit_is_auto(segment_limit(service.segment, LIMIT_TOTAL_CONNS)) ||
           limit_is_auto(service_limit(LIMIT_CONNS));
}

static void tell(const struct auto_limit_change *change, enum event_kind event)
{
    unsigned long long took = change->sojourn_us, least = change->least_us;
    char text[SEGMENT_EVENT_TEXT];
    snprintf(text, sizeof text, "an answer takes %llu.%llu ms, %llu.%llu at least", took / 1000,
             took / 100 % 10, least / 1000, least / 100 % 10);
    service_event(event, change->ceiling, text);
}

bool concurrency_follow(struct segment_concurrency *found, uint64_t limit,
                        const struct gauge *inside, struct concurrency_answer taken)
{
    if (!limit_is_auto(limit))
        return false;
    struct auto_limit_answer answer = {.inside = gauge_count(inside), .sojourn_ns = taken.ns};
    struct auto_limit_change change = auto_limit_answered(found, limit, answer, taken.now);
    if (change.worth_telling)
        tell(&change, taken.event);
    return change.raised;
}

void concurrency_answered(uint64_t sojourn_ns)
{
    struct concurrency_answer taken = {sojourn_ns, monotonic_ns(), EVENT_CEILING};
    int saved = errno;
    if (concurrency_follow(&service.segment->concurrency,
                           segment_limit(service.segment, LIMIT_TOTAL_CONNS),
                           &service.segment->conns, taken))
        reservation_room_made();
    if (concurrency_follow(&service_self()->concurrency, service_limit(LIMIT_CONNS),
                           &service_self()->conns, taken))
        reservation_room_made();
    errno = saved;
}
