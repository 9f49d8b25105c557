/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Preloaded beside vsftpd, whose seccomp filter is older than its libc: it lists stat and select,
 * and glibc calls newfstatat (from 2.33 on) and pselect6 (from 2.34 on), which gets it killed at
 * the first transfer. These make the calls that it lists.
 */
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef SYS_select
int fstat64(int fd, struct stat64 *status)
{
    return (int)syscall(SYS_fstat, fd, status);
}

int stat64(const char *path, struct stat64 *status)
{
    return (int)syscall(SYS_stat, path, status);
}

int lstat64(const char *path, struct stat64 *status)
{
    return (int)syscall(SYS_lstat, path, status);
}

int select(int end, fd_set *read_fds, fd_set *write_fds, fd_set *except_fds,
           struct timeval *timeout)
{
    return (int)syscall(SYS_select, end, read_fds, write_fds, except_fds, timeout);
}
#endif
