/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How a service's segment is joined, or created.
 *
 * Linked into bpctl too. Not for signal handlers.
 */
#ifndef BACKPRESSURE_JOINING_H
#define BACKPRESSURE_JOINING_H

#include "segment/segment.h"

struct joined {
    struct segment *segment; /* mapped; the caller's to keep or unmap */
    int fd;                  /* the file, close-on-exec; the caller's, too */
    bool created;
    bool found; /* by its descriptor: its name is gone */
};

/*
 * Joins the service `name` of the calling user, or creates it with `limits` when it does not exist
 * or none of its processes runs. `why` gets a line on failure.
 */
enum segment_result segment_join(const char *name, const struct limits *limits,
                                 struct joined *joined, char *why, size_t why_size);

/*
 * Opens an existing segment that is at `path`, or was until its name was removed. Does not look
 * whether any of its processes runs. Stores what segment_open says of the path when there is none.
 */
enum segment_result segment_open_or_find(const char *path, struct joined *joined);

/*
 * Keeps services from being created in the directory, or being cleared from it, until the returned
 * descriptor is closed. -1 with errno when it cannot be locked.
 */
int segment_lock_directory(const char *directory);

#endif
