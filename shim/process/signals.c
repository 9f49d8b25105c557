/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "process/signals.h"

#include "base/libc.h"
#include "base/polling.h"
#include "base/real.h"
#include "process/service.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#define KERNEL_SIGNALS 64
#define BLIND_SLICE_MS 5

/* One bit a signal: its handler restarts system calls, or interrupts them. */
static _Atomic uint64_t restarting, interrupting;
static _Atomic uint32_t generation = 1, classified;

void signals_changed(void)
{
    atomic_fetch_add(&generation, 1);
}

static void classify(bool anew)
{
    uint32_t current = atomic_load(&generation);
    if (!anew && atomic_load(&classified) == current)
        return;
    uint64_t restart = 0, interrupt = 0;
    for (int signal_number = 1; signal_number <= KERNEL_SIGNALS; signal_number++) {
        struct sigaction action = {0};
        if (signal_number == SIGBUS || signal_number == SIGKILL || signal_number == SIGSTOP ||
            REAL(sigaction)(signal_number, NULL, &action) < 0 || action.sa_handler == SIG_DFL ||
            action.sa_handler == SIG_IGN)
            continue;
        uint64_t bit = UINT64_C(1) << (signal_number - 1);
        if (action.sa_flags & SA_RESTART)
            restart |= bit;
        else
            interrupt |= bit;
    }
    atomic_store(&restarting, restart);
    atomic_store(&interrupting, interrupt);
    atomic_store(&classified, current);
}

bool signals_would_interrupt(bool restartable)
{
    classify(true);
    return !restartable || atomic_load(&interrupting) != 0;
}

bool signals_can_interrupt(bool restartable)
{
    classify(false);
    return !restartable || atomic_load(&interrupting) != 0;
}

bool signals_mixed(bool restartable)
{
    classify(false);
    return restartable && atomic_load(&restarting) && atomic_load(&interrupting);
}

/* --- holding back --- */

#define SIGNAL(number) (UINT64_C(1) << ((number)-1))

/* What the processor raises cannot wait. 32 and 33 are libc's own, and musl's 34, too: for
 * pthread_cancel, for timers, and for setuid, which waits for every thread to have taken it. */
#define NEVER_HELD                                                                                 \
    (SIGNAL(SIGSEGV) | SIGNAL(SIGBUS) | SIGNAL(SIGFPE) | SIGNAL(SIGILL) | SIGNAL(SIGTRAP) |        \
     SIGNAL(SIGSYS) | SIGNAL(32) | SIGNAL(33))
#define NEVER_HELD_BY_MUSL SIGNAL(34)

static uint64_t bits(const sigset_t *set)
{
    uint64_t first;
    memcpy(&first, set, sizeof first); /* the kernel's set is the first word of libc's */
    return first;
}

void signals_hold(struct held_signals *held)
{
    uint64_t all = ~(NEVER_HELD | (libc_is_musl() ? NEVER_HELD_BY_MUSL : 0));
    if (held->held)
        return;
    int saved = errno;
    sigemptyset(&held->before);
    held->held = kernel_call(SYS_rt_sigprocmask, SIG_BLOCK, &all, &held->before, sizeof all) == 0;
    errno = saved;
}

void signals_hold_handled(struct held_signals *held)
{
    classify(false);
    if (atomic_load(&restarting) | atomic_load(&interrupting))
        signals_hold(held);
}

void signals_let_in(struct held_signals *held)
{
    if (!held->held)
        return;
    int saved = errno;
    held->held = false;
    kernel_call(SYS_rt_sigprocmask, SIG_SETMASK, &held->before, NULL, sizeof(uint64_t));
    errno = saved;
}

void signals_let_in_at_end(void *held)
{
    signals_let_in(held);
}

const sigset_t *signals_opened(const struct held_signals *held, const sigset_t *asked)
{
    return asked || !held->held ? asked : &held->before;
}

bool signals_ended_it(struct held_signals *held, bool restartable)
{
    uint64_t pending = 0, handled = atomic_load(&interrupting);
    if (!restartable)
        handled |= atomic_load(&restarting);
    kernel_call(SYS_rt_sigpending, &pending, sizeof pending);
    if ((pending & ~bits(&held->before)) == 0)
        return false;
    signals_let_in(held);
    signals_hold(held);
    return pending & handled & ~bits(&held->before);
}

/* --- waiting --- */

/* Cancellation leaves a frame without returning from it. ASan would go on guarding what was around
 * its variables, and take the cleanup handlers, which run in the same place, for trespassers. */
#define LEFT_BY_CANCELLATION __attribute__((no_sanitize("address")))

static void end_watch(void *argument)
{
    const int *fd = argument;
    kernel_call(SYS_close, *fd);
}

static const struct timespec *to_timespec(int milliseconds, struct timespec *out)
{
    *out =
        (struct timespec){.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000L};
    return milliseconds < 0 ? NULL : out;
}

/*
 * Nobody may ask whether `fd` is ready: the program's own call does the waiting, or is made again
 * a little later where it does not wait.
 */
static enum wait_result wait_blindly(int fd, int timeout_ms)
{
    static _Atomic bool said;
    struct timespec time;
    uint32_t nothing = 0;
    if (!atomic_exchange(&said, true))
        service_say("poll and ppoll are forbidden here", ": waits are not the shim's");
    bool shorter = timeout_ms >= 0 && timeout_ms < BLIND_SLICE_MS;
    kernel_call(SYS_futex, &nothing, FUTEX_WAIT, 0,
                to_timespec(shorter ? timeout_ms : BLIND_SLICE_MS, &time), NULL, 0);
    return fd >= 0 ? WAIT_READY : WAIT_TIMED_OUT;
}

/*
 * With handlers of both kinds: learns from a signalfd that one is due, sees which kind it is, and
 * only then lets it run.
 */
LEFT_BY_CANCELLATION static enum wait_result poll_watching(struct held_signals *held, int fd,
                                                           short events, int timeout_ms)
{
    struct timespec time;
    const struct timespec *timeout = to_timespec(timeout_ms, &time);
    uint64_t handled = atomic_load(&restarting) | atomic_load(&interrupting), pending = 0;
    struct pollfd fds[] = {{.fd = fd, .events = events}, {.fd = -1, .events = POLLIN}};
    sigset_t mask = held->before;
    int ready, watch;
    struct libc_cleanup cleanup;

    handled &= ~bits(&mask); /* what the program blocks itself stays none of our business */
    uint64_t without_handled = bits(&mask) | handled;
    memcpy(&mask, &without_handled, sizeof without_handled);
    watch = (int)kernel_call(SYS_signalfd4, -1, &handled, sizeof handled, SOCK_CLOEXEC);
    libc_cleanup_push(&cleanup, end_watch, &watch);
    fds[1].fd = watch;
    /* With no descriptor left handlers run at once, and all count as those that interrupt. */
    ready = polling_wait(fds, 2, timeout, watch < 0 ? &held->before : &mask);
    if (ready > 0 && fds[0].revents == 0)
        kernel_call(SYS_rt_sigpending, &pending, sizeof pending);
    libc_cleanup_pop(&cleanup, true);
    if (ready == 0)
        return WAIT_TIMED_OUT;
    if (ready > 0 && fds[0].revents)
        return WAIT_READY;
    if (ready < 0 && errno != EINTR)
        return polling_is_refusal(errno) ? wait_blindly(fd, timeout_ms) : WAIT_FAILED;
    signals_let_in(held); /* handlers run here */
    signals_hold(held);
    return ready < 0 || pending & handled & atomic_load(&interrupting) ? WAIT_INTERRUPTED
                                                                       : WAIT_TIMED_OUT;
}

LEFT_BY_CANCELLATION enum wait_result signals_poll(struct held_signals *held, int fd, short events,
                                                   int timeout_ms, bool restartable)
{
    struct pollfd waited_for = {.fd = fd, .events = events};
    struct timespec time;
    const struct timespec *timeout = to_timespec(timeout_ms, &time);

    signals_hold_handled(held);
    if (held->held && signals_mixed(restartable))
        return poll_watching(held, fd, events, timeout_ms);
    int ready = polling_wait(&waited_for, 1, timeout, signals_opened(held, NULL));
    if (ready > 0)
        return WAIT_READY;
    if (ready == 0)
        return WAIT_TIMED_OUT;
    if (errno != EINTR)
        return polling_is_refusal(errno) ? wait_blindly(fd, timeout_ms) : WAIT_FAILED;
    return signals_would_interrupt(restartable) ? WAIT_INTERRUPTED : WAIT_TIMED_OUT;
}

/* So long a signal whose handler may end the wait can wait. */
#define SIGNALS_SLICE_NS UINT64_C(20000000)

/*
 * A futex takes no mask, and the kernel says that the time was up even when a handler ran before
 * the thread came back (futex_wait in kernel/futex/waitwake.c). So where some handler would end the
 * wait signals are held while the thread sleeps, and it looks for them after a shorter slice.
 */
bool signals_sleep(struct held_signals *held, _Atomic uint32_t *word, uint32_t seen,
                   uint64_t slice_ns, bool restartable)
{
    bool can_end = signals_can_interrupt(restartable);
    if (can_end && slice_ns > SIGNALS_SLICE_NS)
        slice_ns = SIGNALS_SLICE_NS;
    struct timespec time = {.tv_sec = (time_t)(slice_ns / 1000000000),
                            .tv_nsec = (long)(slice_ns % 1000000000)};
    if (can_end)
        signals_hold(held);
    else
        signals_let_in(held);
    errno = 0;
    kernel_call(SYS_futex, word, FUTEX_WAIT, seen, &time, NULL, 0);
    if (can_end)
        return !signals_ended_it(held, restartable);
    /* A handler may have been installed meanwhile. */
    return errno != EINTR || !signals_would_interrupt(restartable);
}
