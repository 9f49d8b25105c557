/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A thread that re-arms EPOLLONESHOT, while another one, which is told at once, closes the
 * descriptor. That is the program's own right: epoll(7) orders the two. TSan of gcc 12 takes only
 * EPOLL_CTL_ADD for a hand-over, and of EPOLL_CTL_MOD reports a race; for it alone a lock stands
 * where it does not see the order. Without TSan the two stay as close together as they can be.
 */
#ifndef TESTS_REARMING_H
#define TESTS_REARMING_H

#include <pthread.h>

#ifdef __SANITIZE_THREAD__
static pthread_mutex_t rearming = PTHREAD_MUTEX_INITIALIZER;

static inline void rearming_begin(void)
{
    pthread_mutex_lock(&rearming);
}

static inline void rearming_end(void)
{
    pthread_mutex_unlock(&rearming);
}
#else
static inline void rearming_begin(void)
{
}

static inline void rearming_end(void)
{
}
#endif

#endif
