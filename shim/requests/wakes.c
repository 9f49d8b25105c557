/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "requests/wakes.h"

#include "base/real.h"
#include "base/sandbox.h"
#include "process/descriptors.h"
#include "process/service.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#define NONE 0 /* a descriptor is kept plus one */
#define FAILED (-1)
#define OPENING (-2) /* by another thread: a second one could not have the same name */
static _Atomic int bell;

/* The name of a process's bell; its length as bind(2) wants it. */
static socklen_t name_of(uint32_t process, struct sockaddr_un *name)
{
    const struct segment_process *entry = &service.segment->process[process];
    uint64_t identity = atomic_load_explicit(&entry->identity, memory_order_relaxed);
    memset(name, 0, sizeof *name);
    name->sun_family = AF_UNIX;
    int length =
        snprintf(name->sun_path + 1, sizeof name->sun_path - 1, "backpressure-%u-%u-%llx", process,
                 process_pid(identity),
                 (unsigned long long)atomic_load_explicit(&entry->started, memory_order_relaxed));
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

static int open_bell(void)
{
    struct sockaddr_un name;
    if (!sandbox_permits(SYS_socket) || !sandbox_permits(SYS_bind))
        return -1;
    int fd = (int)kernel_call(SYS_socket, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    socklen_t length = name_of(service.self, &name);
    if (kernel_call(SYS_bind, fd, &name, length) < 0) {
        kernel_call(SYS_close, fd);
        return -1;
    }
    fd = descriptor_move_high(fd);
    descriptor_put(fd, descriptor_make(DESCRIPTOR_OWN, 0, 0));
    return fd;
}

int wakes_descriptor(void)
{
    int kept = atomic_load_explicit(&bell, memory_order_relaxed);
    if (kept != NONE || !service_active() || !atomic_compare_exchange_strong(&bell, &kept, OPENING))
        return kept > NONE ? kept - 1 : -1;
    int saved = errno, fd = open_bell();
    atomic_store(&bell, fd < 0 ? FAILED : fd + 1);
    errno = saved;
    return fd;
}

void wakes_heard(void)
{
    char nothing[8];
    int fd = wakes_descriptor(), saved = errno;
    while (fd >= 0 &&
           kernel_call(SYS_recvfrom, fd, nothing, sizeof nothing, MSG_DONTWAIT, NULL, NULL) >= 0)
        ;
    errno = saved;
}

void wakes_ring(uint32_t process)
{
    struct sockaddr_un name;
    int from = wakes_descriptor(), saved = errno;
    if (from < 0 || process >= SEGMENT_PROCESSES)
        return;
    socklen_t length = name_of(process, &name);
    kernel_call(SYS_sendto, from, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL, &name, length);
    errno = saved;
}

void wakes_forget(int fd)
{
    int kept = fd + 1;
    atomic_compare_exchange_strong(&bell, &kept, NONE);
}

void wakes_after_fork_in_child(void)
{
    int kept = atomic_exchange(&bell, NONE);
    if (kept > 0)
        descriptor_close_own(kept - 1);
}
