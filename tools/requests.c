/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "requests.h"

#include "found.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char prefix[] = "requests_";

bool is_of_requests(unsigned counter)
{
    return strncmp(counter_name(counter), prefix, sizeof prefix - 1) == 0;
}

static const char *short_name(unsigned counter)
{
    return counter_name(counter) + sizeof prefix - 1;
}

/* The buckets that have something: what is above the bound before it, and not above its own. The
 * last one has no bound. */
static json_t *times_json(const struct histogram_reading *times)
{
    json_t *buckets = json_array();
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        if (times->bucket[i] == 0)
            continue;
        json_t *bound = i < HISTOGRAM_BOUNDS ? json_integer(histogram_bound_us[i]) : json_null();
        json_array_append_new(buckets, json_pack("{s:o, s:I}", "to_us", bound, "count",
                                                 (json_int_t)times->bucket[i]));
    }
    return json_pack("{s:I, s:I, s:f, s:f, s:o}", "count", (json_int_t)times->count, "sum_us",
                     (json_int_t)times->sum_us, "p50_us", histogram_quantile_us(times, 0.50),
                     "p99_us", histogram_quantile_us(times, 0.99), "buckets", buckets);
}

json_t *requests_json(const struct requests_view *requests, const uint64_t counter[COUNTERS],
                      uint64_t limit)
{
    json_t *object =
        json_pack("{s:I, s:I, s:I}", "in_flight", (json_int_t)requests->in_flight, "waiting",
                  (json_int_t)requests->waiting, "streams", (json_int_t)requests->streams);
    for (unsigned i = 0; i < COUNTERS; i++)
        if (is_of_requests(i))
            json_object_set_new(object, short_name(i), json_integer((json_int_t)counter[i]));
    json_object_set_new(object, "sojourn", times_json(&requests->sojourn));
    json_object_set_new(object, "response", times_json(&requests->response));
    if (limit_is_auto(limit))
        json_object_set_new(object, "auto", found_json(&requests->found));
    return object;
}

static void print_times(const char *what, const struct histogram_reading *times)
{
    if (times->count == 0)
        printf("  %-14s none measured\n", what);
    else
        printf("  %-14s p50 %.1f ms, p99 %.1f ms, of %" PRIu64 "\n", what,
               histogram_quantile_us(times, 0.50) / 1000, histogram_quantile_us(times, 0.99) / 1000,
               times->count);
}

void print_requests(const struct service_view *view)
{
    const struct requests_view *requests = &view->requests;
    if (!requests_concern(view))
        return;
    puts("requests");
    printf("  %-14s %" PRIu64 "\n", "in_flight", requests->in_flight);
    printf("  %-14s %" PRIu64 "\n", "waiting", requests->waiting);
    printf("  %-14s %" PRIu64 "\n", "streams", requests->streams);
    for (unsigned i = 0; i < COUNTERS; i++)
        if (is_of_requests(i))
            printf("  %-14s %" PRIu64 "\n", short_name(i), view->totals[i]);
    print_times("sojourn", &requests->sojourn);
    print_times("response", &requests->response);
}

void print_requests_of(const struct service_view *view, const struct process_view *process)
{
    const struct requests_view *requests = &process->requests;
    const uint64_t *counter = process->counter;
    if (limit_is_auto(limit_of_process(view, process, LIMIT_REQUESTS)))
        print_found("    requests=auto", &requests->found);
    if (!requests_concern(view))
        return;
    printf("           requests: %" PRIu64 " in flight (peak %" PRIu64 "), %" PRIu64
           " waiting, %" PRIu64 " begun, %" PRIu64 " shed; streams: %" PRIu64 "\n",
           requests->in_flight, counter[COUNTER_REQUESTS_IN_FLIGHT_PEAK], requests->waiting,
           counter[COUNTER_REQUESTS_BEGUN], requests_shed_in_all(counter), requests->streams);
}
