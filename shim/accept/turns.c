/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "accept/turns.h"

#include "base/real.h"
#include "process/processes.h"
#include "process/service.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>

#define YIELDS 4 /* then the holder was preempted, or many wait */
#define NAP_NS 100000
#define NAP_LONGEST_NS 1000000
/* How long one word stands before the process table is asked about its holder; doubles. */
#define FIRST_PROOF_NS 2000000

static struct segment_turn *turn_of(struct listener *listener)
{
    return listener->shared ? &listener->shared->turn : &listener->own_turn;
}

static bool is_gone(lease word)
{
    return processes_gone(lease_holder(word));
}

/* --- those that were overtaken --- */

static void forget(struct segment_turn *turn, lease word)
{
    for (unsigned i = 0; i < TURN_OVERTAKEN; i++) {
        uint64_t seen = atomic_load(&turn->overtaken[i]);
        if (seen && lease_same_turn(seen, word))
            atomic_compare_exchange_strong(&turn->overtaken[i], &seen, LEASE_NONE);
    }
}

/* Its place among those that were overtaken, or TURN_OVERTAKEN when all are taken. */
static unsigned remember(struct segment_turn *turn, lease word)
{
    for (unsigned i = 0; i < TURN_OVERTAKEN; i++) {
        uint64_t seen = atomic_load(&turn->overtaken[i]);
        if (seen && !is_gone(seen))
            continue;
        if (atomic_compare_exchange_strong(&turn->overtaken[i], &seen, word))
            return i;
    }
    return TURN_OVERTAKEN;
}

/* Takes back one note. Another who failed or succeeded with the same holder has one, too. */
static void withdraw(struct segment_turn *turn, unsigned place, lease word)
{
    if (place < TURN_OVERTAKEN)
        atomic_compare_exchange_strong(&turn->overtaken[place], &word, LEASE_NONE);
}

static bool any_left(struct segment_turn *turn)
{
    for (unsigned i = 0; i < TURN_OVERTAKEN; i++) {
        uint64_t seen = atomic_load(&turn->overtaken[i]);
        if (seen && !is_gone(seen))
            return true;
    }
    return false;
}

static bool set_nonblocking(int fd, int on)
{
    return kernel_call(SYS_ioctl, fd, FIONBIO, &on) == 0;
}

/* Before a turn is taken over from a process that lives: its accept must find nobody. `place` gets
 * the note's. False when that cannot be, and the turn stays where it is. */
static bool make_harmless(struct segment_turn *turn, int fd, lease word, unsigned *place)
{
    long flags = kernel_call(SYS_fcntl, fd, F_GETFL);
    uint64_t clearing = atomic_load(&turn->clearing);
    *place = TURN_OVERTAKEN;
    /* One who was overtaken while taking the flag off may still do that: it cannot be relied on. */
    if (clearing && !lease_same_turn(clearing, word) && !is_gone(clearing))
        return false;
    if (flags >= 0 && flags & O_NONBLOCK && !atomic_load(&turn->unblocked))
        return true; /* the program's own */
    /* Noted first: whoever is killed in between leaves a note too many, never one too few. */
    atomic_fetch_add(&turn->unblocked, 1);
    *place = remember(turn, word);
    return *place < TURN_OVERTAKEN && set_nonblocking(fd, 1);
}

/* Only in a turn of one's own, so that nobody is overtaken meanwhile who would rely on the flag.
 * `notes` is what was read first: who sets the flag meanwhile adds to it, and the note stays. */
static void make_blocking_again(struct turn *turn, int fd, uint32_t notes)
{
    struct segment_turn *at = turn->at;
    uint64_t before = atomic_load(&at->clearing), mine = turn->lease;
    forget(at, mine);
    if (any_left(at) || (before && !is_gone(before)) ||
        !atomic_compare_exchange_strong(&at->clearing, &before, mine))
        return;
    if (lease_keep(&at->lock, &turn->lease, monotonic_ns())) {
        set_nonblocking(fd, 0);
        atomic_compare_exchange_strong(&at->unblocked, &notes, 0);
    }
    atomic_compare_exchange_strong(&at->clearing, &mine, LEASE_NONE);
}

/* --- turns --- */

static lease overtake(struct segment_turn *turn, int fd, lease word, bool gone)
{
    unsigned place = TURN_OVERTAKEN;
    if (gone)
        return lease_take_over(&turn->lock, word, service.self, monotonic_ns());
    if (!make_harmless(turn, fd, word, &place)) {
        withdraw(turn, place, word);
        return LEASE_NONE;
    }
    lease mine = lease_take_over(&turn->lock, word, service.self, monotonic_ns());
    if (place < TURN_OVERTAKEN)
        atomic_fetch_add(&turn->unblocked, 1); /* for who takes it off just now */
    if (mine == LEASE_NONE)
        withdraw(turn, place, word);
    return mine;
}

/* What a waiter has seen, and when it asks the process table next. */
struct waiter {
    struct lease_watch watch;
    uint64_t proof_after_ns;
};

/* One look at the lock. The lease that was got, or LEASE_NONE. */
static lease try(struct segment_turn *turn, int fd, struct waiter *waiter)
{
    uint64_t now = monotonic_ns();
    lease before = waiter->watch.seen;
    bool over;
    lease word = lease_look(&turn->lock, &waiter->watch, now, &over);
    if (word == LEASE_NONE)
        return lease_take(&turn->lock, service.self, now);
    if (word != before)
        waiter->proof_after_ns = FIRST_PROOF_NS;
    bool gone = false;
    if (now - waiter->watch.since_ns >= waiter->proof_after_ns) {
        waiter->proof_after_ns *= 2;
        gone = is_gone(word);
    }
    return over || gone ? overtake(turn, fd, word, gone) : LEASE_NONE;
}

bool turns_take(struct listener *listener, int fd, bool (*worth_it)(const struct listener *),
                struct turn *turn)
{
    struct timespec nap = {.tv_sec = 0, .tv_nsec = NAP_NS};
    struct waiter waiter = {.watch = {.seen = LEASE_NONE}};
    unsigned tries = 0;
    turn->at = turn_of(listener);
    while ((turn->lease = try(turn->at, fd, &waiter)) == LEASE_NONE) {
        if (++tries <= YIELDS) {
            kernel_call(SYS_sched_yield);
            continue;
        }
        if (!worth_it(listener))
            return false;
        kernel_call(SYS_nanosleep, &nap, NULL);
        if (nap.tv_nsec < NAP_LONGEST_NS)
            nap.tv_nsec *= 2;
    }
    return true;
}

bool turns_keep(struct turn *turn)
{
    return lease_keep(&turn->at->lock, &turn->lease, monotonic_ns());
}

void turns_give(struct turn *turn, int fd)
{
    uint32_t notes = atomic_load(&turn->at->unblocked);
    if (notes)
        make_blocking_again(turn, fd, notes);
    if (!lease_give(&turn->at->lock, turn->lease))
        forget(turn->at, turn->lease);
}
