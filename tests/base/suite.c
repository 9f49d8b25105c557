/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "suite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATTERN_MOST 256

static void choose(const char *wanted)
{
    static char pattern[PATTERN_MOST];
    bool whole = strpbrk(wanted, "*?") != NULL;
    snprintf(pattern, sizeof pattern, whole ? "%s" : "*%s*", wanted);
    cmocka_set_test_filter(pattern);
}

__attribute__((constructor)) static void choose_by_environment(void)
{
    const char *only = getenv("ONLY");
    if (only)
        choose(only);
}

void suite_choose(int argc, char **argv)
{
    if (argc > 1)
        choose(argv[1]);
}

void suite_add(struct suite *suite, const char *name, CMUnitTestFunction function,
               CMFixtureFunction tear_down, const void *state)
{
    if (suite->count == SUITE_MOST) {
        fprintf(stderr, "%s has more tests than SUITE_MOST\n", suite->name);
        abort();
    }
    suite->tests[suite->count++] = (struct CMUnitTest){
        .name = name,
        .test_func = function,
        .teardown_func = tear_down,
        .initial_state = (void *)state,
    };
}

int suite_run(const struct suite *suite, CMFixtureFunction set_up, CMFixtureFunction tear_down)
{
    return _cmocka_run_group_tests(suite->name, suite->tests, suite->count, set_up, tear_down);
}
