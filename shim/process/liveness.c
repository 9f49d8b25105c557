/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "process/liveness.h"

#include "base/libc.h"
#include "base/proc.h"
#include "base/real.h"
#include "base/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LOCK_PAGE 4096
/* After exec a program that is under the shim finds its entry again long before this. */
#define EXEC_PATIENCE_NS (UINT64_C(10) * 1000000000)

static void close_quietly(int fd)
{
    int saved = errno;
    kernel_call(SYS_close, fd);
    errno = saved;
}

uint64_t liveness_own_namespace(void)
{
    struct stat status;
    return libc_stat("/proc/self/ns/pid", &status) == 0 ? (uint64_t)status.st_ino : 0;
}

uint64_t liveness_own_start(void)
{
    char text[1024];
    return proc_read("/proc/self/stat", text, sizeof text) > 0
               ? proc_number(proc_stat(text, PROC_START))
               : 0;
}

static struct flock lock_of(uint32_t index)
{
    return (struct flock){
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)index, .l_len = 1};
}

bool liveness_hold(int fd, uint32_t index)
{
    struct flock lock = lock_of(index);
    void *page = MAP_FAILED;
    bool permitted =
        sandbox_permits(SYS_mmap) && sandbox_permits(SYS_madvise) && sandbox_permits(SYS_munmap);
    if (permitted && kernel_call(SYS_fcntl, fd, F_OFD_SETLK, &lock) == 0)
        page = mmap(NULL, LOCK_PAGE, PROT_NONE, MAP_SHARED, fd, 0);
    /* A child that inherited it would seem to be its parent. */
    bool held = page != MAP_FAILED && madvise(page, LOCK_PAGE, MADV_DONTFORK) == 0;
    if (page != MAP_FAILED && !held)
        munmap(page, LOCK_PAGE);
    close_quietly(fd);
    return held;
}

enum lock_answer { LOCK_FREE, LOCK_HELD, LOCK_UNTOLD };

static enum lock_answer ask_lock(const struct segment_process *process, uint32_t index,
                                 const struct onlooker *onlooker)
{
    struct flock lock = lock_of(index);
    uint64_t since = atomic_load(&process->since_ns);
    if (!(atomic_load(&process->flags) & PROCESS_LOCKED) || onlooker->fd < 0 ||
        kernel_call(SYS_fcntl, onlooker->fd, F_OFD_GETLK, &lock) < 0)
        return LOCK_UNTOLD;
    if (lock.l_type != F_UNLCK)
        return LOCK_HELD;
    /* Its memory is gone: by its end, or because it executes another program. That moves `since`
     * before and after, so that an exec which began and ended meanwhile is seen, too. */
    bool executes = atomic_load(&process->flags) & PROCESS_EXECUTING;
    return executes || atomic_load(&process->since_ns) != since ? LOCK_UNTOLD : LOCK_FREE;
}

static bool pid_exists(uint32_t pid)
{
    return kernel_call(SYS_kill, (pid_t)pid, 0) == 0 || errno != ESRCH;
}

/* A pidfd polls readable once the process has ended, reaped or not: pidfd_open(2). Where there is
 * none (a filter, an older kernel), nothing is known. */
static enum liveness ask_pidfd(uint32_t pid)
{
    int fd = (int)kernel_call(SYS_pidfd_open, (pid_t)pid, 0);
    if (fd < 0)
        return errno == ESRCH ? LIVENESS_GONE : LIVENESS_UNKNOWN;
    struct pollfd ended = {.fd = fd, .events = POLLIN};
    struct timespec now = {0, 0};
    long ready = kernel_call(SYS_ppoll, &ended, 1, &now, NULL, 0);
    close_quietly(fd);
    return ready == 1 ? LIVENESS_GONE : ready == 0 ? LIVENESS_RUNS : LIVENESS_UNKNOWN;
}

/* Whether it is this very process that has the pid now. */
static enum liveness ask_proc(uint32_t pid, uint64_t started)
{
    char path[PROC_PATH_MAX], text[1024];
    proc_path(path, "/proc/", pid, "/stat");
    if (proc_read(path, text, sizeof text) <= 0)
        return LIVENESS_UNKNOWN;
    const char *state = proc_stat(text, PROC_STATE);
    uint64_t seen = proc_number(proc_stat(text, PROC_START));
    if (started && seen && seen != started)
        return LIVENESS_GONE;
    /* The first thread may have ended before the others: its state is then a zombie's, too. */
    if (!state || *state == 'Z' || *state == 'X')
        return proc_number(proc_stat(text, PROC_THREADS)) > 1 ? LIVENESS_UNKNOWN : LIVENESS_GONE;
    return started && seen ? LIVENESS_RUNS : LIVENESS_UNKNOWN;
}

/* For a process of the onlooker's own pid namespace, which the lock does not prove to run. */
static enum liveness judge_near(uint32_t pid, uint64_t started, enum lock_answer lock)
{
    enum liveness by_pidfd = ask_pidfd(pid);
    if (by_pidfd == LIVENESS_GONE)
        return LIVENESS_GONE;
    enum liveness by_proc = ask_proc(pid, started);
    if (by_proc != LIVENESS_UNKNOWN)
        return by_proc;
    /* Neither tells who it is: then the lock does, if it was ever taken. */
    if (lock == LOCK_FREE)
        return LIVENESS_GONE;
    return by_pidfd;
}

static bool holds_nothing(const struct segment_process *process)
{
    return gauge_count(&process->conns) == 0 && atomic_load(&process->pending) == 0;
}

/* A program that was executed finds its entry again, or is not under the shim. Then, when nothing
 * is held for it, nothing is lost with its entry. */
static bool left_by_exec(const struct segment_process *process)
{
    return atomic_load(&process->flags) & PROCESS_EXECUTING && holds_nothing(process) &&
           monotonic_ns() - atomic_load(&process->since_ns) > EXEC_PATIENCE_NS;
}

bool liveness_is_near(const struct segment_process *process, const struct onlooker *onlooker)
{
    return onlooker->pid_namespace != 0 &&
           atomic_load(&process->pid_namespace) == onlooker->pid_namespace;
}

enum liveness liveness_of(const struct segment *segment, uint32_t index, uint64_t identity,
                          const struct onlooker *onlooker, bool thorough)
{
    const struct segment_process *process = &segment->process[index];
    uint32_t pid = process_pid(identity);
    bool near = liveness_is_near(process, onlooker);
    uint64_t started = atomic_load(&process->started);

    if (pid == 0 || pid > INT32_MAX)
        return LIVENESS_GONE;
    if (near && !pid_exists(pid))
        return LIVENESS_GONE;
    if (near && !thorough)
        return LIVENESS_RUNS;
    /* A claimed entry is another's until its process lives: the lock says nothing of that one. */
    enum lock_answer lock =
        process_phase(identity) == PROCESS_LIVE ? ask_lock(process, index, onlooker) : LOCK_UNTOLD;
    if (lock == LOCK_HELD)
        return LIVENESS_RUNS;
    if (near)
        return judge_near(pid, started, lock);
    if (lock == LOCK_FREE || left_by_exec(process))
        return LIVENESS_GONE;
    return LIVENESS_UNKNOWN;
}

enum liveness liveness_of_entry(const struct segment *segment, uint32_t index,
                                const struct onlooker *onlooker)
{
    uint64_t identity = atomic_load(&segment->process[index].identity);
    if (process_phase(identity) != PROCESS_LIVE && process_phase(identity) != PROCESS_CLAIMED)
        return LIVENESS_GONE;
    return liveness_of(segment, index, identity, onlooker, true);
}

bool liveness_of_anybody(const struct segment *segment, const struct onlooker *onlooker)
{
    uint32_t used = atomic_load(&segment->processes_used);
    for (uint32_t i = 0; i < used && i < SEGMENT_PROCESSES; i++)
        if (liveness_of_entry(segment, i, onlooker) != LIVENESS_GONE)
            return true;
    return false;
}
