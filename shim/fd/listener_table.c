/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "fd/listener_table.h"

#include "process/service.h"
#include "segment/growth.h"

/* How many listeners of this process use each entry. Copied by fork, like the descriptors. */
static _Atomic uint32_t uses[SEGMENT_LISTENERS];
/* Programs spawned so far, now and when the entry was first used here. */
static _Atomic uint32_t spawned;
static _Atomic uint32_t spawned_before[SEGMENT_LISTENERS];

static struct segment_listener *at(uint32_t index)
{
    return &service.segment->listener[index];
}

static uint32_t used_entries(void)
{
    uint32_t used = atomic_load(&service.segment->listeners_used);
    return used < SEGMENT_LISTENERS ? used : SEGMENT_LISTENERS;
}

static void set_bit(uint32_t index, uint32_t process)
{
    atomic_fetch_or(&at(index)->holders[process / 64], UINT64_C(1) << process % 64);
}

static void clear_bit(uint32_t index, uint32_t process)
{
    uint64_t bit = UINT64_C(1) << process % 64;
    if (atomic_load(&at(index)->holders[process / 64]) & bit)
        atomic_fetch_and(&at(index)->holders[process / 64], ~bit);
}

static bool is_held(uint32_t index)
{
    uint32_t processes = atomic_load(&service.segment->processes_used);
    processes = processes < SEGMENT_PROCESSES ? processes : SEGMENT_PROCESSES;
    for (uint32_t word = 0; word * 64 < processes + 1 && word < HOLDER_WORDS; word++)
        if (atomic_load(&at(index)->holders[word]))
            return true;
    return false;
}

/* The process table has one place that several share: their bit stays. */
static bool may_leave(uint32_t process)
{
    return process != 0;
}

static void leave(uint32_t index)
{
    if (atomic_fetch_sub(&uses[index], 1) != 1 || !may_leave(service.self))
        return;
    clear_bit(index, service.self);
    if (atomic_load(&uses[index]))
        set_bit(index, service.self); /* another thread came in between */
}

/* Holds an entry, if it still is the one of this socket. */
static bool hold(uint32_t index, uint64_t cookie)
{
    if (atomic_fetch_add(&uses[index], 1) == 0)
        atomic_store(&spawned_before[index], atomic_load(&spawned));
    set_bit(index, service.self);
    if (atomic_load(&at(index)->cookie) == cookie)
        return true;
    leave(index);
    return false;
}

/* The first entry of this socket below `end`, now held; SEGMENT_LISTENERS when there is none. */
static uint32_t find(uint64_t cookie, uint32_t end)
{
    for (uint32_t i = 0; i < end; i++)
        if (listener_table_is(at(i), cookie) && hold(i, cookie))
            return i;
    return SEGMENT_LISTENERS;
}

static void reset(struct segment_listener *entry)
{
    atomic_store(&entry->turn.lock.word, 0);
    atomic_store(&entry->turn.clearing, 0);
    atomic_store(&entry->turn.unblocked, 0);
    for (unsigned i = 0; i < TURN_OVERTAKEN; i++)
        atomic_store(&entry->turn.overtaken[i], 0);
    atomic_store(&entry->asked_backlog, 0);
    atomic_store(&entry->gated, 0);
    atomic_store(&entry->gated_once, 0);
    atomic_store(&entry->queue.crowded, 0);
    atomic_store(&entry->queue.late_from_ns, 0);
    atomic_store(&entry->queue.standing_until_ns, 0);
    atomic_store(&entry->probed_ns, 0);
    atomic_store(&entry->address[0], 0);
}

/* First what was closed for certain, then what might be inherited by somebody yet to come. */
static uint32_t claim(uint64_t cookie, bool closed)
{
    struct segment *segment = service.segment;
    for (uint32_t i = 0; i < SEGMENT_LISTENERS; i++) {
        if (!growth_reach(segment, GROWING_LISTENERS, i))
            break;
        uint64_t before = atomic_load(&at(i)->cookie);
        if ((closed && before) || is_held(i) ||
            !atomic_compare_exchange_strong(&at(i)->cookie, &before, cookie) || !hold(i, cookie))
            continue;
        reset(at(i));
        uint32_t used = atomic_load(&segment->listeners_used);
        while (used <= i && !atomic_compare_exchange_weak(&segment->listeners_used, &used, i + 1))
            ;
        return i;
    }
    return SEGMENT_LISTENERS;
}

struct segment_listener *listener_table_register(uint64_t cookie, bool *fresh)
{
    uint32_t index = find(cookie, used_entries());
    *fresh = false;
    if (index < SEGMENT_LISTENERS)
        return at(index);
    index = claim(cookie, true);
    if (index == SEGMENT_LISTENERS)
        index = claim(cookie, false);
    if (index == SEGMENT_LISTENERS)
        return NULL;
    uint32_t lower = find(cookie, index);
    *fresh = lower == SEGMENT_LISTENERS;
    if (*fresh)
        return at(index);
    atomic_store(&at(index)->cookie, 0);
    leave(index);
    return at(lower);
}

void listener_table_leave(struct segment_listener *entry)
{
    if (!entry)
        return;
    uint32_t index = (uint32_t)(entry - service.segment->listener);
    uint64_t cookie = atomic_load(&entry->cookie);
    bool inherited = atomic_load(&spawned_before[index]) != atomic_load(&spawned);
    leave(index);
    if (!inherited && !atomic_load(&uses[index]) && !is_held(index))
        atomic_compare_exchange_strong(&entry->cookie, &cookie, 0);
}

void listener_table_inherit(uint32_t child)
{
    uint32_t used = used_entries();
    for (uint32_t i = 0; i < used; i++)
        if (atomic_load(&uses[i]))
            set_bit(i, child);
}

void listener_table_forget_unheld(void)
{
    uint32_t used = used_entries();
    for (uint32_t i = 0; i < used && may_leave(service.self); i++)
        if (!atomic_load(&uses[i]))
            clear_bit(i, service.self);
}

void listener_table_forget_process(uint32_t process)
{
    uint32_t used = used_entries();
    for (uint32_t i = 0; i < used && may_leave(process); i++)
        clear_bit(i, process);
}

void listener_table_spawning(void)
{
    atomic_fetch_add(&spawned, 1);
}
