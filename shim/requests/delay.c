/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "requests/delay.h"

#include "accept/lateness.h"
#include "base/tcp_state.h"
#include "policy/queue_delay.h"
#include "process/service.h"

uint64_t delay_target(void)
{
    uint64_t target = segment_limit(service.segment, LIMIT_QUEUE_DELAY);
    if (target != QUEUE_DELAY_WITH_AUTO)
        return target;
    return limit_is_auto(segment_limit(service.segment, LIMIT_TOTAL_REQUESTS)) ||
                   limit_is_auto(service_limit(LIMIT_REQUESTS))
               ? QUEUE_DELAY_AUTO_NS
               : LIMIT_OFF;
}

static uint64_t load(const _Atomic uint64_t *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}

bool delay_stands(void)
{
    return lateness_queue_stands(&service.segment->request_queue);
}

bool delay_suspects(void)
{
    return (load(&service.segment->request_queue.late_from_ns) || delay_stands()) &&
           delay_target() != LIMIT_OFF;
}

static struct queue_depth depth_of(void *context)
{
    return (struct queue_depth){.waiting = *(const uint32_t *)context, .backlog = UINT32_MAX};
}

static uint64_t waited(uint64_t asked_ns, uint64_t now)
{
    return now > asked_ns ? now - asked_ns : 0;
}

/* Waits that are no reason to shed, whether the queue stands or not, tell nothing before their end.
 */
static bool is_long(uint64_t wait_ns, uint64_t target, uint64_t now)
{
    return wait_ns >= queue_delay_most(&service.segment->request_queue, target, now);
}

static bool judge(struct queue_client client, uint64_t target, uint32_t others, uint64_t now)
{
    struct queue_look look = {.depth = depth_of, .context = &others, .tells = false};
    return queue_delay_sheds(&service.segment->request_queue, client, target, look, now);
}

/* Its side was closed while it waited, not right behind its request. */
static bool gave_up(int fd, uint64_t waited_ns)
{
    struct tcp_state state = tcp_state_of(fd);
    return state.peer_ended && state.acked_ago < waited_ns / 2;
}

bool delay_sheds(int fd, uint64_t asked_ns, uint64_t now, uint32_t others)
{
    uint64_t target = delay_target();
    struct queue_client client = {.waited_ns = waited(asked_ns, now)};
    if (target == LIMIT_OFF)
        return false;
    if (client.waited_ns < target && client.waited_ns > target / 2 && delay_stands())
        client.closed = gave_up(fd, client.waited_ns);
    return (client.closed || is_long(client.waited_ns, target, now)) &&
           judge(client, target, others, now);
}

void delay_turns_away(uint64_t now)
{
    uint64_t target = delay_target();
    if (target != LIMIT_OFF)
        queue_delay_counts(&service.segment->request_queue, true, target, now);
}

void delay_begins(uint64_t asked_ns, uint64_t now)
{
    uint64_t target = delay_target();
    struct queue_client client = {.waited_ns = waited(asked_ns, now)};
    if (target == LIMIT_OFF)
        return;
    queue_delay_counts(&service.segment->request_queue, false, target, now);
    if (!is_long(client.waited_ns, target, now))
        judge(client, target, 0, now);
}
