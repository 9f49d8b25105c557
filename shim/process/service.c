/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "process/service.h"

#include "base/libc.h"
#include "base/proc.h"
#include "base/real.h"
#include "base/sandbox.h"
#include "process/joining.h"
#include "process/liveness.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXIT_CANNOT_WORK 1
#define EXIT_USAGE 2
/* Hands the name down, so that children without one of their own join the same service. */
#define NAME_VARIABLE "BACKPRESSURE_SERVICE"

static struct segment nowhere; /* what `service.segment` is before a service was joined */

struct service service = {.segment = &nowhere};
_Thread_local int in_vfork_child __attribute__((tls_model("initial-exec")));

void service_say(const char *text, const char *detail)
{
    struct iovec line[] = {
        {.iov_base = "backpressure: ", .iov_len = 14},
        {.iov_base = (char *)text, .iov_len = strlen(text)},
        {.iov_base = (char *)detail, .iov_len = detail ? strlen(detail) : 0},
        {.iov_base = "\n", .iov_len = 1},
    };
    int saved = errno;
    (void)kernel_call(SYS_writev, STDERR_FILENO, line, sizeof line / sizeof *line);
    errno = saved;
}

void service_event(enum event_kind kind, uint64_t amount, const char *text)
{
    segment_event(service.segment, kind, service.pid, amount, text);
}

void service_say_name_is_lost(void)
{
    service_say("the file of its control segment was removed or replaced (logind's RemoveIPC?): "
                "limits go on, and bpctl finds it by its processes",
                NULL);
    service_event(EVENT_NAME_LOST, 0, "found by its processes from now on");
}

bool service_detach(const char *why)
{
    bool replaced = sandbox_permits(SYS_mmap);
    if (!atomic_exchange(&service.active, false))
        return replaced;
    /* Other threads may be in the middle of a change: they must find memory, if an empty one. */
    if (replaced && mmap(service.segment, sizeof *service.segment, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
        abort();
    atomic_fetch_or(&service.hindered, SERVICE_DETACHED);
    service_say(why, ": this process goes on without limits");
    return replaced;
}

/* Fails open, or does not start at all when the operator asked for that. */
static void give_up(bool strict, int status, const char *text, const char *detail)
{
    service_say(text, detail);
    if (strict) {
        service_say("not started, because of strict=on", NULL);
        _exit(status);
    }
}

static void default_name(char name[SERVICE_NAME_MAX])
{
    const char *inherited = libc_secure_getenv(NAME_VARIABLE);
    char command[16];

    if (inherited && limits_name_valid(inherited)) {
        memcpy(name, inherited, strlen(inherited) + 1);
        return;
    }
    long length = proc_read("/proc/self/comm", command, sizeof command);
    for (long i = 0; i < length; i++) {
        char given = command[i], allowed[2] = {given, '\0'};
        if (given == '\n')
            break;
        name[i] = limits_name_valid(allowed) || (i > 0 && given == '.') ? given : '_';
        name[i + 1] = '\0';
    }
    if (!limits_name_valid(name))
        memcpy(name, "service", sizeof "service");
}

static bool in_other_network(const struct segment *segment)
{
    struct stat status;
    return libc_stat("/proc/self/ns/net", &status) == 0 &&
           (uint64_t)status.st_ino != atomic_load(&segment->network);
}

int service_start(void)
{
    static struct limits_source source;
    static struct limits defaults;
    char why[SEGMENT_PATH_MAX + 128];
    const char *given = libc_secure_getenv("BACKPRESSURE");

    if (!given)
        return -1;
    limits_defaults(&defaults);
    limits_source_init(&source, &defaults);
    if (!limits_take_words(&source, given, true)) {
        /* What follows the mistake was not read: strict counts wherever it stands. */
        give_up(strstr(given, "strict=on") != NULL, EXIT_USAGE, "BACKPRESSURE: ", source.error);
        return -1;
    }
    if (!source.name[0])
        default_name(source.name);
    struct joined joined;
    if (segment_join(source.name, &source.limits, &joined, why, sizeof why) != SEGMENT_OK) {
        give_up(source.limits.value[LIMIT_STRICT] == 1, EXIT_CANNOT_WORK, "cannot work: ", why);
        return -1;
    }
    uint32_t not_said = 0;
    service.segment = joined.segment;
    service.pid = (uint32_t)getpid();
    service.pid_namespace = liveness_own_namespace();
    service.started = liveness_own_start();
    service.foreign_network = in_other_network(joined.segment);
    atomic_store(&service.active, true);
    setenv(NAME_VARIABLE, source.name, 1);
    if (joined.created)
        service_event(EVENT_STARTED, 0, given);
    if (joined.found && atomic_compare_exchange_strong(&joined.segment->name_lost, &not_said, 1))
        service_say_name_is_lost();
    return joined.fd;
}
