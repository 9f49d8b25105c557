/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Entries of processes that are gone: who frees them, and what only they held.
 *
 *     live, or claimed --(its process is gone)--> reaping --(what it held is free)--> free
 *                                                 reaping --(the reaper is gone, too)--> reaping
 *                                                           by another
 *
 * Only one reaps an entry, and until that one is done, or known to be gone, nobody else has it.
 * Everything here is async-signal-safe.
 */
#ifndef BACKPRESSURE_REAPING_H
#define BACKPRESSURE_REAPING_H

#include "process/liveness.h"
#include "process/service.h"

#include <stdbool.h>
#include <stdint.h>

/* Who hears of processes that come and go; async-signal-safe. */
struct reaping_audience {
    /* `child` gets everything this process holds: before fork, so that nothing is lost between. */
    void (*inherits)(uint32_t child);
    /* The process is gone; when that is not `proved`, what it held goes on counting until it is. */
    void (*gone)(uint32_t process, bool proved);
};

/* `audience` lives for ever. Before the program runs. */
void reaping_tell(const struct reaping_audience *audience);

/* Frees the entry, which stands for `identity`, and what only it held. Without proof that its
 * process is gone, that goes on counting until the kernel says that the connections are gone. */
void reaping_reap(struct segment_process *process, uint64_t identity, bool proved);

/* Reaps the entry if its process is gone, and says whether it was. `thorough` as in
 * processes_reap. */
bool reaping_check(struct segment_process *process, const struct onlooker *here, bool thorough);

/* A fork for each connection must not leave a table of the dead: looks at two entries more. */
void reaping_look_at_some(const struct onlooker *here);

/* `child` gets everything that this process holds. */
void reaping_tell_inherits(uint32_t child);

#endif
