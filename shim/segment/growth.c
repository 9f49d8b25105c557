/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "segment/growth.h"

#include "base/real.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define PAGE 4096
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

/*
 * Adds nothing to a word of the page, in the kernel: futex(2), FUTEX_WAKE_OP. That faults the page
 * in for writing as an access would, and says EFAULT where that would raise SIGBUS.
 */
static bool touch_page(void *page)
{
    uint32_t nobody = 0;
    return kernel_call(SYS_futex, &nobody, FUTEX_WAKE_OP, 0, NULL, page,
                       FUTEX_OP(FUTEX_OP_ADD, 0, FUTEX_OP_CMP_EQ, 1)) >= 0 ||
           errno != EFAULT;
}

bool growth_touch(void *from, size_t length)
{
    uintptr_t start = (uintptr_t)from & ~(uintptr_t)(PAGE - 1);
    uintptr_t end = ((uintptr_t)from + length + PAGE - 1) & ~(uintptr_t)(PAGE - 1);
    int saved = errno;
    bool touched = true;
    if (kernel_call(SYS_madvise, start, end - start, MADV_POPULATE_WRITE) < 0)
        for (uintptr_t page = start; touched && page < end; page += PAGE)
            touched = touch_page((void *)page);
    errno = saved;
    return touched;
}

static const struct {
    size_t offset, entry;
    size_t beside, beside_entry; /* a second array with the same indexes, or 0 */
    uint32_t step, most;
} tables[GROWING_TABLES] = {
    [GROWING_LISTENERS] = {offsetof(struct segment, listener), sizeof(struct segment_listener), 0,
                           0, 16, SEGMENT_LISTENERS},
    [GROWING_DESTINATIONS] = {offsetof(struct segment, destination),
                              sizeof(struct segment_destination), 0, 0, SEGMENT_DESTINATIONS,
                              SEGMENT_DESTINATIONS},
    [GROWING_EVENTS] = {offsetof(struct segment, event), sizeof(struct segment_event), 0, 0, 32,
                        SEGMENT_EVENTS},
    [GROWING_PROCESSES] = {offsetof(struct segment, process), sizeof(struct segment_process), 0, 0,
                           16, SEGMENT_PROCESSES},
    [GROWING_CONNS] = {offsetof(struct segment, conn_state), sizeof(uint32_t),
                       offsetof(struct segment, conn), sizeof(struct segment_conn), 1024,
                       SEGMENT_CONNS},
};

static bool touch_entries(struct segment *segment, size_t offset, size_t entry, uint32_t first,
                          uint32_t end)
{
    return growth_touch((char *)segment + offset + first * entry, (end - first) * entry);
}

bool growth_extend(struct segment *segment, enum growing_table table, uint32_t index)
{
    uint32_t ready = atomic_load(&segment->ready[table]);
    uint32_t step = tables[table].step, most = tables[table].most;
    if (index >= most)
        return false;
    if (index < ready)
        return true;
    uint32_t end = (index / step + 1) * step;
    end = end < most ? end : most;
    if (!touch_entries(segment, tables[table].offset, tables[table].entry, ready, end) ||
        (tables[table].beside &&
         !touch_entries(segment, tables[table].beside, tables[table].beside_entry, ready, end)))
        return false;
    while (ready < end && !atomic_compare_exchange_weak(&segment->ready[table], &ready, end))
        ;
    return true;
}

bool growth_reach_peers(struct segment *segment, uint32_t first, uint32_t count)
{
    for (uint32_t at = first - first % SEGMENT_PEERS_STEP; at < first + count;
         at += SEGMENT_PEERS_STEP) {
        uint32_t index = at % SEGMENT_PEERS, step = index / SEGMENT_PEERS_STEP;
        if (growth_has_peer(segment, index))
            continue;
        if (!touch_entries(segment, offsetof(struct segment, peer), sizeof(struct segment_peer),
                           index, index + SEGMENT_PEERS_STEP))
            return false;
        atomic_fetch_or(&segment->peers_ready[step / 64], UINT64_C(1) << step % 64);
    }
    return true;
}
