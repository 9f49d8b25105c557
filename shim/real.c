/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "real.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

struct real_functions real_functions;

/* Stands in for a function that this libc lacks: what a kernel without the call would answer. */
static long missing(void)
{
    errno = ENOSYS;
    return -1;
}

/* POSIX wants dlsym's object pointer to convert to a function pointer; ISO C has no cast for it. */
#define BIND(type, name, arguments)                                                                \
    do {                                                                                           \
        void *symbol = dlsym(RTLD_NEXT, #name);                                                    \
        if (!symbol) {                                                                             \
            long (*stand_in)(void) = missing;                                                      \
            memcpy(&symbol, &stand_in, sizeof symbol);                                             \
        }                                                                                          \
        __atomic_store((void **)&real_functions.name, &symbol, __ATOMIC_RELEASE);                  \
    } while (0);

void real_bind(void)
{
    REAL_FUNCTIONS(BIND)
}
