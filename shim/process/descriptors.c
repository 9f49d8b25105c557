/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "process/descriptors.h"

#include "base/proc.h"
#include "base/real.h"
#include "process/service.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define HIGH_ENOUGH 16384 /* 128 KB of the kernel's memory */
#define ADOPTERS 2
#define WITHOUT_PROC 1024 /* descriptors looked at when /proc cannot tell which are open */

_Atomic uint64_t descriptor_table[DESCRIPTORS_MAX];
_Atomic uint64_t descriptors_withheld[DESCRIPTORS_MAX / DESCRIPTORS_PER_WORD];
_Atomic int descriptors_withheld_end;
static _Atomic int table_end;
static _Atomic int staying = -1;
static const struct descriptor_operations *served[16]; /* any value that four bits can have */
static bool (*adopters[ADOPTERS])(int fd);

int descriptors_end(void)
{
    return atomic_load(&table_end);
}

int descriptors_kernel_end(void)
{
    static const char label[] = "\nFDSize:\t";
    char status[1024];
    proc_read("/proc/self/status", status, sizeof status);
    const char *line = strstr(status, label);
    int end = line ? (int)proc_number(line + sizeof label - 1) : 0;
    return end > 0 ? end : INT_MAX;
}

void descriptors_serve(enum descriptor_kind kind, const struct descriptor_operations *operations)
{
    served[kind] = operations;
}

void descriptors_stays(int fd)
{
    atomic_store(&staying, fd);
    /* Not by descriptor_put: nobody who goes through the program's descriptors needs to come here.
     */
    if (fd >= 0 && fd < DESCRIPTORS_MAX)
        atomic_store(&descriptor_table[fd], descriptor_make(DESCRIPTOR_SEGMENT, 0, 0));
}

void descriptors_ask(bool (*adopts)(int fd))
{
    unsigned i = 0;
    while (i < ADOPTERS - 1 && adopters[i])
        i++;
    adopters[i] = adopts;
}

static const struct descriptor_operations *operations_of(descriptor what)
{
    static const struct descriptor_operations none;
    const struct descriptor_operations *operations = served[descriptor_kind(what)];
    return operations ? operations : &none;
}

/* Lets the room that owns what was at `fd` know that it is there no longer. */
static void gone(int fd, descriptor what, const struct departure *departure)
{
    if (operations_of(what)->departed)
        operations_of(what)->departed(fd, what, departure);
}

static void raise_to(_Atomic int *end, int least)
{
    int seen = atomic_load(end);
    while (seen < least && !atomic_compare_exchange_weak(end, &seen, least))
        ;
}

int descriptors_next_withheld(int fd)
{
    int end = atomic_load_explicit(&descriptors_withheld_end, memory_order_acquire);
    while (fd < end) {
        uint64_t rest = atomic_load_explicit(&descriptors_withheld[fd / DESCRIPTORS_PER_WORD],
                                             memory_order_acquire) >>
                        fd % DESCRIPTORS_PER_WORD;
        if (rest)
            return fd + __builtin_ctzll(rest);
        fd += DESCRIPTORS_PER_WORD - fd % DESCRIPTORS_PER_WORD;
    }
    return -1;
}

/* Before `fd` is put in the table as one of this kind, and after it was taken out. */
static void mark_withheld(int fd, enum descriptor_kind kind)
{
    _Atomic uint64_t *word = &descriptors_withheld[fd / DESCRIPTORS_PER_WORD];
    uint64_t bit = UINT64_C(1) << fd % DESCRIPTORS_PER_WORD;
    if (kind == DESCRIPTOR_LISTENER || kind == DESCRIPTOR_EPOLL) {
        raise_to(&descriptors_withheld_end, fd + 1);
        atomic_fetch_or(word, bit);
    } else if (atomic_load_explicit(word, memory_order_relaxed) & bit) {
        atomic_fetch_and(word, ~bit);
    }
}

void descriptor_put(int fd, descriptor what)
{
    if ((unsigned)fd >= DESCRIPTORS_MAX)
        return;
    if (what)
        raise_to(&table_end, fd + 1);
    descriptor before = descriptor_at(fd);
    if (before == 0 && what == 0)
        return;
    mark_withheld(fd, descriptor_kind(what));
    before = atomic_exchange(&descriptor_table[fd], what);
    if (before == 0 || before == what)
        return;
    struct departure departure = departure_unseen;
    gone(fd, before, &departure);
    if (descriptor_kind(before) == DESCRIPTOR_CONN)
        service_count(COUNTER_FOUND, 1);
}

descriptor descriptor_take(int fd)
{
    if (descriptor_at(fd) == 0)
        return 0;
    descriptor what = atomic_exchange(&descriptor_table[fd], 0);
    mark_withheld(fd, DESCRIPTOR_NONE);
    return what;
}

bool descriptor_lost(int fd, descriptor what)
{
    if (!atomic_compare_exchange_strong(&descriptor_table[fd], &what, 0))
        return false;
    gone(fd, what, &departure_unseen);
    return true;
}

static descriptor depart(int fd, struct departure *departure)
{
    descriptor what = descriptor_at(fd);
    *departure = departure_unseen;
    if (operations_of(what)->departing)
        operations_of(what)->departing(fd, what, departure);
    return descriptor_take(fd);
}

int descriptor_close(int fd, int (*close_real)(int fd, void *context), void *context)
{
    struct departure departure;
    if (in_vfork_child || !service_active())
        return close_real(fd, context);
    if (descriptor_kind(descriptor_at(fd)) == DESCRIPTOR_SEGMENT) {
        errno = EBADF; /* as far as the program knows, nothing is open there */
        return -1;
    }
    descriptor what = depart(fd, &departure);
    int result = close_real(fd, context);
    if (what) {
        int saved = errno;
        gone(fd, what, &departure);
        errno = saved;
    }
    return result;
}

static int close_raw(int fd, void *context)
{
    (void)context;
    return (int)kernel_call(SYS_close, fd);
}

int descriptors_close_range(unsigned first, unsigned last,
                            int (*close_real)(unsigned first, unsigned last, void *context),
                            void *context)
{
    unsigned end = (unsigned)descriptors_end(), kept = (unsigned)atomic_load(&staying);
    if (in_vfork_child || !service_active())
        return close_real(first, last, context);
    for (unsigned fd = first; fd < end && fd <= last; fd++)
        if (descriptor_at((int)fd))
            descriptor_close((int)fd, close_raw, NULL);
    if (kept < first || kept > last)
        return close_real(first, last, context);
    int result = kept > first ? close_real(first, kept - 1, context) : 0;
    return result == 0 && kept < last ? close_real(kept + 1, last, context) : result;
}

static void retain(descriptor what)
{
    if (operations_of(what)->retain)
        operations_of(what)->retain(what);
}

void descriptor_passed(int fd)
{
    descriptor what = descriptor_at(fd);
    if (operations_of(what)->passed)
        operations_of(what)->passed(what);
}

void descriptor_duplicated(int from, int to)
{
    descriptor what = descriptor_at(from);
    if (in_vfork_child || !service_active())
        return;
    /* A second number for an epoll set shares its kernel object, but the shim knows sets by number:
     * its events then pass as they come, and accept alone holds. */
    if (descriptor_kind(what) == DESCRIPTOR_EPOLL || descriptor_kind(what) == DESCRIPTOR_OWN ||
        descriptor_kind(what) == DESCRIPTOR_SEGMENT)
        what = 0;
    retain(what);
    descriptor_put(to, what);
}

int descriptor_dup2(int from, int to, int (*dup_real)(int, int, void *), void *context)
{
    struct departure departure;
    if (from == to || in_vfork_child || !service_active() ||
        (!descriptor_at(from) && !descriptor_at(to)))
        return dup_real(from, to, context);
    if (operations_of(descriptor_at(to))->steps_aside)
        operations_of(descriptor_at(to))->steps_aside();
    descriptor what = depart(to, &departure);
    int result = dup_real(from, to, context);
    int saved = errno;
    if (result < 0) {
        if (operations_of(what)->stays)
            operations_of(what)->stays(&departure);
        descriptor_put(to, what); /* still open, as it was */
    } else {
        gone(to, what, &departure);
        descriptor_duplicated(from, to);
    }
    errno = saved;
    return result;
}

void descriptor_close_own(int fd)
{
    /* Out of the table first: the number is free for others once it is closed. */
    if (descriptor_kind(descriptor_at(fd)) != DESCRIPTOR_OWN)
        return;
    atomic_store(&descriptor_table[fd], 0);
    kernel_call(SYS_close, fd);
}

/* Where the highest quarter begins, but not so high that the kernel's table of this process would
 * grow out of proportion, and every fork copy it; 0 when nobody tells. */
static int high_numbers(void)
{
    struct rlimit limit;
    if (kernel_call(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &limit) < 0)
        return 0;
    int most = limit.rlim_cur < HIGH_ENOUGH ? (int)limit.rlim_cur : HIGH_ENOUGH;
    return most - most / 4;
}

/* The limit is asked for once, and again when it has become too low for the answer. */
static int duplicate_high(int fd)
{
    static _Atomic int high;
    if (atomic_load_explicit(&high, memory_order_relaxed) == 0)
        atomic_store_explicit(&high, high_numbers(), memory_order_relaxed);
    int from = atomic_load_explicit(&high, memory_order_relaxed);
    int moved = (int)kernel_call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, from);
    if (moved >= 0 || errno != EINVAL)
        return moved;
    from = high_numbers();
    atomic_store_explicit(&high, from, memory_order_relaxed);
    return (int)kernel_call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, from);
}

int descriptor_move_high(int fd)
{
    int high = duplicate_high(fd);
    if (high < 0) {
        kernel_call(SYS_fcntl, fd, F_SETFD, FD_CLOEXEC);
        return fd;
    }
    kernel_call(SYS_close, fd);
    descriptor_put(high, 0); /* the trace of an unseen close, if there is one */
    return high;
}

void descriptor_adopt(int fd)
{
    int value = 0;
    socklen_t length = sizeof value;
    int saved = errno;
    bool stream = kernel_call(SYS_getsockopt, fd, SOL_SOCKET, SO_TYPE, &value, &length) == 0 &&
                  value == SOCK_STREAM;

    for (unsigned i = 0; stream && i < ADOPTERS && adopters[i]; i++)
        if (adopters[i](fd))
            break;
    errno = saved;
}

static bool adopt_entry(int directory, const char *name, void *context)
{
    (void)directory, (void)context;
    descriptor_adopt((int)proc_number(name));
    return false;
}

void descriptors_adopt_all(void)
{
    if (proc_each("/proc/self/fd", adopt_entry, NULL).count > 0)
        return;
    for (int fd = 0; fd < WITHOUT_PROC; fd++)
        descriptor_adopt(fd);
}
