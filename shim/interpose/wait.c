/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A parent that waits for its child knows first that the child's connections are closed.
 */
#include "base/real.h"
#include "interpose/interpose.h"
#include "interpose/lifecycle.h"

INTERPOSE pid_t wait4(pid_t pid, int *status, int options, struct rusage *usage)
{
    int own_status = 0;
    int *seen = status ? status : &own_status;
    pid_t child = REAL(wait4)(pid, seen, options, usage);
    if (child > 0)
        lifecycle_waited(child, *seen);
    return child;
}

INTERPOSE pid_t wait(int *status)
{
    return wait4(-1, status, 0, NULL);
}

INTERPOSE pid_t waitpid(pid_t pid, int *status, int options)
{
    return wait4(pid, status, options, NULL);
}

INTERPOSE pid_t wait3(int *status, int options, struct rusage *usage)
{
    return wait4(-1, status, options, usage);
}

INTERPOSE int waitid(idtype_t kind, id_t id, siginfo_t *info, int options)
{
    siginfo_t own_info = {0};
    siginfo_t *seen = info ? info : &own_info;
    int result = REAL(waitid)(kind, id, seen, options);
    /* With WNOHANG and nobody to report, si_pid is 0: waitid(2). */
    if (result == 0 &&
        (seen->si_code == CLD_EXITED || seen->si_code == CLD_KILLED || seen->si_code == CLD_DUMPED))
        lifecycle_ended(seen->si_pid);
    return result;
}
