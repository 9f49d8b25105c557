/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What differs between the libcs that this one library loads into: glibc from 2.17 on, and musl.
 *
 * It is compiled with glibc's headers. What it takes from libc must be there in all of them, under
 * a version that glibc 2.17 has (musl knows no versions), or be asked for weakly and checked.
 * tests/unit/test_symbols.sh compares what was linked with these rules.
 */
#ifndef BACKPRESSURE_LIBC_H
#define BACKPRESSURE_LIBC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

/* Whether this process runs with musl. */
const char *gnu_get_libc_version(void);
#pragma weak gnu_get_libc_version
static inline bool libc_is_musl(void)
{
    return !gnu_get_libc_version;
}

/*
 * A length in a struct msghdr or cmsghdr: msg_iovlen, msg_controllen, cmsg_len. They are a size_t
 * to the kernel and to glibc. To musl they are an int or a socklen_t with four bytes of padding
 * behind them (as POSIX has them), which its programs leave as they were.
 */
static inline size_t libc_message_length(size_t field)
{
    return libc_is_musl() ? (uint32_t)field : field;
}

/*
 * pthread_cleanup_push and pthread_cleanup_pop, which are macros with a different meaning in each
 * libc. The function that pushes also pops, and does not return in between. Without a threads
 * library (glibc before 2.34) nobody can be cancelled, and the handler only runs when popped.
 */
struct libc_cleanup {
    void *libcs[4]; /* glibc's struct _pthread_cleanup_buffer; musl's struct __ptcb takes three */
    void (*routine)(void *);
    void *argument;
};
void libc_cleanup_push(struct libc_cleanup *cleanup, void (*routine)(void *), void *argument);
void libc_cleanup_pop(struct libc_cleanup *cleanup, bool run);

/* pthread_testcancel(3). */
void libc_test_cancel(void);

/* pthread_atfork(3), without a handler for the parent. */
void libc_at_fork(void (*before)(void), void (*in_child)(void));

/* secure_getenv(3). musl has it from 1.1.21 on; its loader preloads nothing into a program that
 * must not trust its environment. */
const char *libc_secure_getenv(const char *name);

/* stat(2), lstat(2) and fstat(2), which glibc's libc.so.6 has from 2.33 on. Async-signal-safe. */
int libc_stat(const char *path, struct stat *status);
int libc_lstat(const char *path, struct stat *status);
int libc_fstat(int fd, struct stat *status);

#endif
