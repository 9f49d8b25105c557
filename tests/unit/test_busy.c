/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Recognising what a client speaks, and answering in it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../../shim/busy.h"

static void http_is_recognised_as_soon_as_it_can_be(void **state)
{
    static const struct {
        const char *sent;
        enum busy_recognition wanted;
    } cases[] = {
        {"G", BUSY_UNDECIDED},          {"GET", BUSY_UNDECIDED},
        {"GET ", BUSY_RECOGNISED},      {"GET / HTTP/1.1\r\n", BUSY_RECOGNISED},
        {"POST /", BUSY_RECOGNISED},    {"PROPFIND /", BUSY_RECOGNISED},
        {"P", BUSY_UNDECIDED},          {"PU", BUSY_UNDECIDED},
        {"PING\r\n", BUSY_UNKNOWN},     {"get / ", BUSY_UNKNOWN},
        {"\x16\x03\x01", BUSY_UNKNOWN}, {"GETAWAY", BUSY_UNKNOWN},
        {"SSH-2.0-x", BUSY_UNKNOWN},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        enum busy_protocol protocol;
        assert_int_equal(busy_recognise(cases[i].sent, strlen(cases[i].sent), &protocol),
                         cases[i].wanted);
        if (cases[i].wanted == BUSY_RECOGNISED)
            assert_int_equal(protocol, BUSY_IN_HTTP);
    }
}

static void retry_after_is_drawn_uniformly(void **state)
{
    struct limits limits;
    unsigned drawn[8] = {0};
    (void)state;
    limits_defaults(&limits);
    limits.value[LIMIT_RETRY_AFTER] = UINT64_C(2) << 32 | 5;
    for (int i = 0; i < 40000; i++) {
        char reply[BUSY_REPLY_MAX + 1];
        unsigned seconds = 0;
        size_t length = busy_compose(BUSY_IN_HTTP, &limits, reply, BUSY_REPLY_MAX);
        assert_true(length > 0);
        reply[length] = '\0';
        assert_int_equal(sscanf(strstr(reply, "Retry-After"), "Retry-After: %u", &seconds), 1);
        assert_true(seconds >= 2 && seconds <= 5);
        drawn[seconds]++;
    }
    /* 10000 each; 400 is more than four standard deviations. */
    for (unsigned seconds = 2; seconds <= 5; seconds++)
        assert_true(drawn[seconds] > 9600 && drawn[seconds] < 10400);
}

static void text_is_sent_as_given_and_within_bounds(void **state)
{
    struct limits limits;
    char reply[BUSY_REPLY_MAX];
    enum busy_protocol protocol;
    (void)state;
    limits_defaults(&limits);
    memcpy(limits.text, "a\0b", 3);
    limits.text_length = 3;
    assert_true(busy_protocol_of(BUSY_TEXT, &protocol));
    assert_int_equal(busy_compose(protocol, &limits, reply, sizeof reply), 3);
    assert_memory_equal(reply, "a\0b", 3);
    assert_int_equal(busy_compose(protocol, &limits, reply, 2), 2);
    assert_int_equal(busy_compose(BUSY_IN_HTTP, &limits, reply, 10), 0);
    assert_false(busy_protocol_of(BUSY_AUTO, &protocol));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(http_is_recognised_as_soon_as_it_can_be),
        cmocka_unit_test(retry_after_is_drawn_uniformly),
        cmocka_unit_test(text_is_sent_as_given_and_within_bounds),
    };
    return cmocka_run_group_tests_name("busy", tests, NULL, NULL);
}
