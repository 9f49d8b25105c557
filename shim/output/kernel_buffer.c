/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "output/kernel_buffer.h"

#include "base/proc.h"
#include "base/real.h"
#include "policy/credit_shares.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>

#define TCP_MOST 4096 /* tcp(7): the default of tcp_wmem[2] */

_Atomic uint32_t kernel_buffer_tcp;

uint32_t kernel_buffer_ask_tcp(void)
{
    char text[64];
    uint32_t most = TCP_MOST;
    /* Three numbers with tabs between them; the last one counts. */
    proc_read("/proc/sys/net/ipv4/tcp_wmem", text, sizeof text);
    const char *last = strrchr(text, '\t');
    uint64_t number = proc_number(last ? last + 1 : NULL) / 1024;
    if (number > 0 && number < UINT32_MAX)
        most = (uint32_t)number;
    atomic_store(&kernel_buffer_tcp, most);
    return most;
}

long kernel_buffer_set(int fd, int level, int name, uint32_t value)
{
    return kernel_call(SYS_setsockopt, fd, level, name, &value, sizeof value);
}

uint32_t kernel_buffer_get(int fd, int level, int name)
{
    uint32_t value = 0;
    socklen_t length = sizeof value;
    kernel_call(SYS_getsockopt, fd, level, name, &value, &length);
    return value;
}

uint32_t kernel_buffer_told_after(int name, const void *value, socklen_t length, int *result)
{
    int trial = (int)kernel_call(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (trial < 0) {
        *result = -1;
        return 0;
    }
    *result = (int)kernel_call(SYS_setsockopt, trial, SOL_SOCKET, name, value, length);
    uint32_t told = *result == 0 ? kernel_buffer_get(trial, SOL_SOCKET, SO_SNDBUF) : 0;
    int saved = errno;
    kernel_call(SYS_close, trial);
    errno = saved;
    return told;
}

uint32_t kernel_buffer_locked_most(void)
{
    static _Atomic uint32_t known;
    uint32_t most = atomic_load_explicit(&known, memory_order_relaxed);
    if (most)
        return most;
    int wish = INT32_MAX / 2, result;
    most = kernel_buffer_told_after(SO_SNDBUF, &wish, sizeof wish, &result) / 1024;
    most = most > CREDIT_FLOOR ? most : KERNEL_BUFFER_UNIX;
    atomic_store(&known, most);
    return most;
}
