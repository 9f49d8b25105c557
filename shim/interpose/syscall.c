/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/real.h"
#include "interpose/interpose.h"
#include "interpose/lifecycle.h"

#include <fcntl.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/*
 * Programs that make system calls by number, through libc's `syscall`, come by here: libuv closes
 * that way. Arguments are passed on as they stand in their registers.
 */
struct raw_call {
    long number;
    long argument[6];
};

static int fd_argument(const struct raw_call *call, int index)
{
    return (int)call->argument[index];
}

/* NOLINTBEGIN(performance-no-int-to-ptr): a raw call's pointers come as numbers. */
static void *pointer(const struct raw_call *call, int index)
{
    return (void *)call->argument[index];
}
/* NOLINTEND(performance-no-int-to-ptr) */

static long pass_on(const struct raw_call *call)
{
    const long *argument = call->argument;
    return REAL(syscall)(call->number, argument[0], argument[1], argument[2], argument[3],
                         argument[4], argument[5]);
}

static long do_close(const struct raw_call *call)
{
    return close(fd_argument(call, 0));
}

static long do_close_range(const struct raw_call *call)
{
    return close_range((unsigned)call->argument[0], (unsigned)call->argument[1],
                       fd_argument(call, 2));
}

static long do_accept(const struct raw_call *call)
{
    return accept(fd_argument(call, 0), pointer(call, 1), pointer(call, 2));
}

static long do_accept4(const struct raw_call *call)
{
    return accept4(fd_argument(call, 0), pointer(call, 1), pointer(call, 2), fd_argument(call, 3));
}

static long do_listen(const struct raw_call *call)
{
    return listen(fd_argument(call, 0), fd_argument(call, 1));
}

static long do_dup(const struct raw_call *call)
{
    return dup(fd_argument(call, 0));
}

static long do_dup3(const struct raw_call *call)
{
    return dup3(fd_argument(call, 0), fd_argument(call, 1), fd_argument(call, 2));
}

static long do_fcntl(const struct raw_call *call)
{
    return fcntl(fd_argument(call, 0), fd_argument(call, 1), pointer(call, 2));
}

static long do_epoll_ctl(const struct raw_call *call)
{
    return epoll_ctl(fd_argument(call, 0), fd_argument(call, 1), fd_argument(call, 2),
                     pointer(call, 3));
}

static long do_epoll_pwait(const struct raw_call *call)
{
    return epoll_pwait(fd_argument(call, 0), pointer(call, 1), fd_argument(call, 2),
                       fd_argument(call, 3), pointer(call, 4));
}

static long do_read(const struct raw_call *call)
{
    return read(fd_argument(call, 0), pointer(call, 1), (size_t)call->argument[2]);
}

static long do_readv(const struct raw_call *call)
{
    return readv(fd_argument(call, 0), pointer(call, 1), fd_argument(call, 2));
}

static long do_recvfrom(const struct raw_call *call)
{
    return recvfrom(fd_argument(call, 0), pointer(call, 1), (size_t)call->argument[2],
                    fd_argument(call, 3), pointer(call, 4), pointer(call, 5));
}

static long do_write(const struct raw_call *call)
{
    return write(fd_argument(call, 0), pointer(call, 1), (size_t)call->argument[2]);
}

static long do_writev(const struct raw_call *call)
{
    return writev(fd_argument(call, 0), pointer(call, 1), fd_argument(call, 2));
}

static long do_sendto(const struct raw_call *call)
{
    return sendto(fd_argument(call, 0), pointer(call, 1), (size_t)call->argument[2],
                  fd_argument(call, 3), pointer(call, 4), (socklen_t)call->argument[5]);
}

static long do_sendmmsg(const struct raw_call *call)
{
    return sendmmsg(fd_argument(call, 0), pointer(call, 1), (unsigned)call->argument[2],
                    fd_argument(call, 3));
}

static long do_sendfile(const struct raw_call *call)
{
    return sendfile64(fd_argument(call, 0), fd_argument(call, 1), pointer(call, 2),
                      (size_t)call->argument[3]);
}

static long do_splice(const struct raw_call *call)
{
    return splice(fd_argument(call, 0), pointer(call, 1), fd_argument(call, 2), pointer(call, 3),
                  (size_t)call->argument[4], (unsigned)call->argument[5]);
}

static long do_setsockopt(const struct raw_call *call)
{
    return setsockopt(fd_argument(call, 0), fd_argument(call, 1), fd_argument(call, 2),
                      pointer(call, 3), (socklen_t)call->argument[4]);
}

static long do_getsockopt(const struct raw_call *call)
{
    return getsockopt(fd_argument(call, 0), fd_argument(call, 1), fd_argument(call, 2),
                      pointer(call, 3), pointer(call, 4));
}

static long do_sendmsg(const struct raw_call *call)
{
    return sendmsg(fd_argument(call, 0), pointer(call, 1), fd_argument(call, 2));
}

static long do_recvmsg(const struct raw_call *call)
{
    return recvmsg(fd_argument(call, 0), pointer(call, 1), fd_argument(call, 2));
}

static long fork_raw(const struct raw_call *call)
{
    lifecycle_before_fork();
    long child = pass_on(call);
    lifecycle_after_fork((pid_t)child);
    return child;
}

static long do_execve(const struct raw_call *call)
{
    lifecycle_before_exec();
    long result = pass_on(call);
    lifecycle_after_failed_exec();
    return result;
}

static long do_clone(const struct raw_call *call)
{
    /* A child with a stack, or memory, of its parent's is a thread, or none of our business. */
    if (call->argument[0] & CLONE_VM || call->argument[1])
        return pass_on(call);
    return fork_raw(call);
}

static long install_raw(const void *call)
{
    return pass_on(call);
}

static long do_prctl(const struct raw_call *call)
{
    if (call->argument[0] != PR_SET_SECCOMP)
        return pass_on(call);
    return lifecycle_sandbox(install_raw, call,
                             call->argument[1] == SECCOMP_MODE_FILTER ? pointer(call, 2) : NULL);
}

static long do_seccomp(const struct raw_call *call)
{
    unsigned operation = (unsigned)call->argument[0];
    if (operation != SECCOMP_SET_MODE_STRICT && operation != SECCOMP_SET_MODE_FILTER)
        return pass_on(call);
    return lifecycle_sandbox(install_raw, call,
                             operation == SECCOMP_SET_MODE_FILTER ? pointer(call, 2) : NULL);
}

#ifdef SYS_dup2
static long do_dup2(const struct raw_call *call)
{
    return dup2(fd_argument(call, 0), fd_argument(call, 1));
}
#endif

#ifdef SYS_epoll_wait
static long do_epoll_wait(const struct raw_call *call)
{
    return epoll_wait(fd_argument(call, 0), pointer(call, 1), fd_argument(call, 2),
                      fd_argument(call, 3));
}
#endif

#ifdef SYS_poll
static long do_poll(const struct raw_call *call)
{
    return poll(pointer(call, 0), (nfds_t)call->argument[1], fd_argument(call, 2));
}
#endif

static const struct {
    long number;
    long (*handle)(const struct raw_call *call);
} interposed[] = {
    {SYS_close, do_close},
    {SYS_close_range, do_close_range},
    {SYS_accept, do_accept},
    {SYS_accept4, do_accept4},
    {SYS_listen, do_listen},
    {SYS_dup, do_dup},
    {SYS_dup3, do_dup3},
    {SYS_fcntl, do_fcntl},
    {SYS_epoll_ctl, do_epoll_ctl},
    {SYS_epoll_pwait, do_epoll_pwait},
    {SYS_read, do_read},
    {SYS_readv, do_readv},
    {SYS_recvfrom, do_recvfrom},
    {SYS_write, do_write},
    {SYS_writev, do_writev},
    {SYS_sendto, do_sendto},
    {SYS_sendmmsg, do_sendmmsg},
    {SYS_sendfile, do_sendfile},
    {SYS_splice, do_splice},
    {SYS_setsockopt, do_setsockopt},
    {SYS_getsockopt, do_getsockopt},
    {SYS_sendmsg, do_sendmsg},
    {SYS_recvmsg, do_recvmsg},
    {SYS_clone, do_clone},
    {SYS_execve, do_execve},
    {SYS_execveat, do_execve},
    {SYS_prctl, do_prctl},
    {SYS_seccomp, do_seccomp},
#ifdef SYS_dup2
    {SYS_dup2, do_dup2},
#endif
#ifdef SYS_epoll_wait
    {SYS_epoll_wait, do_epoll_wait},
#endif
#ifdef SYS_poll
    {SYS_poll, do_poll},
#endif
#ifdef SYS_fork
    {SYS_fork, fork_raw},
#endif
};

INTERPOSE long syscall(long number, ...)
{
    struct raw_call call = {.number = number};
    va_list arguments;
    va_start(arguments, number);
    for (int i = 0; i < 6; i++)
        call.argument[i] = va_arg(arguments, long);
    va_end(arguments);
    for (unsigned i = 0; i < sizeof interposed / sizeof *interposed; i++)
        if (interposed[i].number == number)
            return interposed[i].handle(&call);
    return pass_on(&call);
}
