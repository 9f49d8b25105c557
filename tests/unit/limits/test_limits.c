/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The grammar of limits: what it takes, what it refuses, and that it writes what it reads.
 */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "limits/exempt_path.h"
#include "limits/limits.h"

static struct limits_source source;

static int fresh(void **state)
{
    struct limits defaults;
    (void)state;
    limits_defaults(&defaults);
    limits_source_init(&source, &defaults);
    return 0;
}

static bool take(const char *pair)
{
    return limits_take(&source, pair, strlen(pair), true);
}

static const char *written(enum limit_key key)
{
    static char text[LIMIT_VALUE_MAX];
    limits_format(&source.limits, key, text, sizeof text);
    return text;
}

static void every_value_is_written_as_it_is_read(void **state)
{
    static const struct {
        enum limit_key key;
        const char *pair, *value;
    } cases[] = {
        {LIMIT_CONNS, "conns=200", "200"},
        {LIMIT_CONNS, "conns=4294967295", "4294967295"},
        {LIMIT_CONNS, "conns=off", "off"},
        {LIMIT_CONNS, "conns=0", "off"},
        {LIMIT_CONNS, "conns=auto", "auto"},
        {LIMIT_CONNS, "conns=auto:3..50", "auto:3..50"},
        {LIMIT_CONNS, "conns=3..50", "auto:3..50"},
        {LIMIT_TOTAL_CONNS, "total-conns=auto:1..60000", "auto:1..60000"},
        {LIMIT_TOTAL_CONNS, "total-conns=1048576", "1048576"},
        {LIMIT_QUEUE_DELAY, "queue-delay=50ms", "50ms"},
        {LIMIT_QUEUE_DELAY, "queue-delay=2s", "2s"},
        {LIMIT_QUEUE_DELAY, "queue-delay=auto", "auto"},
        {LIMIT_QUEUE_DELAY, "queue-delay=0", "off"},
        {LIMIT_SHED_SHARE, "shed-share=5", "5%"},
        {LIMIT_SHED_SHARE, "shed-share=100%", "100%"},
        {LIMIT_SHED_SHARE, "shed-share=off", "off"},
        {LIMIT_BUSY, "busy=postgres", "postgres"},
        {LIMIT_CONNECT_CONNS, "connect-conns=7", "7"},
        {LIMIT_CONNECT_RETRIES, "connect-retries=5", "5"},
        {LIMIT_BACKOFF, "backoff=100ms..10s", "100ms..10s"},
        {LIMIT_BACKOFF, "backoff=1s..1m", "1s..1m"},
        {LIMIT_BACKOFF, "backoff=off", "off"},
        {LIMIT_JITTER, "jitter=equal", "equal"},
        {LIMIT_RETRY_BUDGET, "retry-budget=0.25", "0.25"},
        {LIMIT_RETRY_BUDGET, "retry-budget=0", "0"},
        {LIMIT_RETRY_BUDGET, "retry-budget=2", "2"},
        {LIMIT_RETRY_BUDGET, "retry-budget=off", "off"},
        {LIMIT_PEER_CONNS, "peer-conns=1", "1"},
        {LIMIT_ACCEPT_RATE, "accept-rate=100", "100/10"},
        {LIMIT_ACCEPT_RATE, "accept-rate=100/7", "100/7"},
        {LIMIT_ACCEPT_RATE, "accept-rate=off", "off"},
        {LIMIT_QUEUE, "queue=0", "0"},
        {LIMIT_QUEUE, "queue=off", "off"},
        {LIMIT_QUEUE, "queue=16", "16"},
        {LIMIT_WHEN_FULL, "when-full=busy", "busy"},
        {LIMIT_BUSY, "busy=http", "http"},
        {LIMIT_BUSY, "busy=text:sorry\\r\\n", "text:sorry\\r\\n"},
        {LIMIT_BUSY, "busy=text:\\x00\\\\x", "text:\\x00\\\\x"},
        {LIMIT_RETRY_AFTER, "retry-after=2..9", "2..9"},
        {LIMIT_RETRY_AFTER, "retry-after=3..3", "3..3"},
        {LIMIT_RETRY_AFTER, "retry-after=4", "4..4"},
        {LIMIT_EXEMPT, "exempt=10.0.0.0/8,::1", "10.0.0.0/8,::1/128"},
        {LIMIT_STRICT, "strict=on", "on"},
        {LIMIT_REQUESTS, "requests=8", "8"},
        {LIMIT_TOTAL_REQUESTS, "total-requests=4..90", "auto:4..90"},
        {LIMIT_REQUEST_RATE, "request-rate=5000", "5000/500"},
        {LIMIT_IDLE, "idle=10s", "10s"},
        {LIMIT_HEADER_TIMEOUT, "header-timeout=10ms", "10ms"},
        {LIMIT_EXEMPT_REQUEST, "exempt-request=/healthz,/a/;b(%20)/,/", "/healthz,/a/;b(%20)/,/"},
        {LIMIT_EXEMPT_REQUEST, "exempt-request=0", "off"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fresh(state);
        if (!take(cases[i].pair))
            fail_msg("%s", source.error);
        assert_string_equal(written(cases[i].key), cases[i].value);
        /* What is written reads back as the same. */
        char again[LIMIT_VALUE_MAX * 2];
        strcpy(again, limits_key_name(cases[i].key));
        strcat(strcat(again, "="), cases[i].value);
        fresh(state);
        assert_true(take(again));
        assert_string_equal(written(cases[i].key), cases[i].value);
    }
}

static void what_is_wrong_is_refused_and_changes_nothing(void **state)
{
    static const char *const cases[] = {
        "",
        "=",
        "conns",
        "conns=",
        "conns=1x",
        "conns=1.5",
        "conns=-1",
        "conns= 1",
        "conns=1 ",
        "conns=4294967296",
        "conns=18446744073709551617",
        "conns=auto:",
        "conns=auto:5",
        "conns=auto:5..4",
        "conns=auto:0..4",
        "conns=1..60001",
        "conns=autos",
        "peer-conns=auto",
        "queue-delay=50",
        "queue-delay=-1ms",
        "queue-delay=2h",
        "queue-delay=1441m",
        "shed-share=101",
        "shed-share=%",
        "backoff=1s",
        "backoff=2s..1s",
        "backoff=1..2",
        "backoff=1ms..61m",
        "jitter=",
        "jitter=half",
        "retry-budget=0.1234",
        "retry-budget=.5",
        "retry-budget=101",
        "CONNS=1",
        "accept-rate=0/5",
        "accept-rate=5/",
        "accept-rate=/5",
        "queue=x",
        "when-full=",
        "when-full=Hold",
        "busy=text:",
        "busy=text:\\",
        "busy=text:\\x1",
        "busy=text:\\q",
        "busy=redis-ish",
        "retry-after=5..",
        "retry-after=..5",
        "retry-after=5..1",
        "exempt=",
        "exempt=1.2.3",
        "exempt=1.2.3.4/33",
        "exempt=::1/129",
        "exempt=1.2.3.4,",
        "requests=-1",
        "requests=auto:5",
        "total-requests=1/2",
        "request-rate=0/5",
        "idle=9ms",
        "idle=auto",
        "header-timeout=1",
        "exempt-request=",
        "exempt-request=healthz",
        "exempt-request=/healthz,",
        "exempt-request=/healthz,readyz",
        "exempt-request=,/healthz",
        "exempt-request=/a b",
        "exempt-request=/a?b",
        "exempt-request=/a\n",
        "exempt-request=/a\\b",
        "strict=yes",
        "name=",
        "name=.hidden",
        "name=a b",
        "name=a/b",
    };
    struct limits before;
    (void)state;
    take("conns=77");
    before = source.limits;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (take(cases[i]))
            fail_msg("%s was taken", cases[i]);
        assert_memory_equal(&source.limits, &before, sizeof before);
        assert_true(strlen(source.error) > 0);
        assert_null(strchr(source.error, '\n'));
        assert_non_null(strstr(source.error, "allowed"));
    }
}

static void long_and_binary_input_is_refused(void **state)
{
    char text[LIMIT_VALUE_MAX * 4];
    (void)state;
    memset(text, '9', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    memcpy(text, "conns=", 6);
    assert_false(take(text));
    assert_false(limits_take_words(&source, text, true));
    assert_false(limits_take_line(&source, text));
    memcpy(text, "busy=text:", 10);
    assert_false(take(text));
    assert_false(limits_take(&source, "conns=5\0", 8, true));
}

static void contradiction_within_one_source_is_refused(void **state)
{
    (void)state;
    assert_true(take("conns=5"));
    assert_true(take("conns=5"));
    assert_false(take("conns=6"));
    assert_non_null(strstr(source.error, "conns=6: contradicts conns=5"));
    assert_string_equal(written(LIMIT_CONNS), "5");
}

static void later_source_overrides_the_earlier(void **state)
{
    struct limits_source second;
    (void)state;
    assert_true(take("conns=5"));
    assert_true(take("queue=3"));
    limits_source_init(&second, &source.limits);
    assert_true(limits_take(&second, "conns=6", 7, false));
    assert_int_equal(second.limits.value[LIMIT_CONNS], 6);
    assert_int_equal(second.limits.value[LIMIT_QUEUE], 3);
}

static void words_are_all_or_nothing_and_quotes_group(void **state)
{
    (void)state;
    assert_true(limits_take_words(
        &source, "  name=web conns=5\t'busy=text:come back' \n queue=\"7\"", true));
    assert_string_equal(source.name, "web");
    assert_string_equal(written(LIMIT_BUSY), "text:come back");
    assert_string_equal(written(LIMIT_QUEUE), "7");
    fresh(state);
    assert_false(limits_take_words(&source, "conns=5 queue=x", true));
    assert_string_equal(written(LIMIT_CONNS), "off");
    assert_false(limits_take_words(&source, "'conns=5", true));
    assert_true(limits_take_words(&source, "", true));
}

static void lines_of_a_file(void **state)
{
    (void)state;
    assert_true(limits_take_line(&source, ""));
    assert_true(limits_take_line(&source, "   # conns=5"));
    assert_true(limits_take_line(&source, "  conns = 5  \r"));
    assert_string_equal(written(LIMIT_CONNS), "5");
    assert_true(limits_take_line(&source, "busy=text:a b # no comment here"));
    assert_string_equal(written(LIMIT_BUSY), "text:a b # no comment here");
    assert_false(limits_take_line(&source, "queue 5"));
}

static bool exempt(const char *text)
{
    uint8_t address[16] = {[10] = 0xff, [11] = 0xff};
    if (strchr(text, ':'))
        inet_pton(AF_INET6, text, address);
    else
        inet_pton(AF_INET, text, address + 12);
    return limits_exempt(&source.limits, address);
}

static void exempt_networks_match_by_prefix(void **state)
{
    (void)state;
    assert_false(exempt("10.0.0.1"));
    assert_true(take("exempt=10.0.0.0/9,192.168.7.1,2001:db8::/33"));
    assert_true(exempt("10.127.255.255"));
    assert_false(exempt("10.128.0.0"));
    assert_true(exempt("192.168.7.1"));
    assert_false(exempt("192.168.7.2"));
    assert_true(exempt("2001:db8:7fff::1"));
    assert_false(exempt("2001:db8:8000::1"));
    assert_false(exempt("::10.0.0.1"));
    assert_true(exempt("::ffff:10.0.0.1")); /* what a dual-stack listener reports */
}

static bool exempt_bytes(const char *path, size_t length)
{
    struct exempt_path so_far;
    exempt_path_begins(&so_far, &source.limits);
    for (size_t i = 0; i < length; i++)
        exempt_path_goes_on(&so_far, &source.limits, path[i]);
    return exempt_path_ends(&so_far, &source.limits);
}

static bool exempt_request(const char *target)
{
    return exempt_bytes(target, strcspn(target, "?"));
}

static void exempt_requests_match_whole_segments_of_a_path(void **state)
{
    (void)state;
    assert_false(exempt_request("/healthz"));
    assert_true(take("exempt-request=/healthz,/probe/,/a/b"));
    assert_true(exempt_request("/healthz"));
    assert_true(exempt_request("/healthz/"));
    assert_true(exempt_request("/healthz/x"));
    assert_true(exempt_request("/healthz?x"));
    assert_true(exempt_request("/healthz?file=../x%2e"));
    assert_true(exempt_request("/probe/"));
    assert_true(exempt_request("/probe/x?y"));
    assert_true(exempt_request("/a/b"));
    assert_false(exempt_request("/healthzz"));
    assert_false(exempt_request("/health"));
    assert_false(exempt_request("/HEALTHZ"));
    assert_false(exempt_request("/probe"));
    assert_false(exempt_request("/a"));
    assert_false(exempt_request("/x/healthz"));
    assert_false(exempt_request("healthz"));
    assert_false(exempt_request(""));
}

/* A client must not get past the ceilings by a name under which the program finds something else.
 */
static void exempt_requests_do_not_lead_elsewhere(void **state)
{
    static const char *const paths[] = {
        "/healthz/../search",      "/healthz/..",          "/healthz/%2e%2e/search",
        "/healthz/.%2E/search",    "/healthz/..%2fsearch", "/healthz/x\\..\\search",
        "/healthz/%5C..%5csearch", "/healthz/%2Fsearch",   "/probe/../search",
    };
    (void)state;
    assert_true(take("exempt-request=/healthz,/probe/"));
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        if (exempt_request(paths[i]))
            fail_msg("%s is exempt", paths[i]);
    assert_true(exempt_request("/healthz/a.b/%20%2"));
    assert_true(exempt_request("/healthz/100%"));
}

/* What another process wrote into the segment has no ends where they belong. */
static void damaged_paths_end_with_the_table(void **state)
{
    char text[LIMIT_VALUE_MAX], path[LIMIT_PATHS_BYTES * 2];
    (void)state;
    memset(path, '/', sizeof path);
    memset(source.limits.exempt_request, '/', sizeof source.limits.exempt_request);
    source.limits.value[LIMIT_EXEMPT_REQUEST] = UINT64_MAX;
    assert_true(exempt_bytes(path, sizeof path));
    assert_false(exempt_bytes(path, 100));
    limits_format(&source.limits, LIMIT_EXEMPT_REQUEST, text, sizeof text);
    assert_int_equal(strlen(text), LIMIT_PATHS_BYTES);
    limits_format(&source.limits, LIMIT_EXEMPT_REQUEST, text, 10);
    assert_string_equal(text, "/////////");
    memset(source.limits.exempt_request, '\x1b', sizeof source.limits.exempt_request);
    limits_format(&source.limits, LIMIT_EXEMPT_REQUEST, text, sizeof text);
    assert_null(strchr(text, '\x1b'));
}

static void everything_at_once_is_refused_beyond_the_table(void **state)
{
    char text[LIMIT_VALUE_MAX] = "exempt=";
    (void)state;
    for (int i = 0; i <= LIMIT_NETWORKS_MAX; i++)
        strcat(text, i < LIMIT_NETWORKS_MAX ? "1.2.3.4," : "1.2.3.4");
    assert_false(take(text));
    text[strlen(text) - strlen(",1.2.3.4")] = '\0';
    assert_true(take(text));
}

/* Random text never crashes the parser, and what it takes it can write and read again. */
static void noise_is_harmless(void **state)
{
    static const char letters[] = "conspeqrtuahl-=.,/:0123456789KMG \\x'\"#\n\t\xff";
    char text[256];
    srand(4711);
    for (int round = 0; round < 200000; round++) {
        size_t length = (size_t)rand() % (sizeof text - 16);
        strcpy(text, limits_key_name((unsigned)rand() % LIMIT_KEYS));
        strcat(text, "=");
        for (size_t i = strlen(text), end = i + length % 24; i < end; i++) {
            text[i] = letters[(size_t)rand() % (sizeof letters - 1)];
            text[i + 1] = '\0';
        }
        fresh(state);
        limits_take_words(&source, text, true);
        limits_take_line(&source, text);
        for (unsigned key = 0; key < LIMIT_KEYS; key++)
            written(key);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(every_value_is_written_as_it_is_read, fresh),
        cmocka_unit_test_setup(what_is_wrong_is_refused_and_changes_nothing, fresh),
        cmocka_unit_test_setup(long_and_binary_input_is_refused, fresh),
        cmocka_unit_test_setup(contradiction_within_one_source_is_refused, fresh),
        cmocka_unit_test_setup(later_source_overrides_the_earlier, fresh),
        cmocka_unit_test_setup(words_are_all_or_nothing_and_quotes_group, fresh),
        cmocka_unit_test_setup(lines_of_a_file, fresh),
        cmocka_unit_test_setup(exempt_networks_match_by_prefix, fresh),
        cmocka_unit_test_setup(exempt_requests_match_whole_segments_of_a_path, fresh),
        cmocka_unit_test_setup(exempt_requests_do_not_lead_elsewhere, fresh),
        cmocka_unit_test_setup(damaged_paths_end_with_the_table, fresh),
        cmocka_unit_test_setup(everything_at_once_is_refused_beyond_the_table, fresh),
        cmocka_unit_test_setup(noise_is_harmless, fresh),
    };
    return cmocka_run_group_tests_name("limits", tests, NULL, NULL);
}
