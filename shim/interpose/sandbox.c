/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A seccomp filter is noted as it is installed: sandbox.h tells what for.
 */
#include "base/real.h"
#include "interpose/interpose.h"
#include "interpose/lifecycle.h"

#include <linux/seccomp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <sys/prctl.h>

struct prctl_call {
    int option;
    unsigned long argument[4];
};

static long prctl_real(const void *context)
{
    const struct prctl_call *call = context;
    return REAL(prctl)(call->option, call->argument[0], call->argument[1], call->argument[2],
                       call->argument[3]);
}

INTERPOSE int prctl(int option, ...)
{
    struct prctl_call call = {.option = option};
    va_list arguments;
    va_start(arguments, option);
    for (int i = 0; i < 4; i++)
        call.argument[i] = va_arg(arguments, unsigned long);
    va_end(arguments);
    if (option != PR_SET_SECCOMP)
        return (int)prctl_real(&call);
    /* NOLINTNEXTLINE(performance-no-int-to-ptr): prctl's pointers come as numbers. */
    const struct sock_fprog *program = (const void *)call.argument[1];
    return (int)lifecycle_sandbox(prctl_real, &call,
                                  call.argument[0] == SECCOMP_MODE_FILTER ? program : NULL);
}
