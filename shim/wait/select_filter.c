/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "wait/select_filter.h"

#include "accept/admission.h"
#include "accept/since_wait.h"
#include "base/real.h"
#include "base/sandbox.h"
#include "output/metering.h"
#include "output/pausing.h"
#include "output/stalls.h"
#include "wait/masking.h"
#include "wait/readiness.h"
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define SELECT_ON_STACK (FD_SETSIZE / DESCRIPTORS_PER_WORD)

static size_t words(int end)
{
    return ((size_t)end + DESCRIPTORS_PER_WORD - 1) / DESCRIPTORS_PER_WORD;
}

static uint64_t mask_of(int fd)
{
    return UINT64_C(1) << fd % DESCRIPTORS_PER_WORD;
}

static bool bit(const uint64_t *set, int fd)
{
    return set && set[fd / DESCRIPTORS_PER_WORD] & mask_of(fd);
}

/* The first in `set` that is not below `from`; `end` when there is none. */
static int next_in(const uint64_t *set, int from, int end)
{
    while (set && from < end) {
        uint64_t rest = set[from / DESCRIPTORS_PER_WORD] >> from % DESCRIPTORS_PER_WORD;
        if (rest)
            return from + __builtin_ctzll(rest);
        from += DESCRIPTORS_PER_WORD - from % DESCRIPTORS_PER_WORD;
    }
    return end;
}

/* As the kernel does: programs pass getdtablesize() with sets that are no longer than fd_set. */
static int cut_to_kernel(int end)
{
    if (end <= FD_SETSIZE)
        return end;
    int most = descriptors_kernel_end();
    return end < most ? end : most;
}

/* Whether any in the set may be withheld. */
static bool any_withheld(const uint64_t *set, int end)
{
    for (size_t word = 0; set && word < words(end); word++)
        if (set[word] & atomic_load_explicit(&descriptors_withheld[word], memory_order_relaxed))
            return true;
    return false;
}

/* Whether any in both sets is a connection whose input may be paused. */
static bool any_pausable(const uint64_t *set, const uint64_t *write_set, int end)
{
    if (!write_set || !(flows_mode() & FLOWS_PAUSE))
        return false;
    for (int fd = next_in(set, 0, end); fd < end; fd = next_in(set, fd + 1, end))
        if (bit(write_set, fd) && descriptor_kind(descriptor_at(fd)) == DESCRIPTOR_CONN)
            return true;
    return false;
}

/* Of a set longer than fd_set so much is looked at. */
static bool set_there(const fd_set *set, int end)
{
    size_t bytes = words(end < FD_SETSIZE ? end : FD_SETSIZE) * sizeof(uint64_t);
    return !set || memory_there(MEMORY_SET, set, bytes);
}

bool select_filter_concerns(int end, const fd_set *read_fds, const fd_set *write_fds,
                            const fd_set *except_fds)
{
    if (end <= 0 || !admission_active() || in_vfork_child ||
        (!listeners_exist() && !flows_mode()) || !set_there(except_fds, end) ||
        !set_there(write_fds, end) || !set_there(read_fds, end))
        return false;
    stalls_stir();
    int tracked = descriptors_end();
    end = end < tracked ? end : tracked;
    if (any_withheld((const void *)read_fds, end)) {
        admission_waits_for_listener();
        return true;
    }
    return any_pausable((const void *)read_fds, (const void *)write_fds, end) ||
           masking_bytes_concerned();
}

/* What select was asked, and what the kernel made of it: read, write, except. */
struct select_call {
    int end;
    uint64_t *asked[3];
    uint64_t *result[3];
};

static void copy_sets(const struct select_call *call, uint64_t *const to[3],
                      uint64_t *const from[3])
{
    for (int i = 0; i < 3; i++)
        if (from[i])
            memcpy(to[i], from[i], words(call->end) * sizeof(uint64_t));
}

static bool mask_select(const struct select_call *call, bool *somebody_pending)
{
    const uint64_t *reads = call->asked[0];
    bool left_out = false;
    copy_sets(call, call->result, call->asked);
    for (int fd = next_in(reads, 0, call->end); fd < call->end;
         fd = next_in(reads, fd + 1, call->end)) {
        uint64_t *word = &call->result[0][fd / DESCRIPTORS_PER_WORD];
        if (masking_pauses(fd, true, bit(call->asked[1], fd)))
            *word &= ~mask_of(fd);
        if (descriptor_kind(descriptor_at(fd)) != DESCRIPTOR_LISTENER)
            continue;
        if (masking_pending(fd)) {
            *somebody_pending = true;
        } else if (masking_hides(fd)) {
            *word &= ~mask_of(fd);
            left_out = true;
        }
    }
    return left_out;
}

/* Hands out what settle_poll does. */
static int settle_select(const struct select_call *call, int ready)
{
    const uint64_t *reads = call->asked[0];
    for (int fd = next_in(reads, 0, call->end); fd < call->end;
         fd = next_in(reads, fd + 1, call->end)) {
        uint64_t *word = &call->result[0][fd / DESCRIPTORS_PER_WORD], mask = mask_of(fd);
        if (call->asked[1] && bit(call->result[1], fd))
            pausing_told(fd);
        if (descriptor_kind(descriptor_at(fd)) != DESCRIPTOR_LISTENER)
            continue;
        if (*word & mask && masking_withholds(fd)) {
            *word &= ~mask;
            ready--;
        } else if (!(*word & mask) && masking_pending(fd)) {
            *word |= mask;
            ready++;
        }
    }
    return ready;
}

/* As ask_poll. */
static int ask_select(int end, uint64_t *const sets[3], const struct timespec *timeout,
                      const sigset_t *signals)
{
    if (sandbox_permits(SYS_pselect6))
        return REAL(pselect)(end, (void *)sets[0], (void *)sets[1], (void *)sets[2], timeout,
                             signals);
    struct timeval time = {.tv_sec = timeout ? timeout->tv_sec : 0,
                           .tv_usec = timeout ? (timeout->tv_nsec + 999) / 1000 : 0};
    return REAL(select)(end, (void *)sets[0], (void *)sets[1], (void *)sets[2],
                        timeout ? &time : NULL);
}

struct select_wait {
    const struct select_call *call;
    const struct timespec *timeout;
    const sigset_t *signals;
};

static int wait_in_select(void *argument)
{
    const struct select_wait *wait = argument;
    uint64_t *const *result = wait->call->result;
    return ask_select(wait->call->end, result, wait->timeout, wait->signals);
}

static int select_watching(const struct select_call *call, struct slices *slices,
                           const sigset_t *signals)
{
    struct timespec time;
    for (;;) {
        bool somebody_pending = false;
        admission_attend();
        readiness_room_made();
        metering_new_turn();
        bool left_out = mask_select(call, &somebody_pending);
        int64_t left = slices_left(slices);
        int64_t slice = masking_next_slice(slices, left_out, somebody_pending, left);
        struct select_wait wait = {call, masking_timespec(slice, &time),
                                   signals_opened(&slices->held, signals)};
        int reported = slices_wait(slices, wait_in_select, &wait);
        if (reported < 0)
            return reported;
        int ready = settle_select(call, reported);
        if (ready > 0 || (slice == left && (reported == 0 || left == 0))) {
            copy_sets(call, call->asked, call->result);
            return ready;
        }
        signals_hold(&slices->held);
    }
}

#define WITHHELD (-2)

/* Asks the kernel with the program's own sets, `kept->result`, of which it keeps a copy. WITHHELD
 * when none of those that are ready is to be seen: the sets are as they were, then. */
static int select_calmly(const struct select_call *kept, int64_t timeout_ns,
                         const sigset_t *signals)
{
    struct timespec time;
    uint64_t *const *sets = kept->result;
    copy_sets(kept, kept->asked, sets);
    int ready = REAL(pselect)(kept->end, (void *)sets[0], (void *)sets[1], (void *)sets[2],
                              masking_timespec(timeout_ns, &time), signals);
    if (ready <= 0 || admission_all_visible())
        return ready;
    ready = settle_select(kept, ready);
    if (ready > 0)
        return ready;
    copy_sets(kept, sets, kept->asked);
    return WITHHELD;
}

static int select_in(const struct select_call *call, struct slices *slices, const sigset_t *signals)
{
    const struct select_call kept = {.end = call->end,
                                     .asked = {call->result[0], call->result[1], call->result[2]},
                                     .result = {call->asked[0], call->asked[1], call->asked[2]}};
    int ready = masking_calm() ? select_calmly(&kept, slices->timeout_ns, signals) : WITHHELD;
    return ready == WITHHELD ? select_watching(call, slices, signals) : ready;
}

int select_filter_wait(int end, fd_set *read_fds, fd_set *write_fds, fd_set *except_fds,
                       int64_t timeout_ns, const sigset_t *signals, int64_t *left_ns)
{
    uint64_t on_stack[3 * SELECT_ON_STACK], *scratch = on_stack;
    end = cut_to_kernel(end);
    size_t size = words(end) * sizeof(uint64_t);
    struct select_call call = {.end = end,
                               .asked = {(void *)read_fds, (void *)write_fds, (void *)except_fds}};
    struct timespec time;

    since_wait_begin();
    if (size * 3 > sizeof on_stack) {
        scratch = masking_memory(size * 3);
        if (!scratch)
            return REAL(pselect)(end, read_fds, write_fds, except_fds,
                                 masking_timespec(timeout_ns, &time), signals);
    }
    for (size_t i = 0; i < 3; i++)
        call.result[i] = call.asked[i] ? scratch + i * words(end) : NULL;
    struct slices slices = slices_start(timeout_ns);
    int ready = select_in(&call, &slices, signals);
    int saved = errno;
    if (left_ns)
        *left_ns = slices_left(&slices);
    slices_end(&slices);
    if (scratch != on_stack)
        munmap(scratch, size * 3);
    errno = saved;
    return ready;
}
