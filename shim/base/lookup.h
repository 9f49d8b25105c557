/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where the functions are that other libraries have under the same names.
 */
#ifndef BACKPRESSURE_LOOKUP_H
#define BACKPRESSURE_LOOKUP_H

#include <stdint.h>

struct lookup {
    const char *name;
    void *found; /* NULL at first, and when there is no such function */
    uint32_t hash;
};

/*
 * Finds for each name that has none yet what dlsym(RTLD_NEXT, name) finds in the library that this
 * is linked into: the function in the first library behind it in the search order, in the version
 * that programs are linked with today. (A function that its library chooses when it is loaded,
 * STT_GNU_IFUNC, is passed over; no libc has one of those that are interposed.) Takes the loader's
 * lock and nothing else: nothing is allocated.
 *
 * It is not dlsym, because glibc before 2.34 allocates there, and an allocator of the program's own
 * (jemalloc) may be the one that just made the call that is being bound, with its lock held. And
 * because glibc's libc.so.6 has no dlsym before 2.34.
 */
void lookup_next(struct lookup *lookups, unsigned count);

#endif
