/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What all test programs in C share: which of their tests run, and lists of tests that are made of
 * tables. Linked with each; cmocka does the rest, and reports.
 *
 * ONLY='*peer*' in the environment, or a first argument, chooses tests by their names: with * and ?
 * as in a shell, or by a part of the name.
 */
#ifndef TESTS_SUITE_H
#define TESTS_SUITE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define SUITE_MOST 128

struct suite {
    const char *name;
    size_t count;
    struct CMUnitTest tests[SUITE_MOST];
};

/* The first argument chooses, before what ONLY chose. */
void suite_choose(int argc, char **argv);

/* One more test, of what `state` points to: a row of a table. All of it lives as long as the suite.
 */
void suite_add(struct suite *suite, const char *name, CMUnitTestFunction function,
               CMFixtureFunction tear_down, const void *state);

/* Runs those that were chosen, set_up before the first and tear_down after the last, where not
 * NULL; how many failed. */
int suite_run(const struct suite *suite, CMFixtureFunction set_up, CMFixtureFunction tear_down);

#endif
