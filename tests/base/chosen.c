/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ONLY='*peer*' build/tests/test_segment: only the tests whose name is like that, * and ? standing
 * for what they stand for in a shell. Linked with each program of tests/unit and tests/conformance.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

__attribute__((constructor)) static void choose(void)
{
    cmocka_set_test_filter(getenv("ONLY"));
}
