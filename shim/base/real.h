/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The functions behind the interposed symbols: the next definition in the search order, which is
 * libc's, or another preloaded library's.
 */
#ifndef BACKPRESSURE_REAL_H
#define BACKPRESSURE_REAL_H

#include "base/internal.h"

#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>

typedef void (*signal_handler)(int);

#define REAL_FUNCTIONS(X)                                                                          \
    X(int, accept, (int, struct sockaddr *, socklen_t *))                                          \
    X(int, accept4, (int, struct sockaddr *, socklen_t *, int))                                    \
    X(int, connect, (int, const struct sockaddr *, socklen_t))                                     \
    X(int, listen, (int, int))                                                                     \
    X(int, getsockopt, (int, int, int, void *, socklen_t *))                                       \
    X(int, setsockopt, (int, int, int, const void *, socklen_t))                                   \
    X(int, close, (int))                                                                           \
    X(int, close_range, (unsigned, unsigned, int))                                                 \
    X(void, closefrom, (int))                                                                      \
    X(int, fclose, (FILE *))                                                                       \
    X(FILE *, freopen, (const char *, const char *, FILE *))                                       \
    X(FILE *, freopen64, (const char *, const char *, FILE *))                                     \
    X(int, dup, (int))                                                                             \
    X(int, dup2, (int, int))                                                                       \
    X(int, dup3, (int, int, int))                                                                  \
    X(int, fcntl, (int, int, ...))                                                                 \
    X(int, fcntl64, (int, int, ...))                                                               \
    X(int, ioctl, (int, unsigned long, ...))                                                       \
    X(ssize_t, read, (int, void *, size_t))                                                        \
    X(ssize_t, __read_chk, (int, void *, size_t, size_t))                                          \
    X(ssize_t, readv, (int, const struct iovec *, int))                                            \
    X(ssize_t, preadv64v2, (int, const struct iovec *, int, off64_t, int))                         \
    X(ssize_t, recv, (int, void *, size_t, int))                                                   \
    X(ssize_t, __recv_chk, (int, void *, size_t, size_t, int))                                     \
    X(ssize_t, recvfrom, (int, void *, size_t, int, struct sockaddr *, socklen_t *))               \
    X(ssize_t, __recvfrom_chk, (int, void *, size_t, size_t, int, struct sockaddr *, socklen_t *)) \
    X(ssize_t, write, (int, const void *, size_t))                                                 \
    X(ssize_t, writev, (int, const struct iovec *, int))                                           \
    X(ssize_t, pwritev64v2, (int, const struct iovec *, int, off64_t, int))                        \
    X(ssize_t, send, (int, const void *, size_t, int))                                             \
    X(ssize_t, sendto, (int, const void *, size_t, int, const struct sockaddr *, socklen_t))       \
    X(ssize_t, sendfile, (int, int, off_t *, size_t))                                              \
    X(ssize_t, sendfile64, (int, int, off64_t *, size_t))                                          \
    X(ssize_t, splice, (int, off64_t *, int, off64_t *, size_t, unsigned))                         \
    X(ssize_t, sendmsg, (int, const struct msghdr *, int))                                         \
    X(int, sendmmsg, (int, struct mmsghdr *, unsigned, int))                                       \
    X(ssize_t, recvmsg, (int, struct msghdr *, int))                                               \
    X(int, recvmmsg, (int, struct mmsghdr *, unsigned, int, struct timespec *))                    \
    X(int, epoll_ctl, (int, int, int, struct epoll_event *))                                       \
    X(int, epoll_wait, (int, struct epoll_event *, int, int))                                      \
    X(int, epoll_pwait, (int, struct epoll_event *, int, int, const sigset_t *))                   \
    X(int, epoll_pwait2,                                                                           \
      (int, struct epoll_event *, int, const struct timespec *, const sigset_t *))                 \
    X(int, poll, (struct pollfd *, nfds_t, int))                                                   \
    X(int, ppoll, (struct pollfd *, nfds_t, const struct timespec *, const sigset_t *))            \
    X(int, __poll_chk, (struct pollfd *, nfds_t, int, size_t))                                     \
    X(int, __ppoll_chk,                                                                            \
      (struct pollfd *, nfds_t, const struct timespec *, const sigset_t *, size_t))                \
    X(int, select, (int, fd_set *, fd_set *, fd_set *, struct timeval *))                          \
    X(int, pselect,                                                                                \
      (int, fd_set *, fd_set *, fd_set *, const struct timespec *, const sigset_t *))              \
    X(pid_t, fork, (void))                                                                         \
    X(pid_t, _Fork, (void))                                                                        \
    X(int, posix_spawn,                                                                            \
      (pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *,       \
       char *const[], char *const[]))                                                              \
    X(int, posix_spawnp,                                                                           \
      (pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *,       \
       char *const[], char *const[]))                                                              \
    X(int, execve, (const char *, char *const[], char *const[]))                                   \
    X(int, execv, (const char *, char *const[]))                                                   \
    X(int, execvp, (const char *, char *const[]))                                                  \
    X(int, execvpe, (const char *, char *const[], char *const[]))                                  \
    X(int, fexecve, (int, char *const[], char *const[]))                                           \
    X(int, execveat, (int, const char *, char *const[], char *const[], int))                       \
    X(int, system, (const char *))                                                                 \
    X(FILE *, popen, (const char *, const char *))                                                 \
    X(pid_t, wait4, (pid_t, int *, int, struct rusage *))                                          \
    X(int, waitid, (idtype_t, id_t, siginfo_t *, int))                                             \
    X(int, sigaction, (int, const struct sigaction *, struct sigaction *))                         \
    X(signal_handler, signal, (int, signal_handler))                                               \
    X(int, prctl, (int, ...))                                                                      \
    X(long, syscall, (long, ...))

struct real_functions {
#define REAL_MEMBER(type, name, arguments) type(*name) arguments;
    REAL_FUNCTIONS(REAL_MEMBER)
#undef REAL_MEMBER
};

extern INTERNAL struct real_functions real_functions;

/* Binds every function. Idempotent; safe before constructors and from several threads. */
void real_bind(void);

/* The real function `name`, bound on first use. */
#define REAL(name)                                                                                 \
    (__builtin_expect(real_functions.name != NULL, 1) ? real_functions.name                        \
                                                      : (real_bind(), real_functions.name))

/* Whether it is bound, so that real_functions.NAME may be called: a tail call, which REAL is not.
 */
#define BOUND(name) __builtin_expect(real_functions.name != NULL, 1)

/*
 * Libc's `syscall`, bound on first use; or, once a seccomp filter was put around the program, a
 * stand-in that makes only calls which the filter allows, and fails with EPERM otherwise.
 */
extern INTERNAL long (*_Atomic real_kernel)(long number, ...);

/*
 * A system call of the shim's own, past everything that is interposed, libc's `syscall` included.
 * Arguments as there. What stands for a call of the program's is made as the program made it, by
 * REAL.
 */
#define kernel_call(...)                                                                           \
    (__builtin_expect(atomic_load_explicit(&real_kernel, memory_order_relaxed) != NULL, 1)         \
         ? atomic_load_explicit(&real_kernel, memory_order_relaxed)(__VA_ARGS__)                   \
         : (real_bind(), real_kernel)(__VA_ARGS__))

/* From now on kernel_call asks first whether a call is allowed; it fails with EPERM if not. */
void real_enter_sandbox(bool (*allows)(long number, const long argument[6]));

#endif
