/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/holdings.h"

#include "base/real.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PATH_ROOM 48
#define LISTING 4096
#define SECOND_NS UINT64_C(1000000000)
/* Of proc_pid_stat(5), counted from the end of the name: */
enum { STAT_STATE = 1, STAT_FLAGS = 7, STAT_THREADS = 18, STAT_START = 20 };
#define KERNEL_THREAD 0x00200000 /* PF_KTHREAD, linux/sched.h */

/* getdents64(2) */
struct entry {
    uint64_t inode;
    int64_t offset;
    uint16_t length;
    uint8_t type;
    char name[];
};

static void close_own(int fd)
{
    kernel_call(SYS_close, fd);
}

/* "/proc/PID/NAME" */
static void path_of(uint32_t pid, const char *name, char path[PATH_ROOM])
{
    char digits[12], *end = path + 6;
    unsigned count = 0;
    memcpy(path, "/proc/", 6);
    for (; count == 0 || pid; pid /= 10)
        digits[count++] = (char)('0' + pid % 10);
    while (count)
        *end++ = digits[--count];
    *end++ = '/';
    memcpy(end, name, strlen(name) + 1);
}

static uint64_t number_at(const char *digits)
{
    uint64_t number = 0;
    for (; digits && *digits >= '0' && *digits <= '9'; digits++)
        number = number * 10 + (uint64_t)(*digits - '0');
    return number;
}

static int open_directory(const char *path)
{
    return (int)kernel_call(SYS_openat, AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
}

/* Calls `each` for the names in a directory that are numbers; how many there were, or -1 when it
 * cannot be read to its end. The directory is closed. */
static int each_number(int directory, void (*each)(int directory, const char *name, void *context),
                       void *context)
{
    char listing[LISTING] __attribute__((aligned(8)));
    int count = 0;
    long got;
    while ((got = kernel_call(SYS_getdents64, directory, listing, sizeof listing)) > 0) {
        for (long at = 0; at < got;) {
            const struct entry *entry = (const void *)(listing + at);
            at += entry->length;
            if (entry->name[0] < '0' || entry->name[0] > '9')
                continue;
            count++;
            each(directory, entry->name, context);
        }
    }
    close_own(directory);
    return got < 0 ? -1 : count;
}

struct visit {
    holdings_visitor visitor;
    void *context;
};

static void visit_link(int directory, const char *name, void *context)
{
    static const char socket[] = "socket:[";
    const struct visit *visit = context;
    char link[64] = "";
    long length = kernel_call(SYS_readlinkat, directory, name, link, sizeof link - 1);
    if (length > 0 && strncmp(link, socket, sizeof socket - 1) == 0)
        visit->visitor(number_at(link + sizeof socket - 1), visit->context);
}

int holdings_error(void)
{
    char link[16] = "";
    long length = kernel_call(SYS_readlinkat, AT_FDCWD, "/proc/self", link, sizeof link - 1);
    if (length < 0)
        return errno;
    return number_at(link) == (uint64_t)kernel_call(SYS_getpid) ? 0 : ESRCH;
}

static const char *field(const char *text, unsigned number)
{
    const char *at = strrchr(text, ')'); /* the name may hold blanks and parentheses itself */
    for (unsigned i = 0; at && i < number; i++)
        at = strchr(at + 1, ' ');
    return at ? at + 1 : NULL;
}

/* What /proc/PID/stat says of a process. */
struct life {
    bool ended;     /* or it is the kernel's: it has nothing open */
    bool single;    /* one thread */
    uint64_t start; /* in clock ticks since the machine did; 0 when that cannot be told */
};

static struct life life_of(uint32_t pid)
{
    char path[PATH_ROOM], text[1024];
    path_of(pid, "stat", path);
    int fd = (int)kernel_call(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return (struct life){.ended = errno == ENOENT};
    long length = kernel_call(SYS_read, fd, text, sizeof text - 1);
    int error = errno;
    close_own(fd);
    if (length <= 0)
        return (struct life){.ended = length < 0 && error == ESRCH};
    text[length] = '\0';
    const char *state = field(text, STAT_STATE);
    bool single = number_at(field(text, STAT_THREADS)) <= 1;
    /* The first thread may have ended before the others: its state is then a zombie's, too. */
    bool ended = single && state && (*state == 'Z' || *state == 'X');
    return (struct life){
        .ended = ended || number_at(field(text, STAT_FLAGS)) & KERNEL_THREAD,
        .single = single,
        .start = number_at(field(text, STAT_START)),
    };
}

bool holdings_of(uint32_t pid, holdings_visitor visitor, void *context)
{
    char path[PATH_ROOM];
    struct visit visit = {visitor, context};
    path_of(pid, "fd", path);
    int directory = open_directory(path);
    int count = directory < 0 ? -1 : each_number(directory, visit_link, &visit);
    /* None are shown of a process whose first thread has ended, while the others go on. */
    return count > 0 || (count == 0 && life_of(pid).single);
}

struct survey {
    struct visit visit;
    uint64_t youngest; /* of those that are hidden, in clock ticks */
};

static void visit_process(int directory, const char *name, void *context)
{
    struct survey *survey = context;
    uint32_t pid = (uint32_t)number_at(name);
    (void)directory;
    if (holdings_of(pid, survey->visit.visitor, survey->visit.context))
        return;
    struct life life = life_of(pid);
    uint64_t start = life.start ? life.start : UINT64_MAX;
    if (!life.ended && start > survey->youngest)
        survey->youngest = start;
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
    int directory = open_directory("/proc");
    if (directory < 0 || each_number(directory, visit_process, &survey) <= 0)
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
