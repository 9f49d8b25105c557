/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "accept/lateness.h"

#include "base/tcp_state.h"
#include "process/service.h"

uint64_t lateness_target(void)
{
    uint64_t target = segment_limit(service.segment, LIMIT_QUEUE_DELAY);
    if (target != QUEUE_DELAY_WITH_AUTO)
        return target;
    bool found = limit_is_auto(segment_limit(service.segment, LIMIT_TOTAL_CONNS)) ||
                 limit_is_auto(service_limit(LIMIT_CONNS)) ||
                 limit_is_auto(segment_limit(service.segment, LIMIT_TOTAL_REQUESTS)) ||
                 limit_is_auto(service_limit(LIMIT_REQUESTS));
    return found ? QUEUE_DELAY_AUTO_NS : LIMIT_OFF;
}

struct queue_client lateness_ask(int fd)
{
    struct tcp_state state = tcp_state_of(fd);
    return (struct queue_client){state.acked_ago, state.peer_ended};
}

uint32_t lateness_queue(int fd)
{
    return tcp_state_of(fd).waiting;
}

bool lateness_queue_stands(struct segment_queue *queue)
{
    _Atomic uint64_t *standing = &queue->standing_until_ns;
    uint64_t until = atomic_load_explicit(standing, memory_order_relaxed);
    if (until == 0 || until > monotonic_ns())
        return until != 0;
    /* It is over: nobody has to ask the clock until a queue stands again. */
    atomic_compare_exchange_strong(standing, &until, 0);
    return false;
}

bool lateness_stands(const struct listener *listener)
{
    return listener->shared && lateness_queue_stands(&listener->shared->queue);
}

bool lateness_suspects(const struct listener *listener)
{
    const struct segment_listener *shared = listener->shared;
    return shared && (atomic_load_explicit(&shared->queue.late_from_ns, memory_order_relaxed) ||
                      atomic_load_explicit(&shared->queue.standing_until_ns, memory_order_relaxed));
}

bool lateness_overfills(int fd, const struct listener *listener)
{
    if (!lateness_stands(listener))
        return false;
    struct tcp_state state = tcp_state_of(fd);
    return state.waiting * 2 > state.backlog;
}

static struct queue_depth depth_of(void *context)
{
    struct tcp_state state = tcp_state_of(*(const int *)context);
    return (struct queue_depth){.waiting = state.waiting, .backlog = state.backlog};
}

bool lateness_sheds(int fd, struct listener *listener, struct queue_client client,
                    uint64_t target_ns)
{
    struct queue_look look = {.depth = depth_of, .context = &fd, .tells = fd >= 0};
    return listener->shared &&
           queue_delay_sheds(&listener->shared->queue, client, target_ns, look, monotonic_ns());
}
