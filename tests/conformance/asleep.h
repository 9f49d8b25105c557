/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Waiting until another thread sleeps in the kernel, so that what is done to it meets it there.
 */
#ifndef BACKPRESSURE_TEST_ASLEEP_H
#define BACKPRESSURE_TEST_ASLEEP_H

#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static inline void nap(void)
{
    struct timespec time = {.tv_sec = 0, .tv_nsec = 1000000};
    nanosleep(&time, NULL);
}

/* By what /proc says of it: `thread_id` is the kernel's, or 0 until it runs. False after some
 * seconds. */
static inline bool falls_asleep(const _Atomic int *thread_id)
{
    char path[64], text[256], *state;
    for (int i = 0; i < 5000; i++, nap()) {
        if (atomic_load(thread_id) == 0)
            continue;
        snprintf(path, sizeof path, "/proc/self/task/%d/stat", atomic_load(thread_id));
        int fd = open(path, O_RDONLY);
        ssize_t length = read(fd, text, sizeof text - 1);
        close(fd);
        text[length > 0 ? length : 0] = '\0';
        state = strrchr(text, ')');
        if (state && state[2] == 'S')
            return true;
    }
    return false;
}

#endif
