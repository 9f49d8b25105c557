/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "requests/entries.h"

struct request requests[SEGMENT_CONNS];

/* A stack of slots + 1: whoever takes it takes it whole. */
static _Atomic uint32_t listed;

void requests_list(struct request *request)
{
    uint32_t place = request_slot(request) + 1, before = atomic_load(&listed);
    if (atomic_exchange(&request->listed, true))
        return;
    do {
        request->listed_next = before;
    } while (!atomic_compare_exchange_weak(&listed, &before, place));
}

static struct request *at(uint32_t place)
{
    return place ? &requests[place - 1] : NULL;
}

struct request *requests_take_list(void)
{
    return at(atomic_exchange(&listed, 0));
}

struct request *requests_listed_next(struct request *request)
{
    struct request *next = at(request->listed_next);
    atomic_store(&request->listed, false);
    return next;
}

bool requests_anybody_listed(void)
{
    return atomic_load_explicit(&listed, memory_order_relaxed) != 0;
}

void requests_forget_list(void)
{
    atomic_store(&listed, 0);
}

void request_begins(struct request *request, uint64_t now)
{
    atomic_store_explicit(&request->began_ns, now, memory_order_relaxed);
    requests_list(request);
}
