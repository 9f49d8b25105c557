/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "signals.h"

#include "real.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define KERNEL_SIGNALS 64

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

bool signals_mixed(bool restartable)
{
    classify(false);
    return restartable && atomic_load(&restarting) && atomic_load(&interrupting);
}

struct watch {
    uint64_t before; /* the thread's signal mask */
    int fd;
};

static void end_watch(void *argument)
{
    struct watch *watch = argument;
    kernel_call(SYS_close, watch->fd);
    kernel_call(SYS_rt_sigprocmask, SIG_SETMASK, &watch->before, NULL, sizeof watch->before);
}

/*
 * With handlers of both kinds: holds them all back, learns from a signalfd that one is due, sees
 * which kind it is, and only then lets it run.
 */
static enum wait_result poll_watching(int fd, short events, int timeout_ms)
{
    uint64_t caught = atomic_load(&restarting) | atomic_load(&interrupting), pending = 0;
    struct pollfd fds[] = {{.fd = fd, .events = events}, {.fd = -1, .events = POLLIN}};
    struct watch watch = {0};
    int ready;

    kernel_call(SYS_rt_sigprocmask, SIG_BLOCK, &caught, &watch.before, sizeof caught);
    caught &= ~watch.before; /* what the program blocks itself stays none of our business */
    watch.fd = (int)kernel_call(SYS_signalfd4, -1, &caught, sizeof caught, SOCK_CLOEXEC);
    pthread_cleanup_push(end_watch, &watch);
    fds[1].fd = watch.fd;
    ready = REAL(poll)(fds, 2, timeout_ms);
    if (ready > 0 && fds[0].revents == 0)
        kernel_call(SYS_rt_sigpending, &pending, sizeof pending);
    pthread_cleanup_pop(1); /* handlers run here */
    if (ready == 0)
        return WAIT_TIMED_OUT;
    if (ready > 0 && fds[0].revents)
        return WAIT_READY;
    return ready < 0 || pending & caught & atomic_load(&interrupting) ? WAIT_INTERRUPTED
                                                                      : WAIT_TIMED_OUT;
}

enum wait_result signals_poll(int fd, short events, int timeout_ms, bool restartable)
{
    struct pollfd waited_for = {.fd = fd, .events = events};

    if (signals_mixed(restartable))
        return poll_watching(fd, events, timeout_ms);
    int ready = REAL(poll)(&waited_for, 1, timeout_ms);
    if (ready > 0)
        return WAIT_READY;
    if (ready == 0)
        return WAIT_TIMED_OUT;
    if (errno != EINTR)
        return WAIT_FAILED;
    return signals_would_interrupt(restartable) ? WAIT_INTERRUPTED : WAIT_TIMED_OUT;
}
