/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "wait/select_filter.h"

#include "accept/admission.h"
#include "accept/since_wait.h"
#include "base/polling.h"
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
#define POLL_ON_STACK 256

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
        short asked = (short)(READABLE | (bit(call->asked[1], fd) ? WRITABLE : 0));
        if (kind == DESCRIPTOR_CONN)
            leave_out = masking_leaves_out(wait, fd, asked);
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
    return readable && (kind != DESCRIPTOR_CONN || masking_admits(fd, READABLE));
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

static void leave(struct wait *wait)
{
    const struct select_call *call = &select_wait_of(wait)->call;
    const uint64_t *reads = call->asked[0];
    for (int fd = next_in(reads, 0, call->end); wait->has_turns && fd < call->end;
         fd = next_in(reads, fd + 1, call->end))
        masking_awaits_no_more(wait, fd);
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

/* --- select by poll, as the kernel makes it (fs/select.c) --- */

static const struct {
    short asks, means;
} kinds[3] = {{POLLRDNORM | POLLRDBAND | POLLIN, POLLHUP | POLLERR},
              {POLLWRBAND | POLLWRNORM | POLLOUT, POLLERR},
              {POLLPRI, 0}};

/* The first in any of the sets that is not below `from`. What was left out of them is among them:
 * that it breaks is told all the same. */
static int next_in_any(const struct select_call *call, int from)
{
    int first = call->end;
    for (int i = 0; i < 3; i++) {
        int next = next_in(call->asked[i], from, call->end);
        first = next < first ? next : first;
    }
    return first;
}

/* How many entries that makes; a listener that was left out has none. */
static nfds_t to_poll(const struct select_call *call, struct pollfd *fds)
{
    nfds_t count = 0;
    for (int fd = next_in_any(call, 0); fd < call->end; fd = next_in_any(call, fd + 1)) {
        short events = 0;
        for (int i = 0; i < 3; i++)
            if (bit(call->result[i], fd))
                events |= kinds[i].asks;
        if (!events && descriptor_kind(descriptor_at(fd)) != DESCRIPTOR_CONN)
            continue;
        if (fds)
            fds[count] = (struct pollfd){.fd = fd, .events = events};
        count++;
    }
    return count;
}

/* How many bits are set; -1 with errno, as select says of what is not open. */
static int from_poll(const struct select_call *call, const struct pollfd *fds, nfds_t count)
{
    int ready = 0;
    for (nfds_t i = 0; i < count; i++)
        if (fds[i].revents & POLLNVAL) {
            errno = EBADF;
            return -1;
        }
    for (int i = 0; i < 3; i++)
        if (call->result[i])
            memset(call->result[i], 0, words(call->end) * sizeof(uint64_t));
    for (nfds_t i = 0; i < count; i++) {
        if (fds[i].revents & (POLLERR | POLLHUP)) /* what select has no word for */
            masking_admits(fds[i].fd, fds[i].revents);
        for (int j = 0; j < 3; j++)
            if (bit(call->asked[j], fds[i].fd) &&
                fds[i].revents & ((fds[i].events & kinds[j].asks) | kinds[j].means)) {
                call->result[j][fds[i].fd / DESCRIPTORS_PER_WORD] |= mask_of(fds[i].fd);
                ready++;
            }
    }
    return ready;
}

/* With what the thread is woken by, which may have numbers that the sets have no room for. */
static int ask_by_poll(struct wait *wait, const struct timespec *timeout)
{
    const struct select_call *call = &select_wait_of(wait)->call;
    struct pollfd on_stack[POLL_ON_STACK], *fds = on_stack;
    nfds_t count = to_poll(call, NULL);
    size_t size = (count + WAIT_BELLS_MOST) * sizeof *fds;
    if (size > sizeof on_stack && !(fds = masking_memory(size)))
        return ask_select(call->end, call->result, timeout, wait->opened);
    to_poll(call, fds);
    unsigned bells = wait_loop_bells(wait, fds + count);
    int ready = polling_wait(fds, count + bells, timeout, wait->opened);
    if (ready > 0) {
        wait_loop_heard(wait, fds + count, bells);
        ready = from_poll(call, fds, count);
    } else if (ready == 0) {
        from_poll(call, fds, 0);
    }
    int saved = errno;
    if (fds != on_stack)
        munmap(fds, size);
    errno = saved;
    return ready;
}

static int ask(struct wait *wait)
{
    const struct select_call *call = &select_wait_of(wait)->call;
    struct timespec time;
    const struct timespec *timeout = masking_timespec(wait->sleep_ns, &time);
    return wait->has_turns && sandbox_permits(SYS_ppoll)
               ? ask_by_poll(wait, timeout)
               : ask_select(call->end, call->result, timeout, wait->opened);
}

static const struct wait_operations operations = {prepare, ask, leave, settle};

/* With care, and again and again, in a copy of the call. */
static __attribute__((noinline)) int watch_select(const struct select_call *asked,
                                                  struct slices slices, const sigset_t *signals)
{
    uint64_t on_stack[3 * SELECT_ON_STACK], *scratch = on_stack;
    struct select_wait select = {.wait = {.operations = &operations,
                                          .slices = slices,
                                          .signals = signals,
                                          .set = -1,
                                          .accepts = true},
                                 .call = *asked};
    struct select_call *call = &select.call;
    size_t size = words(call->end) * sizeof *scratch;
    struct timespec time;

    if (size * 3 > sizeof on_stack && !(scratch = masking_memory(size * 3)))
        return REAL(pselect)(call->end, (void *)call->asked[0], (void *)call->asked[1],
                             (void *)call->asked[2], masking_timespec(slices_left(&slices), &time),
                             signals);
    for (size_t i = 0; i < 3; i++)
        call->result[i] = call->asked[i] ? scratch + i * words(call->end) : NULL;
    int ready = wait_loop_run(&select.wait);
    if (ready >= 0)
        copy_sets(call, call->asked, call->result);
    if (scratch != on_stack) {
        int saved = errno;
        munmap(scratch, size * 3);
        errno = saved;
    }
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
