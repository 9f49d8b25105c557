/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "rates.h"
#include "pids.h"

#include <stdio.h>

static double rate(uint64_t before, uint64_t after, double seconds)
{
    return seconds > 0 && after > before ? (double)(after - before) / seconds : 0;
}

void rates_between(const struct service_view *before, const struct service_view *after,
                   double seconds, struct rates *rates)
{
    const uint64_t *then = before->totals, *now = after->totals;
    rates->admitted = rate(then[COUNTER_ACCEPTED], now[COUNTER_ACCEPTED], seconds);
    rates->held = rate(then[COUNTER_HELD], now[COUNTER_HELD], seconds);
    rates->shed = rate(shed_in_all(then), shed_in_all(now), seconds);
    rates->reads_paused = rate(then[COUNTER_READS_PAUSED], now[COUNTER_READS_PAUSED], seconds);
    rates->connect_retries =
        rate(then[COUNTER_CONNECT_RETRIES], now[COUNTER_CONNECT_RETRIES], seconds);
    rates->requests_begun =
        rate(then[COUNTER_REQUESTS_BEGUN], now[COUNTER_REQUESTS_BEGUN], seconds);
    rates->requests_held = rate(then[COUNTER_REQUESTS_HELD], now[COUNTER_REQUESTS_HELD], seconds);
    rates->requests_shed = rate(requests_shed_in_all(then), requests_shed_in_all(now), seconds);
    histogram_since(&before->requests.sojourn, &after->requests.sojourn, &rates->request_sojourn);
    histogram_since(&before->requests.response, &after->requests.response, &rates->response);
    histogram_since(&before->accept_wait, &after->accept_wait, &rates->accept_wait);
    histogram_since(&before->sojourn, &after->sojourn, &rates->sojourn);
}

/* --- how full --- */

static uint64_t conns_of(const struct process_view *process)
{
    return process->conns;
}

static uint64_t requests_of(const struct process_view *process)
{
    return process->requests.in_flight;
}

static const struct found_view *found_conns(const struct process_view *process)
{
    return &process->found;
}

static const struct found_view *found_requests(const struct process_view *process)
{
    return &process->requests.found;
}

static uint64_t buffer_of(const struct process_view *process)
{
    return process->counter[COUNTER_BUFFER];
}

static uint64_t outbound_of(const struct process_view *process)
{
    return process->outbound;
}

/* What `limit` allows, where it is a number or finds itself. */
static double ceiling_of(uint64_t limit, const struct found_view *found)
{
    return (double)(limit_is_auto(limit) ? found->ceiling : limit);
}

/* Of a limit that each process has, the process that is nearest to it. */
static bool fullest(const struct service_view *view, enum limit_key key,
                    uint64_t (*used_of)(const struct process_view *process),
                    const struct found_view *(*found_of)(const struct process_view *process),
                    struct fullness *out)
{
    const struct process_view *chosen = NULL;
    for (unsigned i = 0; i < view->processes; i++) {
        const struct process_view *process = &view->process[i];
        uint64_t limit = limit_of_process(view, process, key);
        double ceiling = ceiling_of(limit, found_of(process)), used = (double)used_of(process);
        if (limit == LIMIT_OFF || ceiling < 1 ||
            (chosen && used * out->ceiling <= out->used * ceiling))
            continue;
        chosen = process;
        out->used = used;
        out->ceiling = ceiling;
    }
    if (chosen) {
        char pid[PID_TEXT_MAX];
        pid_text(chosen, pid);
        snprintf(out->whose, sizeof out->whose, "%s %s", pid, chosen->command);
    }
    return chosen != NULL;
}

/* How much of a limit of the service is used, and what ceiling stands where that finds itself. */
static bool of_service(const struct service_view *view, const struct rates *rates,
                       enum limit_key key, struct fullness *out)
{
    const struct {
        enum limit_key key;
        double used;
        const struct found_view *found; /* NULL: it never finds itself */
    } rows[] = {
        {LIMIT_TOTAL_CONNS, (double)view->conns, &view->found},
        {LIMIT_PEER_CONNS, (double)view->peer_most, NULL},
        {LIMIT_ACCEPT_RATE, rates->admitted, NULL},
        {LIMIT_TOTAL_BUFFER, (double)view->totals[COUNTER_BUFFER], NULL},
        {LIMIT_CONN_BUFFER, (double)view->conn_buffer_most, NULL},
        {LIMIT_TOTAL_REQUESTS, (double)view->requests.in_flight, &view->requests.found},
        {LIMIT_REQUEST_RATE, rates->requests_begun, NULL},
    };
    uint64_t limit = view->limits.value[key];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (rows[i].key != key || limit == LIMIT_OFF)
            continue;
        out->used = rows[i].used;
        out->ceiling = out->unit == UNIT_RATE ? (double)(limit >> 32)
                       : rows[i].found        ? ceiling_of(limit, rows[i].found)
                                              : (double)limit;
        if (key == LIMIT_PEER_CONNS)
            snprintf(out->whose, sizeof out->whose, "%s", view->peer_most_address);
        return true;
    }
    return false;
}

static bool of_processes(const struct service_view *view, enum limit_key key, struct fullness *out)
{
    static const struct {
        enum limit_key key;
        uint64_t (*used_of)(const struct process_view *process);
        const struct found_view *(*found_of)(const struct process_view *process);
    } rows[] = {
        {LIMIT_CONNS, conns_of, found_conns},
        {LIMIT_BUFFER, buffer_of, found_conns},
        {LIMIT_CONNECT_CONNS, outbound_of, found_conns},
        {LIMIT_REQUESTS, requests_of, found_requests},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].key == key)
            return fullest(view, key, rows[i].used_of, rows[i].found_of, out);
    return false;
}

unsigned rates_fullness(const struct service_view *view, const struct rates *rates,
                        struct fullness out[FULLNESS_MAX])
{
    unsigned count = 0;
    for (unsigned key = 0; key < LIMIT_KEYS; key++) {
        enum limit_unit unit = limits_unit(key);
        struct fullness *next = &out[count];
        *next = (struct fullness){.what = limits_key_name(key), .unit = UNIT_COUNT};
        if (unit == LIMIT_UNIT_BYTES)
            next->unit = UNIT_BYTES;
        if (unit == LIMIT_UNIT_RATE || unit == LIMIT_UNIT_REQUEST_RATE)
            next->unit = UNIT_RATE;
        count += of_processes(view, key, next) || of_service(view, rates, key, next);
    }
    for (unsigned i = 0; i < view->listeners; i++) {
        const struct listener_view *listener = &view->listener[i];
        struct fullness *next = &out[count++];
        *next = (struct fullness){.what = "queue",
                                  .used = listener->queue,
                                  .ceiling = listener->queue_max,
                                  .unit = UNIT_COUNT};
        snprintf(next->whose, sizeof next->whose, "%s", listener->address);
    }
    return count;
}
