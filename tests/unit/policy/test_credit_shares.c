/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How much of the free credit one connection is to have.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "policy/credit_shares.h"

#define NONE CREDIT_UNBOUNDED
#define KERNELS 4096
#define LOCKED 416

static void a_first_grant_is_a_sixteenth_of_what_is_free(void **state)
{
    static const struct {
        uint64_t most, free, start;
    } cases[] = {
        {NONE, NONE, KERNELS},         /* no ceiling: the kernel's own */
        {NONE, 16 * KERNELS, KERNELS}, /* so much free that it is affordable */
        {NONE, 16 * KERNELS - 16, 64}, /* a little less, and it starts small */
        {NONE, 1024, 64},
        {NONE, 512, 32},
        {NONE, 63, 4},
        {NONE, 0, 4}, /* the floor was promised */
        {48, NONE, 48},
        {48, 1024, 48},
        {2, NONE, 4},
        {2, 0, 4},
        {KERNELS, NONE, KERNELS},
        {KERNELS - 1, NONE, 64},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(credit_shares_start(&(struct credit_share){
                             .most = cases[i].most, .free = cases[i].free, .kernels = KERNELS}),
                         cases[i].start);
}

static void a_grant_doubles_while_that_leaves_as_much_free(void **state)
{
    static const struct {
        uint64_t grant, most, free, wish;
        uint32_t reached;
    } cases[] = {
        {64, NONE, NONE, 128, 128},
        {64, NONE, 1000, 128, 128},
        {64, NONE, 128, 128, 128},
        {64, NONE, 100, 114, 114},
        {64, NONE, 127, 127, 127},
        {64, NONE, 16, 72, 0}, /* an eighth more is not worth the call */
        {64, NONE, 18, 73, 73},
        {64, NONE, 0, 64, 0},
        {64, 100, NONE, 100, 100},
        {64, 64, NONE, 0, 0},
        {64, 20, NONE, 0, 0},                /* a lower ceiling takes nothing here */
        {300, NONE, NONE, 600, LOCKED},      /* as far as it can be held at */
        {LOCKED, NONE, NONE, NONE, KERNELS}, /* and from there to the kernel's own */
        {LOCKED, NONE, 8000, 4416, KERNELS},
        {LOCKED, NONE, 6000, 3416, 0}, /* there is no size between the two */
        {LOCKED, 2000, NONE, 0, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct credit_growth growth = credit_shares_growth(
            &(struct credit_share){cases[i].grant, cases[i].most, cases[i].free, KERNELS, LOCKED});
        assert_int_equal(growth.wish, cases[i].wish);
        assert_int_equal(growth.reached, cases[i].reached);
    }
}

static void a_grant_shrinks_to_twice_what_is_used(void **state)
{
    static const struct {
        uint64_t grant, start, queued;
        uint32_t left;
    } cases[] = {
        {400, 64, 0, 64},
        {400, 64, 10 * 1024, 64},
        {400, 64, 100 * 1024, 200},
        {400, 64, 149 * 1024, 298},
        {400, 64, 150 * 1024, 400}, /* a quarter is not worth it */
        {400, 64, 900 * 1024, 400},
        {KERNELS, 64, 1000 * 1024, LOCKED},
        {64, 64, 0, 64},
        {8, 4, 0, 4},
        {4, 4, 0, 4},
        {0, 64, 0, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(credit_shares_shrunk(
                             &(struct credit_share){cases[i].grant, NONE, NONE, KERNELS, LOCKED},
                             cases[i].start, cases[i].queued),
                         cases[i].left);
}

static void other_limits_leave_room_for_what_is_queued(void **state)
{
    static const struct {
        uint64_t most, start, queued;
        uint32_t grant;
    } cases[] = {
        {NONE, 64, 0, 64},
        {NONE, 64, 100 * 1024, 100},
        {NONE, 64, 100 * 1024 + 1, 101},
        {80, 64, 100 * 1024, 80},
        {2, 4, 100 * 1024, 4},
        {NONE, KERNELS, 0, KERNELS},
        {NONE, 64, 900 * 1024, LOCKED},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(
            credit_shares_anew(&(struct credit_share){64, cases[i].most, 0, KERNELS, LOCKED},
                               cases[i].start, cases[i].queued),
            cases[i].grant);
}

static void a_program_gets_what_it_asks_for_of_half_that_is_free(void **state)
{
    static const struct {
        uint64_t grant, most, free, start;
        uint32_t asked;
    } cases[] = {
        {64, 256, NONE, 64, 256}, {64, 256, 200, 64, 164}, {64, 256, 0, 64, 64},
        {64, 32, NONE, 32, 32},   {64, 2, NONE, 4, 4},     {64, 900, NONE, 64, LOCKED},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(credit_shares_asked(&(struct credit_share){cases[i].grant, cases[i].most,
                                                                    cases[i].free, KERNELS, LOCKED},
                                             cases[i].start),
                         cases[i].asked);
}

/* Whoever asks again and again gets no more than half; how many ever come, nobody has to wait. */
static void many_share_what_one_may_have_half_of(void **state)
{
    uint64_t grant[64] = {0};
    (void)state;
    for (unsigned count = 1; count <= 64; count *= 2) {
        uint64_t all = 4096, least = UINT64_MAX;
        memset(grant, 0, sizeof grant);
        for (unsigned i = 0; i < count; i++) {
            grant[i] = credit_shares_start(
                &(struct credit_share){.most = NONE, .free = all, .kernels = KERNELS});
            all -= grant[i];
        }
        for (unsigned round = 0; round < 20; round++)
            for (unsigned i = 0; i < count; i++) {
                struct credit_share share = {grant[i], NONE, all, KERNELS, KERNELS};
                uint32_t reached = credit_shares_growth(&share).reached;
                all -= reached ? reached - grant[i] : 0;
                grant[i] = reached ? reached : grant[i];
            }
        for (unsigned i = 0; i < count; i++)
            least = grant[i] < least ? grant[i] : least;
        assert_true(all > 0);
        assert_true(least >= 4096 / 4 / count);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_first_grant_is_a_sixteenth_of_what_is_free),
        cmocka_unit_test(a_grant_doubles_while_that_leaves_as_much_free),
        cmocka_unit_test(a_grant_shrinks_to_twice_what_is_used),
        cmocka_unit_test(other_limits_leave_room_for_what_is_queued),
        cmocka_unit_test(a_program_gets_what_it_asks_for_of_half_that_is_free),
        cmocka_unit_test(many_share_what_one_may_have_half_of),
    };
    return cmocka_run_group_tests_name("credit shares", tests, NULL, NULL);
}
