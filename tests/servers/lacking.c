/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A kernel or a sandbox that lacks something, for the shim alone: preloaded behind it, so that the
 * system calls which it makes through libc are found here first.
 *
 *   LACKS='WORD...'
 *     netlink     no netlink socket: EPERM, as filters say it
 *     protocol    the same, as a kernel without it says it
 *     modules     no tcp_diag and unix_diag: a dump ends at once with ENOENT, a look-up finds none
 *     sight       dumps pass all sockets over, as they pass over some while their table changes
 *     memory      dumps do so after the first of each kind
 *     cookie      SO_COOKIE: ENOPROTOOPT
 *     proc        nothing in /proc can be opened or read: EACCES
 *     luck        the first SIGUSR1 comes to a thread just as its time on a futex is up, and before
 *                 the thread is back
 */
#include <dlfcn.h>
#include <errno.h>
#include <linux/futex.h>
#include <linux/netlink.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define DUMPS_SEEN_FIRST 3 /* one of each family */

static bool lacks(const char *word)
{
    const char *words = getenv("LACKS");
    return words && strstr(words, word);
}

static long fail(int error)
{
    errno = error;
    return -1;
}

/* Is this the answer of sock_diag? Its dumps have NLM_F_MULTI, its look-ups do not. */
static void spoil(struct nlmsghdr *first, long length, bool blind)
{
    size_t rest = (size_t)length;
    int missing = -ENOENT;
    for (struct nlmsghdr *message = first; NLMSG_OK(message, rest);
         message = NLMSG_NEXT(message, rest)) {
        bool of_dump = message->nlmsg_flags & NLM_F_MULTI;
        if (lacks("modules") && message->nlmsg_type != NLMSG_ERROR) {
            message->nlmsg_type = of_dump ? NLMSG_DONE : NLMSG_ERROR;
            memcpy(NLMSG_DATA(message), &missing, sizeof missing);
        } else if (blind && of_dump && message->nlmsg_type != NLMSG_DONE) {
            message->nlmsg_type = NLMSG_NOOP;
        }
    }
}

static long refused(long call, const long argument[6])
{
    bool of_proc = (call == SYS_openat || call == SYS_readlinkat) && argument[1] &&
                   strncmp((const char *)argument[1], "/proc", 5) == 0;
    if (call == SYS_socket && argument[0] == AF_NETLINK && lacks("netlink"))
        return EPERM;
    if (call == SYS_socket && argument[0] == AF_NETLINK && lacks("protocol"))
        return EPROTONOSUPPORT;
    if (call == SYS_getsockopt && argument[1] == SOL_SOCKET && argument[2] == SO_COOKIE &&
        lacks("cookie"))
        return ENOPROTOOPT;
    return of_proc && lacks("proc") ? EACCES : 0;
}

/* Not held back, it has its handler run before the call is over; futex(2) says ETIMEDOUT then. */
static void come_late(long call, const long argument[6])
{
    static _Atomic bool came;
    if (call == SYS_futex && (argument[1] & 127) == FUTEX_WAIT && argument[3] &&
        errno == ETIMEDOUT && !atomic_exchange(&came, true)) {
        raise(SIGUSR1);
        errno = ETIMEDOUT;
    }
}

static bool is_netlink(int fd, long (*real)(long, ...))
{
    int domain = 0;
    socklen_t length = sizeof domain;
    return real(SYS_getsockopt, fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 &&
           domain == AF_NETLINK;
}

long syscall(long call, ...)
{
    static long (*real)(long, ...);
    static _Atomic unsigned dumps;
    long argument[6];
    va_list arguments;
    va_start(arguments, call);
    for (int i = 0; i < 6; i++)
        argument[i] = va_arg(arguments, long);
    va_end(arguments);
    if (!real)
        real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    long error = refused(call, argument);
    if (error)
        return fail((int)error);
    long result =
        real(call, argument[0], argument[1], argument[2], argument[3], argument[4], argument[5]);
    if (result < 0 && lacks("luck"))
        come_late(call, argument);
    if (call != SYS_recvfrom || result <= 0 || !is_netlink((int)argument[0], real))
        return result;
    bool blind = lacks("sight") || (lacks("memory") && atomic_load(&dumps) >= DUMPS_SEEN_FIRST);
    struct nlmsghdr *first = (struct nlmsghdr *)argument[1];
    if (first->nlmsg_type == NLMSG_DONE)
        atomic_fetch_add(&dumps, 1);
    spoil(first, result, blind);
    return result;
}
