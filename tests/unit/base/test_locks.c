/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The lease lock: who has it, who may take it over, and what the one does that lost it. Time is the
 * test's own, so that a slow machine changes nothing. And the lock that blocks signals.
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/lease_lock.h"
/* With musl's headers libc's own functions have no names of their own; there the lock is tried in
 * every program. */
#ifdef __GLIBC__
#include "base/spinlock.h"
#endif

#define MILLISECOND UINT64_C(1000000)
#define START_NS (UINT64_C(1000) * 1000 * MILLISECOND)
#define THREADS 4
#define ROUNDS 20000

static struct lease_lock lock;

static int begin(void **state)
{
    (void)state;
    atomic_store(&lock.word, LEASE_NONE);
    return 0;
}

static bool is_over(struct lease_watch *watch, uint64_t now)
{
    bool over;
    lease_look(&lock, watch, now, &over);
    return over;
}

static void one_has_it(void **state)
{
    (void)state;
    lease first = lease_take(&lock, 0, START_NS);
    assert_true(first != LEASE_NONE);
    assert_true(lease_held(&lock, first));
    assert_int_equal(lease_holder(first), 0);
    assert_true(lease_take(&lock, 1, START_NS) == LEASE_NONE);
    assert_true(lease_give(&lock, first));
    lease second = lease_take(&lock, LEASE_HOLDERS - 1, START_NS);
    assert_int_equal(lease_holder(second), LEASE_HOLDERS - 1);
    assert_false(lease_give(&lock, first));
    assert_true(lease_held(&lock, second));
}

static void holder_that_gives_signs_of_life_is_left_alone(void **state)
{
    (void)state;
    struct lease_watch watch = {.seen = LEASE_NONE};
    uint64_t now = START_NS;
    lease mine = lease_take(&lock, 1, now);
    for (unsigned i = 0; i < 100; i++) { /* the waiter waits ten seconds in all */
        now += LEASE_NS - 2 * MILLISECOND;
        assert_false(is_over(&watch, now));
        lease before = mine;
        assert_true(lease_keep(&lock, &mine, now));
        assert_true(lease_same_turn(before, mine));
    }
    assert_true(lease_give(&lock, mine));
}

/* Whoever comes late waits for half a lease all the same: the holder's clock may be another. */
static void lease_is_over_when_the_word_stood_still(void **state)
{
    (void)state;
    struct lease_watch early = {.seen = LEASE_NONE}, late = {.seen = LEASE_NONE};
    lease_take(&lock, 1, START_NS);
    assert_false(is_over(&early, START_NS));
    assert_false(is_over(&early, START_NS + LEASE_NS - 2 * MILLISECOND));
    assert_true(is_over(&early, START_NS + LEASE_NS + 2 * MILLISECOND));
    assert_false(is_over(&late, START_NS + 1000 * LEASE_NS));
    assert_false(is_over(&late, START_NS + 1000 * LEASE_NS + LEASE_NS / 3));
    assert_true(is_over(&late, START_NS + 1000 * LEASE_NS + LEASE_NS / 2));
}

static void time_ahead_is_no_age(void **state)
{
    (void)state;
    struct lease_watch watch = {.seen = LEASE_NONE};
    lease_take(&lock, 1, START_NS + 50 * LEASE_NS);
    assert_false(is_over(&watch, START_NS));
    assert_false(is_over(&watch, START_NS + 2 * LEASE_NS));
    assert_true(is_over(&watch, START_NS + 52 * LEASE_NS));
}

static void loser_neither_frees_nor_prolongs(void **state)
{
    (void)state;
    lease lost = lease_take(&lock, 1, START_NS);
    lease thief = lease_take_over(&lock, lost, 2, START_NS + LEASE_NS);
    assert_true(thief != LEASE_NONE);
    assert_false(lease_held(&lock, lost));
    assert_false(lease_keep(&lock, &lost, START_NS + LEASE_NS));
    assert_false(lease_give(&lock, lost));
    assert_true(lease_held(&lock, thief));
    assert_true(lease_take(&lock, 1, START_NS + LEASE_NS) == LEASE_NONE);
    assert_true(lease_give(&lock, thief));
}

/* A word that was judged and then changed is not taken: its holder showed that it lives. */
static void judgement_of_an_older_word_is_void(void **state)
{
    (void)state;
    lease judged = lease_take(&lock, 1, START_NS), mine = judged;
    assert_true(lease_keep(&lock, &mine, START_NS + 2 * LEASE_NS));
    assert_true(lease_take_over(&lock, judged, 2, START_NS + 2 * LEASE_NS) == LEASE_NONE);
    assert_true(lease_give(&lock, mine));
    mine = lease_take(&lock, 1, START_NS); /* at the very time of the first */
    assert_true(lease_take_over(&lock, judged, 2, START_NS + 2 * LEASE_NS) == LEASE_NONE);
    assert_true(lease_held(&lock, mine));
}

static unsigned guarded;

static void *work(void *number)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        lease mine;
        while ((mine = lease_take(&lock, (uint32_t)(uintptr_t)number, START_NS)) == LEASE_NONE)
            sched_yield();
        guarded++; /* no atomic: TSan would see two inside, and the sum would tell */
        if (i % 7 == 0 && !lease_keep(&lock, &mine, START_NS + i * MILLISECOND))
            abort();
        if (!lease_give(&lock, mine))
            abort();
    }
    return NULL;
}

static void run_threads(void *(*routine)(void *), void *results[THREADS])
{
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, routine, (void *)i), 0);
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], &results[i]), 0);
}

static void threads_are_inside_one_at_a_time(void **state)
{
    void *results[THREADS];
    (void)state;
    guarded = 0;
    run_threads(work, results);
    assert_int_equal(guarded, THREADS * ROUNDS);
    assert_true(atomic_load(&lock.word) == LEASE_NONE);
}

static lease judged_by_all;

static void *take_over(void *number)
{
    uint32_t holder = (uint32_t)(uintptr_t)number + 10;
    return (void *)(uintptr_t)lease_take_over(&lock, judged_by_all, holder, START_NS + LEASE_NS);
}

static void one_of_many_takes_over(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 200; round++) {
        void *results[THREADS];
        unsigned got = 0;
        atomic_store(&lock.word, LEASE_NONE);
        judged_by_all = lease_take(&lock, 1, START_NS);
        run_threads(take_over, results);
        for (unsigned i = 0; i < THREADS; i++)
            got += results[i] && lease_held(&lock, (lease)(uintptr_t)results[i]);
        assert_int_equal(got, 1);
        for (unsigned i = 0; i < THREADS; i++)
            got += results[i] != NULL;
        assert_int_equal(got, 2);
        assert_false(lease_give(&lock, judged_by_all));
    }
}

#ifdef __GLIBC__
static struct spinlock plain;
static unsigned counted; /* under it */

static void *count_under_lock(void *number)
{
    for (unsigned round = 0; round < ROUNDS; round++) {
        if ((uintptr_t)number % 2 == 0 || !spinlock_try(&plain))
            spinlock_take(&plain);
        counted++;
        spinlock_give(&plain);
    }
    return NULL;
}

static void nobody_is_lost_who_sleeps_for_the_lock(void **state)
{
    void *results[THREADS];
    (void)state;
    spinlock_take(&plain); /* libc's own functions are looked up before there are threads */
    spinlock_give(&plain);
    run_threads(count_under_lock, results);
    assert_int_equal(counted, THREADS * ROUNDS);
    assert_int_equal(atomic_load(&plain.taken), 0);
}

#ifndef __SANITIZE_THREAD__
static volatile sig_atomic_t handled;

static void handle(int signal)
{
    (void)signal;
    spinlock_take(&plain);
    handled++;
    spinlock_give(&plain);
}

static void handler_waits_until_its_thread_gives_the_lock(void **state)
{
    (void)state;
    signal(SIGUSR1, handle);
    spinlock_take(&plain);
    assert_false(spinlock_try(&plain));
    raise(SIGUSR1);
    assert_int_equal(handled, 0);
    spinlock_give(&plain);
    assert_int_equal(handled, 1);
    assert_true(spinlock_try(&plain));
    raise(SIGUSR1);
    assert_int_equal(handled, 1);
    spinlock_give(&plain);
    assert_int_equal(handled, 2);
}
#endif
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(one_has_it, begin),
        cmocka_unit_test_setup(holder_that_gives_signs_of_life_is_left_alone, begin),
        cmocka_unit_test_setup(lease_is_over_when_the_word_stood_still, begin),
        cmocka_unit_test_setup(time_ahead_is_no_age, begin),
        cmocka_unit_test_setup(loser_neither_frees_nor_prolongs, begin),
        cmocka_unit_test_setup(judgement_of_an_older_word_is_void, begin),
        cmocka_unit_test_setup(threads_are_inside_one_at_a_time, begin),
        cmocka_unit_test_setup(one_of_many_takes_over, begin),
#ifdef __GLIBC__
        cmocka_unit_test(nobody_is_lost_who_sleeps_for_the_lock),
#ifndef __SANITIZE_THREAD__ /* which hands signals over later than the kernel does */
        cmocka_unit_test(handler_waits_until_its_thread_gives_the_lock),
#endif
#endif
    };
    return cmocka_run_group_tests_name("locks", tests, NULL, NULL);
}
