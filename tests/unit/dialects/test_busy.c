/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Recognising what a client speaks, and answering in it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "dialects/busy.h"

#define SAID(text) text, sizeof text - 1

static struct busy_client client_that_sent(const char *sent, size_t length)
{
    return (struct busy_client){.sent = sent, .length = length, .program = "server"};
}

static void protocols_are_recognised_as_soon_as_they_can_be(void **state)
{
    static const struct {
        const char *sent;
        size_t length;
        enum busy_recognition wanted;
        enum busy_protocol protocol;
    } cases[] = {
        {SAID("G"), BUSY_UNDECIDED, 0},
        {SAID("GET"), BUSY_UNDECIDED, 0},
        {SAID("GET "), BUSY_RECOGNISED, BUSY_IN_HTTP},
        {SAID("GET / HTTP/1.1\r\n"), BUSY_RECOGNISED, BUSY_IN_HTTP},
        {SAID("POST /"), BUSY_RECOGNISED, BUSY_IN_HTTP},
        {SAID("PROPFIND /"), BUSY_RECOGNISED, BUSY_IN_HTTP},
        {SAID("P"), BUSY_UNDECIDED, 0},
        {SAID("PR"), BUSY_UNDECIDED, 0},
        {SAID("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), BUSY_RECOGNISED, BUSY_IN_HTTP2},
        {SAID("PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n"), BUSY_UNKNOWN, 0},
        {SAID("\x16\x03\x01\x02\0\x01\0"), BUSY_RECOGNISED, BUSY_IN_TLS},
        {SAID("\x16\x03"), BUSY_UNDECIDED, 0},
        {SAID("\x16\x02"), BUSY_UNKNOWN, 0},
        {SAID("\x16\x03\x01\x02\0\x02\0"), BUSY_UNKNOWN, 0},
        {SAID("*1\r\n$4\r\nPING\r\n"), BUSY_RECOGNISED, BUSY_IN_REDIS},
        {SAID("*"), BUSY_UNDECIDED, 0},
        {SAID("*x"), BUSY_UNKNOWN, 0},
        {SAID("ping\r\n"), BUSY_RECOGNISED, BUSY_IN_REDIS},
        {SAID("get key\r\n"), BUSY_RECOGNISED, BUSY_IN_MEMCACHED},
        {SAID("mg key v\r\n"), BUSY_RECOGNISED, BUSY_IN_MEMCACHED},
        {SAID("ge"), BUSY_UNDECIDED, 0},
        {SAID("\x80\0\0\0"), BUSY_UNDECIDED, 0},
        {SAID("\x80\0\0\3\0\0\0\0\0\0\0\3abcd\0\0\0\0\0\0\0\0key"), BUSY_RECOGNISED,
         BUSY_IN_MEMCACHED_BINARY},
        {SAID("\0\0\0\x29\0\3\0\0user\0"), BUSY_RECOGNISED, BUSY_IN_POSTGRES},
        {SAID("\0\0\0\x08\x04\xd2\x16\x2f"), BUSY_RECOGNISED, BUSY_IN_POSTGRES_NEGOTIATION},
        {SAID("\0\0\0\x08\x04\xd2\x16\x30"), BUSY_RECOGNISED, BUSY_IN_POSTGRES_NEGOTIATION},
        {SAID("\0\0\0\x10\x04\xd2\x16\x2e"), BUSY_UNKNOWN, 0}, /* cancels need no answer */
        {SAID("\0\0"), BUSY_UNDECIDED, 0},
        {SAID("\xff\0\0\x08\0\3\0\0"), BUSY_UNKNOWN, 0},
        {SAID("GETAWAY"), BUSY_UNKNOWN, 0},
        {SAID("SSH-2.0-x"), BUSY_UNKNOWN, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct busy_client client = client_that_sent(cases[i].sent, cases[i].length);
        enum busy_protocol protocol = BUSY_PROTOCOLS;
        assert_int_equal(busy_recognise(BUSY_AUTO, &client, &protocol), cases[i].wanted);
        if (cases[i].wanted == BUSY_RECOGNISED)
            assert_int_equal(protocol, cases[i].protocol);
    }
}

static void who_speaks_first_is_known_by_program_or_port(void **state)
{
    struct busy_client client = client_that_sent("", 0);
    enum busy_protocol protocol;
    (void)state;
    assert_int_equal(busy_recognise(BUSY_AUTO, &client, &protocol), BUSY_UNDECIDED);
    client.port = 25;
    assert_int_equal(busy_recognise(BUSY_AUTO, &client, &protocol), BUSY_RECOGNISED);
    assert_int_equal(protocol, BUSY_IN_SMTP);
    client = (struct busy_client){.sent = "", .port = 40000, .program = "mariadbd"};
    assert_int_equal(busy_recognise(BUSY_AUTO, &client, &protocol), BUSY_RECOGNISED);
    assert_int_equal(protocol, BUSY_IN_MYSQL);
}

static void a_choice_is_answered_at_once_unless_the_protocol_forbids(void **state)
{
    static const enum busy_reply at_once[] = {BUSY_TLS, BUSY_REDIS, BUSY_SMTP,
                                              BUSY_FTP, BUSY_MYSQL, BUSY_TEXT};
    struct busy_client silent = client_that_sent("", 0);
    struct busy_client negotiates = client_that_sent(SAID("\0\0\0\x08\x04\xd2\x16\x2f"));
    enum busy_protocol protocol;
    (void)state;
    for (size_t i = 0; i < sizeof at_once / sizeof *at_once; i++)
        assert_int_equal(busy_recognise(at_once[i], &silent, &protocol), BUSY_RECOGNISED);
    assert_int_equal(busy_recognise(BUSY_POSTGRES, &silent, &protocol), BUSY_UNDECIDED);
    assert_int_equal(busy_recognise(BUSY_HTTP, &silent, &protocol), BUSY_UNDECIDED);
    assert_int_equal(busy_recognise(BUSY_POSTGRES, &negotiates, &protocol), BUSY_RECOGNISED);
    assert_int_equal(protocol, BUSY_IN_POSTGRES_NEGOTIATION);
    silent.out_of_time = true;
    assert_int_equal(busy_recognise(BUSY_POSTGRES, &silent, &protocol), BUSY_RECOGNISED);
    assert_int_equal(protocol, BUSY_IN_POSTGRES);
}

static size_t composed(enum busy_protocol protocol, char *out, size_t size)
{
    struct limits limits;
    struct busy_client client =
        client_that_sent(SAID("\x80\x0b\0\0\0\0\0\0\0\0\0\0abcd\0\0\0\0\0\0\0\0"));
    limits_defaults(&limits);
    limits.text_length = 1;
    limits.text[0] = 'x';
    return busy_compose(protocol, &limits, &client, out, size);
}

/* Lengths inside the packets match what they are. */
static void packets_are_well_formed(void **state)
{
    uint8_t reply[BUSY_REPLY_MAX];
    (void)state;
    size_t length = composed(BUSY_IN_MYSQL, (char *)reply, sizeof reply);
    assert_int_equal(length, 4 + reply[0]);
    assert_int_equal(reply[4], 0xff);
    assert_int_equal(reply[5] | reply[6] << 8, 1040);
    length = composed(BUSY_IN_POSTGRES, (char *)reply, sizeof reply);
    assert_int_equal(reply[0], 'E');
    assert_int_equal(length, 1 + reply[4]);
    assert_int_equal(reply[length - 1], 0);
    assert_int_equal(reply[length - 2], 0);
    length = composed(BUSY_IN_TLS, (char *)reply, sizeof reply);
    assert_int_equal(length, 5 + reply[4]);
    length = composed(BUSY_IN_HTTP2, (char *)reply, sizeof reply);
    assert_int_equal(length, 9 + reply[2] + 9 + reply[9 + 2]);
    assert_int_equal(composed(BUSY_IN_MEMCACHED_BINARY, (char *)reply, sizeof reply), 24);
    assert_int_equal(reply[1], 0x0b);
    assert_memory_equal(reply + 12, "abcd", 4);
    for (unsigned protocol = 0; protocol < BUSY_PROTOCOLS; protocol++) {
        assert_true(composed(protocol, (char *)reply, sizeof reply) > 0);
        assert_true(composed(protocol, (char *)reply, 3) <= 3);
    }
}

/* Closing at once must not lose an answer to input that is still on its way. */
static void only_a_whole_bodiless_request_is_all(void **state)
{
    struct busy_client whole = client_that_sent(SAID("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
    struct busy_client partly = client_that_sent(SAID("GET / HTTP/1.1\r\nHost: x\r\n"));
    struct busy_client body = client_that_sent(SAID("POST / HTTP/1.1\r\nHost: x\r\n\r\n"));
    (void)state;
    assert_true(busy_has_all(BUSY_IN_HTTP, &whole));
    assert_false(busy_has_all(BUSY_IN_HTTP, &partly));
    assert_false(busy_has_all(BUSY_IN_HTTP, &body));
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
        size_t length = busy_compose(BUSY_IN_HTTP, &limits, NULL, reply, BUSY_REPLY_MAX);
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

static void without_a_range_nothing_is_promised(void **state)
{
    struct limits limits;
    char reply[BUSY_REPLY_MAX + 1];
    (void)state;
    limits_defaults(&limits);
    limits.value[LIMIT_RETRY_AFTER] = LIMIT_OFF;
    reply[busy_compose(BUSY_IN_HTTP, &limits, NULL, reply, BUSY_REPLY_MAX)] = '\0';
    assert_null(strstr(reply, "Retry-After"));
}

static void text_is_sent_as_given_and_within_bounds(void **state)
{
    struct limits limits;
    char reply[BUSY_REPLY_MAX];
    (void)state;
    limits_defaults(&limits);
    memcpy(limits.text, "a\0b", 3);
    limits.text_length = 3;
    assert_int_equal(busy_compose(BUSY_IN_TEXT, &limits, NULL, reply, sizeof reply), 3);
    assert_memory_equal(reply, "a\0b", 3);
    assert_int_equal(busy_compose(BUSY_IN_TEXT, &limits, NULL, reply, 2), 2);
    assert_int_equal(busy_compose(BUSY_IN_HTTP, &limits, NULL, reply, 10), 0);
}

/* A row of the list without what every dialect needs would be called through NULL. */
static void every_dialect_is_whole(void **state)
{
#define DIALECT(id, symbol, choice) {#id, &(symbol), choice},
    static const struct {
        const char *id;
        const struct dialect *dialect;
        const char *choice;
    } rows[] = {
#include "limits/dialects.def"
    };
#undef DIALECT
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct dialect *dialect = rows[i].dialect;
        assert_non_null(dialect->refuse);
        /* Nobody would ever be answered in it: neither recognised, nor guessed, nor chosen. */
        assert_true(dialect->recognise || (dialect->ports && dialect->programs) ||
                    strcmp(rows[i].id, "TEXT") == 0);
        assert_true(!dialect->ports == !dialect->programs);
        assert_true(!dialect->variant || dialect->variant->recognise);
        assert_true(!rows[i].choice || rows[i].choice[0]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(protocols_are_recognised_as_soon_as_they_can_be),
        cmocka_unit_test(who_speaks_first_is_known_by_program_or_port),
        cmocka_unit_test(a_choice_is_answered_at_once_unless_the_protocol_forbids),
        cmocka_unit_test(packets_are_well_formed),
        cmocka_unit_test(only_a_whole_bodiless_request_is_all),
        cmocka_unit_test(retry_after_is_drawn_uniformly),
        cmocka_unit_test(without_a_range_nothing_is_promised),
        cmocka_unit_test(text_is_sent_as_given_and_within_bounds),
        cmocka_unit_test(every_dialect_is_whole),
    };
    return cmocka_run_group_tests_name("busy", tests, NULL, NULL);
}
