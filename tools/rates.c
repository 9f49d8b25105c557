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
    histogram_since(&before->accept_wait, &after->accept_wait, &rates->accept_wait);
    histogram_since(&before->sojourn, &after->sojourn, &rates->sojourn);
}

/* --- how full --- */

static uint64_t conns_of(const struct process_view *process)
{
    return process->conns;
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
                    uint64_t (*used_of)(const struct process_view *process), struct fullness *out)
{
    const struct process_view *chosen = NULL;
    for (unsigned i = 0; i < view->processes; i++) {
        const struct process_view *process = &view->process[i];
        uint64_t limit = limit_of_process(view, process, key);
        double ceiling = ceiling_of(limit, &process->found), used = (double)used_of(process);
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

static bool of_service(const struct service_view *view, enum limit_key key, double used,
                       struct fullness *out)
{
    uint64_t limit = view->limits.value[key];
    if (limit == LIMIT_OFF)
        return false;
    out->used = used;
    out->ceiling = ceiling_of(limit, &view->found);
    return true;
}

unsigned rates_fullness(const struct service_view *view, const struct rates *rates,
                        struct fullness out[FULLNESS_MAX])
{
    unsigned count = 0;
    for (unsigned key = 0; key < LIMIT_KEYS; key++) {
        struct fullness *next = &out[count];
        bool there = false;
        *next = (struct fullness){.what = limits_key_name(key), .unit = UNIT_COUNT};
        switch (key) {
        case LIMIT_CONNS:
            there = fullest(view, key, conns_of, next);
            break;
        case LIMIT_TOTAL_CONNS:
            there = of_service(view, key, (double)view->conns, next);
            break;
        case LIMIT_PEER_CONNS:
            there = of_service(view, key, (double)view->peer_most, next);
            snprintf(next->whose, sizeof next->whose, "%s", view->peer_most_address);
            break;
        case LIMIT_ACCEPT_RATE:
            there = of_service(view, key, rates->admitted, next);
            next->ceiling = (double)(view->limits.value[key] >> 32);
            next->unit = UNIT_RATE;
            break;
        case LIMIT_BUFFER:
            there = fullest(view, key, buffer_of, next);
            next->unit = UNIT_BYTES;
            break;
        case LIMIT_TOTAL_BUFFER:
            there = of_service(view, key, (double)view->totals[COUNTER_BUFFER], next);
            next->unit = UNIT_BYTES;
            break;
        case LIMIT_CONN_BUFFER:
            there = of_service(view, key, (double)view->conn_buffer_most, next);
            next->unit = UNIT_BYTES;
            break;
        case LIMIT_CONNECT_CONNS:
            there = fullest(view, key, outbound_of, next);
            break;
        default:
            break;
        }
        count += there;
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
