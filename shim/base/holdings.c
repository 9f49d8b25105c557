/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/holdings.h"

#include "base/proc.h"
#include "base/real.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS UINT64_C(1000000000)
#define KERNEL_THREAD 0x00200000 /* PF_KTHREAD, linux/sched.h */

struct visit {
    holdings_visitor visitor;
    void *context;
};

static bool visit_link(int directory, const char *name, void *context)
{
    static const char socket[] = "socket:[";
    const struct visit *visit = context;
    char link[64] = "";
    long length = kernel_call(SYS_readlinkat, directory, name, link, sizeof link - 1);
    if (length > 0 && strncmp(link, socket, sizeof socket - 1) == 0)
        visit->visitor(proc_number(link + sizeof socket - 1), visit->context);
    return false;
}

int holdings_error(void)
{
    char link[16] = "";
    long length = kernel_call(SYS_readlinkat, AT_FDCWD, "/proc/self", link, sizeof link - 1);
    if (length < 0)
        return errno;
    return proc_number(link) == (uint64_t)kernel_call(SYS_getpid) ? 0 : ESRCH;
}

/* What /proc/PID/stat says of a process. */
struct life {
    bool ended;     /* or it is the kernel's: it has nothing open */
    bool single;    /* one thread */
    uint64_t start; /* in clock ticks since the machine did; 0 when that cannot be told */
};

static struct life life_of(uint32_t pid)
{
    char path[PROC_PATH_MAX], text[1024];
    proc_path(path, "/proc/", pid, "/stat");
    long length = proc_read(path, text, sizeof text);
    if (length <= 0) /* of one that ended the file is gone, or says so when it is read */
        return (struct life){.ended = length == -ENOENT || length == -ESRCH};
    const char *state = proc_stat(text, PROC_STATE);
    bool single = proc_number(proc_stat(text, PROC_THREADS)) <= 1;
    /* The first thread may have ended before the others: its state is then a zombie's, too. */
    bool ended = single && state && (*state == 'Z' || *state == 'X');
    return (struct life){
        .ended = ended || proc_number(proc_stat(text, PROC_FLAGS)) & KERNEL_THREAD,
        .single = single,
        .start = proc_number(proc_stat(text, PROC_START)),
    };
}

bool holdings_of(uint32_t pid, holdings_visitor visitor, void *context)
{
    char path[PROC_PATH_MAX];
    struct visit visit = {visitor, context};
    proc_path(path, "/proc/", pid, "/fd");
    struct proc_listing listing = proc_each(path, visit_link, &visit);
    /* None are shown of a process whose first thread has ended, while the others go on. */
    return listing.whole && (listing.count > 0 || life_of(pid).single);
}

struct survey {
    struct visit visit;
    uint64_t youngest; /* of those that are hidden, in clock ticks */
};

static bool visit_process(int directory, const char *name, void *context)
{
    struct survey *survey = context;
    uint32_t pid = (uint32_t)proc_number(name);
    (void)directory;
    if (holdings_of(pid, survey->visit.visitor, survey->visit.context))
        return false;
    struct life life = life_of(pid);
    uint64_t start = life.start ? life.start : UINT64_MAX;
    if (!life.ended && start > survey->youngest)
        survey->youngest = start;
    return false;
}

static uint64_t now_by(clockid_t clock)
{
    struct timespec now = {0, 0};
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

bool holdings_of_all(holdings_visitor visitor, void *context, uint64_t *hidden_since_ns)
{
    struct survey survey = {.visit = {visitor, context}};
    struct proc_listing listing = proc_each("/proc", visit_process, &survey);
    if (!listing.whole || listing.count == 0)
        return false;
    *hidden_since_ns = 0;
    if (survey.youngest == 0)
        return true;
    if (survey.youngest == UINT64_MAX)
        return false;
    /* A tick later, for it is cut off; and processes started by a clock that goes on in a suspend.
     */
    uint64_t per_second = (uint64_t)sysconf(_SC_CLK_TCK);
    uint64_t asleep = now_by(CLOCK_BOOTTIME) - now_by(CLOCK_MONOTONIC);
    uint64_t since = (survey.youngest + 1) * (SECOND_NS / per_second);
    *hidden_since_ns = since > asleep ? since - asleep : 1;
    return true;
}
