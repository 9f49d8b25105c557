/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "wait/select_filter.h"

#include "accept/admission.h"
#include "accept/since_wait.h"
#include "base/real.h"
#include "base/sandbox.h"
#include "output/pausing.h"
#include "wait/masking.h"
#include "wait/readiness.h"
#include "wait/wait_loop.h"
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

/* Whether any in the set is a connection whose input may have to be left out. */
static bool any_reached(uint32_t mode, const uint64_t *set, const uint64_t *write_set, int end)
{
    if (!masking_reaches(mode, write_set))
        return false;
    for (int fd = next_in(set, 0, end); fd < end; fd = next_in(set, fd + 1, end))
        if (masking_reaches(mode, bit(write_set, fd)) &&
            descriptor_kind(descriptor_at(fd)) == DESCRIPTOR_CONN)
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
    if (end <= 0 || !admission_active() || in_vfork_child)
        return false;
    uint32_t mode = flows_mode();
    if ((!mode && !listeners_exist()) || !set_there(except_fds, end) ||
        !set_there(write_fds, end) || !set_there(read_fds, end))
        return false;
    bool concerned = mode && wait_loop_concerned(mode);
    int tracked = descriptors_end();
    end = end < tracked ? end : tracked;
    if (any_withheld((const void *)read_fds, end)) {
        admission_waits_for_listener();
        return true;
    }
    return concerned || any_reached(mode, (const void *)read_fds, (const void *)write_fds, end);
}

/* What select was asked, and what the kernel made of it: read, write, except. */
struct select_call {
    int end;
    uint64_t *asked[3];
    uint64_t *result[3];
};

struct select_wait {
    struct wait wait;
    struct select_call call;
    uint64_t *scratch; /* three sets of `width` words, in which call.result is */
    size_t width;
    bool mapped;
};

static struct select_wait *select_wait_of(struct wait *wait)
{
    return (struct select_wait *)wait;
}

static void copy_sets(const struct select_call *call, uint64_t *const to[3],
                      uint64_t *const from[3])
{
    for (int i = 0; i < 3; i++)
        if (from[i])
            memcpy(to[i], from[i], words(call->end) * sizeof(uint64_t));
}

/* Copies the call without what is out of sight. */
static void prepare(struct wait *wait)
{
    const struct select_call *call = &select_wait_of(wait)->call;
    const uint64_t *reads = call->asked[0];
    wait->pending = wait->has_turns = false;
    wait->hides = readiness_hidden();
    copy_sets(call, call->result, call->asked);
    for (int fd = next_in(reads, 0, call->end); fd < call->end;
         fd = next_in(reads, fd + 1, call->end)) {
        enum descriptor_kind kind = descriptor_kind(descriptor_at(fd));
        bool leave_out = false;
        if (kind == DESCRIPTOR_CONN)
            leave_out = masking_leaves_out(
                fd, (short)(READABLE | (bit(call->asked[1], fd) ? WRITABLE : 0)), &wait->has_turns);
        else if (kind == DESCRIPTOR_LISTENER && masking_pending(fd))
            wait->pending = true;
        else if (kind == DESCRIPTOR_LISTENER)
            wait->hides |= leave_out = masking_hides(fd);
        if (leave_out)
            call->result[0][fd / DESCRIPTORS_PER_WORD] &= ~mask_of(fd);
    }
}

/* Whether the program is told that `fd`, of which the kernel says it is `readable`, is. */
static bool tells(int fd, bool readable)
{
    enum descriptor_kind kind = descriptor_kind(descriptor_at(fd));
    if (kind == DESCRIPTOR_LISTENER)
        return readable ? !masking_withholds(fd) : masking_pending(fd);
    return readable && (kind != DESCRIPTOR_CONN || masking_admits(fd));
}

/* Hands out what the same function of poll's does. */
static int hand_out(const struct select_call *call, int ready)
{
    const uint64_t *reads = call->asked[0];
    for (int fd = next_in(reads, 0, call->end); fd < call->end;
         fd = next_in(reads, fd + 1, call->end)) {
        bool readable = bit(call->result[0], fd), told = tells(fd, readable);
        if (call->asked[1] && bit(call->result[1], fd))
            pausing_told(fd);
        if (told == readable)
            continue;
        call->result[0][fd / DESCRIPTORS_PER_WORD] ^= mask_of(fd);
        ready += told ? 1 : -1;
    }
    return ready;
}

static int settle(struct wait *wait, int reported)
{
    return hand_out(&select_wait_of(wait)->call, reported);
}

static void drop_scratch(const struct select_wait *select)
{
    int saved = errno;
    if (select->mapped)
        munmap(select->scratch, 3 * select->width * sizeof(uint64_t));
    errno = saved;
}

/* Room in the scratch for sets of `width` words, with what is in them. */
static bool widen(struct select_wait *select, size_t width)
{
    struct select_call *call = &select->call;
    if (width <= select->width)
        return true;
    uint64_t *wider = masking_memory(3 * width * sizeof *wider);
    if (!wider)
        return false;
    for (size_t i = 0; i < 3; i++) {
        if (call->result[i] && select->width >= words(call->end))
            memcpy(wider + i * width, call->result[i], words(call->end) * sizeof *wider);
        call->result[i] = call->asked[i] ? wider + i * width : NULL;
    }
    drop_scratch(select);
    select->scratch = wider;
    select->width = width;
    select->mapped = true;
    return true;
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

/* Until something is ready, or wake_fd is, which must not be in what the program is told. */
static int ask_with_wake(struct select_wait *select, const struct timespec *timeout)
{
    const struct select_call *call = &select->call;
    int wake = select->wait.wake_fd, end = wake < call->end ? call->end : wake + 1;
    for (size_t i = 0; i < 3; i++)
        if (call->result[i])
            memset(call->result[i] + words(call->end), 0,
                   (words(end) - words(call->end)) * sizeof(uint64_t));
    call->result[0][wake / DESCRIPTORS_PER_WORD] |= mask_of(wake);
    int ready = ask_select(end, call->result, timeout, select->wait.opened);
    if (ready > 0 && bit(call->result[0], wake)) {
        call->result[0][wake / DESCRIPTORS_PER_WORD] &= ~mask_of(wake);
        select->wait.cut_short = true;
        ready--;
    }
    return ready;
}

static int ask(struct wait *wait)
{
    struct select_wait *select = select_wait_of(wait);
    struct timespec time;
    int64_t sleep_ns = wait->sleep_ns;
    if (wait->wake_fd >= 0 && widen(select, words(wait->wake_fd + 1)))
        return ask_with_wake(select, masking_timespec(sleep_ns, &time));
    if (wait->wake_fd >= 0 && (sleep_ns < 0 || sleep_ns > WAIT_WAKELESS_NS)) {
        sleep_ns = WAIT_WAKELESS_NS;
        wait->cut_short = true;
    }
    return ask_select(select->call.end, select->call.result, masking_timespec(sleep_ns, &time),
                      wait->opened);
}

static const struct wait_operations operations = {prepare, ask, settle};

/* With care, and again and again, in a copy of the call. */
static __attribute__((noinline)) int watch_select(const struct select_call *asked,
                                                  struct slices slices, const sigset_t *signals)
{
    uint64_t on_stack[3 * SELECT_ON_STACK];
    struct select_wait select = {.wait = {.operations = &operations,
                                          .slices = slices,
                                          .signals = signals,
                                          .set = -1,
                                          .accepts = true},
                                 .call = *asked,
                                 .scratch = on_stack,
                                 .width = SELECT_ON_STACK};
    struct select_call *call = &select.call;
    struct timespec time;

    for (size_t i = 0; i < 3; i++)
        call->result[i] = call->asked[i] ? on_stack + i * SELECT_ON_STACK : NULL;
    if (!widen(&select, words(call->end)))
        return REAL(pselect)(call->end, (void *)call->asked[0], (void *)call->asked[1],
                             (void *)call->asked[2], masking_timespec(slices_left(&slices), &time),
                             signals);
    int ready = wait_loop_run(&select.wait);
    if (ready >= 0)
        copy_sets(call, call->asked, call->result);
    drop_scratch(&select);
    return ready;
}

#define WITHHELD (-2)

/* Asks the kernel with the program's own sets, of which it keeps a copy. WITHHELD when none of
 * those that are ready is to be seen: the sets are as they were, then. */
static int select_calmly(const struct select_call *call, int64_t timeout_ns,
                         const sigset_t *signals)
{
    uint64_t copy[3][SELECT_ON_STACK];
    uint64_t *const *sets = call->asked;
    const struct select_call kept = {
        .end = call->end,
        .asked = {sets[0] ? copy[0] : NULL, sets[1] ? copy[1] : NULL, sets[2] ? copy[2] : NULL},
        .result = {sets[0], sets[1], sets[2]}};
    struct timespec time;

    copy_sets(&kept, kept.asked, sets);
    int ready = REAL(pselect)(call->end, (void *)sets[0], (void *)sets[1], (void *)sets[2],
                              masking_timespec(timeout_ns, &time), signals);
    if (ready <= 0 || admission_all_visible())
        return ready;
    ready = hand_out(&kept, ready);
    if (ready > 0)
        return ready;
    copy_sets(&kept, sets, kept.asked);
    return WITHHELD;
}

int select_filter_wait(int end, fd_set *read_fds, fd_set *write_fds, fd_set *except_fds,
                       int64_t timeout_ns, const sigset_t *signals, int64_t *left_ns)
{
    const struct select_call call = {
        .end = cut_to_kernel(end),
        .asked = {(void *)read_fds, (void *)write_fds, (void *)except_fds}};
    uint64_t deadline_ns = slices_deadline(timeout_ns);
    int ready = WITHHELD;

    since_wait_begin();
    if (words(call.end) <= SELECT_ON_STACK && masking_calm())
        ready = select_calmly(&call, timeout_ns, signals);
    if (ready == WITHHELD)
        ready = watch_select(&call, slices_until(timeout_ns, deadline_ns), signals);
    if (left_ns) {
        int saved = errno;
        *left_ns = slices_left_until(timeout_ns, deadline_ns);
        errno = saved;
    }
    return ready;
}
