/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * PostgreSQL's requests: where they begin and end, which stand inside a transaction, and how one is
 * refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include "recorded.h"

#define BYTES(text) text, sizeof text - 1
#define STARTUP "\0\0\0\x17\0\3\0\0user\0postgres\0"
#define LOGGED_IN                                                                                  \
    "R\0\0\0\x8\0\0\0\0S\0\0\0\x8"                                                                 \
    "a\0b\0Z\0\0\0\5I"
#define SELECT "Q\0\0\0\xdSELECT 1\0"
#define ANSWERED "C\0\0\0\x5xZ\0\0\0\5"

static struct limits limits;

static struct request_stream asked(struct request_stream stream, const char *bytes, size_t length,
                                   enum request_step wanted)
{
    enum request_step step;
    assert_int_equal(request_ask(&stream, &limits, bytes, length, &step), length);
    assert_int_equal(step, wanted);
    return stream;
}

static struct request_stream logged_in(void)
{
    struct request_stream stream = {0};
    stream = asked(stream, BYTES(STARTUP "\0"), REQUEST_ENDS);
    assert_true(stream.flags & REQUEST_SILENT);
    assert_int_equal(request_answer(&stream, BYTES(LOGGED_IN), true), ANSWER_BEGUN);
    assert_true(request_between(&stream));
    return stream;
}

/* What each was: see the names, and tests/fuzz/record.py. */
static void real_conversations_are_understood(void **state)
{
    static const struct recorded conversations[] = {
        /* Negotiation, startup; then BEGIN, two statements, COMMIT, twice; Terminate. */
        {"request_postgres/bench_simple", "ssrtttrtttx", STREAM_REQUESTS},
        {"request_postgres/bench_extended", "ssrtttrtttx", STREAM_REQUESTS},
        /* The four are prepared before they are executed first. */
        {"request_postgres/bench_prepared", "sssrstststrtttx", STREAM_REQUESTS},
        /* The four in one series, twice. */
        {"request_postgres/bench_pipeline", "ssrrx", STREAM_REQUESTS},
        /* create, copy in (data, done), copy out, select, begin, copy in, commit, bad copy in. */
        {"request_postgres/copy", "ssrrssrrrtsstrssx", STREAM_REQUESTS},
        {"request_postgres/listen", "srrx", STREAM_REQUESTS},
        {"request_postgres/lo", "srttttttx", STREAM_REQUESTS},
        {"request_postgres/no_database", "ss", STREAM_REQUESTS},
        /* A create; three in a series; begin, insert, commit at once, each with its Sync; one
         * that fails in a series; parts of a series, flushed and answered before its end. */
        {"request_postgres/pipeline", "srrrrtrtx", STREAM_REQUESTS},
        {"request_postgres/replication", "s", STREAM_ALONE},
        {"request_postgres/scram", "ssssrx", STREAM_REQUESTS},
        /* Among others an error inside, two-phase commits, a notice, LISTEN and NOTIFY. */
        {"request_postgres/transactions", "ssrrttttrttttrrttrttrrrrrrx", STREAM_REQUESTS},
    };
    (void)state;
    for (size_t i = 0; i < sizeof conversations / sizeof *conversations; i++)
        recorded_check(&conversations[i], (struct request_stream){0});
}

static void a_refusal_is_an_error_and_the_connection_goes_on(void **state)
{
    static const char error[] = "SERROR\0VERROR\0C40001\0M";
    char out[REQUEST_REFUSAL_MAX];
    struct request_stream stream = asked(logged_in(), BYTES(SELECT), REQUEST_ENDS);
    (void)state;
    assert_int_equal(stream.flags & REQUEST_BITS & ~REQUEST_OF_OWN,
                     REQUEST_HEAD_WHOLE | REQUEST_LEADS);
    size_t length = request_refuse(&stream, &limits, false, out, sizeof out);
    assert_in_range(length, 20, sizeof out);
    assert_int_equal(out[0], 'E');
    assert_memory_equal(out + 5, error, sizeof error - 1);
    assert_memory_equal(out + length - 6, "Z\0\0\0\5I", 6);
    assert_int_equal((size_t)(out[1] << 24 | out[2] << 16 | out[3] << 8 | (uint8_t)out[4]) + 1 + 6,
                     length);
    for (size_t size = 0; size < length; size++)
        assert_int_equal(request_refuse(&stream, &limits, false, out, size), 0);
    /* It is never an end of the connection. */
    assert_int_equal(request_refuse(&stream, &limits, true, out, sizeof out), 0);
}

static void what_stands_inside_a_transaction_is_not_refused(void **state)
{
    static const char states[] = "ITE";
    char out[REQUEST_REFUSAL_MAX];
    (void)state;
    for (size_t i = 0; states[i]; i++) {
        struct request_stream stream = asked(logged_in(), BYTES(SELECT), REQUEST_ENDS);
        char answer[] = ANSWERED "?";
        answer[sizeof answer - 2] = states[i];
        request_answer(&stream, answer, sizeof answer - 2, true);
        /* As long as the status is not there, nobody knows. */
        assert_true(stream.flags & SESSION_TRANSACTION);
        request_answer(&stream, answer + sizeof answer - 2, 1, false);
        assert_int_equal(!(stream.flags & SESSION_TRANSACTION), states[i] == 'I');
        stream = asked(stream, BYTES(SELECT), REQUEST_ENDS);
        size_t length = request_refuse(&stream, &limits, false, out, sizeof out);
        assert_int_equal(length > 0, states[i] == 'I');
    }
}

static void the_log_in_is_not_refused(void **state)
{
    char out[REQUEST_REFUSAL_MAX];
    struct request_stream stream = {0};
    (void)state;
    stream = asked(stream, BYTES(STARTUP "\0"), REQUEST_ENDS);
    assert_int_equal(request_refuse(&stream, &limits, false, out, sizeof out), 0);
    stream = asked(stream, BYTES(SELECT), REQUEST_ENDS);
    assert_int_equal(request_refuse(&stream, &limits, false, out, sizeof out), 0);
}

static void encryption_is_left_alone_and_its_refusal_goes_on(void **state)
{
    static const char asks[] = "\0\0\0\x8\x04\xd2\x16\x2f",
                      asks_gss[] = "\0\0\0\x8\x04\xd2\x16\x30";
    struct request_stream stream = {0}, agreed;
    (void)state;
    stream = agreed = asked(stream, asks, 8, REQUEST_ENDS);
    assert_int_equal(request_answer(&agreed, "S", 1, true), ANSWER_LEAVES);
    assert_int_equal(agreed.state, STREAM_ALONE);
    request_answer(&stream, "N", 1, true);
    stream = asked(stream, asks_gss, 8, REQUEST_ENDS);
    agreed = stream;
    assert_int_equal(request_answer(&agreed, "G", 1, true), ANSWER_LEAVES);
    request_answer(&stream, "N", 1, true);
    stream = asked(stream, BYTES(STARTUP "\0"), REQUEST_ENDS);
    request_answer(&stream, BYTES(LOGGED_IN), true);
    stream = asked(stream, BYTES(SELECT), REQUEST_ENDS);
    assert_false(stream.flags & REQUEST_SILENT);
}

static void a_walsender_is_a_stream(void **state)
{
    static const struct {
        const char *value;
        bool leaves;
    } values[] = {{"true", true},   {"database", true}, {"1", true}, {"on", true},
                  {"false", false}, {"0", false},       {"", false}, {"no", false}};
    (void)state;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        char packet[64] = "\0\0\0\0\0\3\0\0replications\0true\0replication\0";
        size_t length = 8 + sizeof "replications" + sizeof "true" + sizeof "replication";
        memcpy(packet + length, values[i].value, strlen(values[i].value) + 1);
        length += strlen(values[i].value) + 2;
        packet[3] = (char)length;
        struct request_stream stream = {0};
        asked(stream, packet, length, values[i].leaves ? REQUEST_LEAVES : REQUEST_ENDS);
    }
    /* Whatever its name. */
    struct request_stream stream = logged_in();
    assert_int_equal(request_answer(&stream, BYTES("W\0\0\0\x7\0\0\0"), true), ANSWER_LEAVES);
}

static void what_comes_at_any_time_answers_nothing(void **state)
{
    struct request_stream stream = logged_in();
    (void)state;
    static const char notices[] = "N\0\0\0\x5\0S\0\0\0\x8"
                                  "a\0b\0A\0\0\0\xd\0\0\0\1a\0b\0\0";
    for (size_t i = 0; i < sizeof notices - 1; i++)
        assert_int_equal(request_answer(&stream, notices + i, 1, true), ANSWER_NOTHING);
    assert_int_equal(request_answer(&stream, "C", 1, true), ANSWER_BEGUN);
}

/* What the server answers before the Sync stands in a transaction that ends with the Sync. */
static void what_is_flushed_begins_a_transaction(void **state)
{
    char out[REQUEST_REFUSAL_MAX];
    struct request_stream stream = asked(logged_in(), BYTES("E\0\0\0\4H\0\0\0\4"), REQUEST_GOES_ON);
    (void)state;
    request_answer(&stream, BYTES("C\0\0\0\5x"), true);
    assert_true(stream.flags & ANSWER_UNFINISHED);
    stream = asked(stream, BYTES("E\0\0\0\4S\0\0\0\4"), REQUEST_ENDS);
    assert_int_equal(request_refuse(&stream, &limits, false, out, sizeof out), 0);
    request_answer(&stream, BYTES(ANSWERED "I"), true);
    assert_false(stream.flags & (SESSION_TRANSACTION | ANSWER_UNFINISHED));
}

/* An answer ends with ReadyForQuery, or when the client is to send the data of a COPY. */
static void answers_have_an_end(void **state)
{
    static const char answer[] = ANSWERED "I", copy[] = "G\0\0\0\7\0\0\0";
    struct request_stream stream = asked(logged_in(), BYTES(SELECT), REQUEST_ENDS), copies = stream;
    (void)state;
    for (size_t i = 4; i < sizeof answer - 2; i++) {
        struct request_stream piece = stream;
        request_answer(&piece, answer, i + 1, true);
        assert_true(piece.flags & ANSWER_UNFINISHED);
    }
    request_answer(&stream, answer, sizeof answer - 1, true);
    assert_false(stream.flags & ANSWER_UNFINISHED);
    request_answer(&copies, copy, sizeof copy - 1, true);
    assert_false(copies.flags & ANSWER_UNFINISHED);
}

/* A series is one request whose messages go on until Sync; before that it is not between two. */
static void a_series_ends_at_its_sync(void **state)
{
    static const char series[] = "P\0\0\0\x11s\0select 1\0\0\0"
                                 "B\0\0\0\4"
                                 "E\0\0\0\4"
                                 "H\0\0\0\4"
                                 "E\0\0\0\4"
                                 "S\0\0\0\4" SELECT;
    const size_t ends = sizeof series - 1 - (sizeof SELECT - 1);
    (void)state;
    for (size_t cut = 1; cut < ends; cut++) {
        struct request_stream stream = asked(logged_in(), series, cut, REQUEST_GOES_ON);
        assert_false(request_between(&stream));
        enum request_step step;
        size_t taken = request_ask(&stream, &limits, series + cut, sizeof series - 1 - cut, &step);
        assert_int_equal(step, REQUEST_ENDS);
        assert_int_equal(cut + taken, ends);
        assert_int_equal(stream.flags & REQUEST_SILENT, 0);
    }
}

static void what_only_prepares_has_no_place(void **state)
{
    static const char *const quick[] = {"P\0\0\0\x11s\0select 1\0\0\0", "D\0\0\0\6Ss",
                                        "C\0\0\0\6Ss"};
    static const size_t lengths[] = {18, 7, 7};
    (void)state;
    for (size_t i = 0; i < sizeof quick / sizeof *quick; i++) {
        struct request_stream stream = asked(logged_in(), quick[i], lengths[i], REQUEST_GOES_ON);
        assert_true(stream.flags & REQUEST_HEAD_WHOLE);
        struct request_stream both = asked(stream, "B\0\0\0\4", 5, REQUEST_GOES_ON);
        stream = asked(stream, "S\0\0\0\4", 5, REQUEST_ENDS);
        assert_true(stream.flags & REQUEST_SILENT);
        assert_false(both.flags & REQUEST_SILENT);
        assert_true(both.flags & REQUEST_HEAD_WHOLE);
    }
}

static void what_ends_a_prepared_transaction_is_not_refused(void **state)
{
    static const char *const texts[] = {"commit prepared 'x'", "ROLLBACK PREPARED 'x'", "Commit"};
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char message[64] = "Q";
        size_t length = strlen(texts[i]) + 1;
        message[4] = (char)(length + 4);
        memcpy(message + 5, texts[i], length);
        struct request_stream stream = asked(logged_in(), message, length + 5, REQUEST_ENDS);
        assert_true(stream.flags & SESSION_TRANSACTION);
    }
    struct request_stream stream = asked(logged_in(),
                                         BYTES("Q\0\0\0\xa"
                                               "commi\0"),
                                         REQUEST_ENDS);
    assert_false(stream.flags & SESSION_TRANSACTION);
}

static void a_long_message_is_passed_over_by_count(void **state)
{
    static char filling[1 << 20];
    struct request_stream stream = asked(logged_in(), BYTES("Q\x3f\xff\xff\xff"), REQUEST_GOES_ON);
    (void)state;
    assert_true(stream.flags & REQUEST_HEAD_WHOLE);
    uint64_t left = 0x3fffffff - 4;
    for (; left > sizeof filling; left -= sizeof filling)
        stream = asked(stream, filling, sizeof filling, REQUEST_GOES_ON);
    stream = asked(stream, filling, left, REQUEST_ENDS);
    assert_true(request_between(&stream));
}

static void what_is_not_the_protocol_is_left_alone(void **state)
{
    static const struct {
        const char *bytes;
        size_t length;
    } wrong[] = {{BYTES("\x80\0\0\0\4")},
                 {BYTES("q\0\0\0\4")},
                 {BYTES("Q\0\0\0\3")},
                 {BYTES("Q\x80\0\0\0")},
                 {BYTES("GET / HTTP/1.1\r\n\r\n")},
                 {BYTES("\0\0\0\x8\x04\xd2\x16\x2f")}};
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct request_stream stream =
            asked(logged_in(), wrong[i].bytes, wrong[i].length, REQUEST_LEAVES);
        assert_int_equal(stream.state, STREAM_ALONE);
    }
    struct request_stream stream = logged_in();
    assert_int_equal(request_answer(&stream, BYTES("C\0\0\0\3"), true), ANSWER_LEAVES);
}

int main(void)
{
    limits_defaults(&limits);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(real_conversations_are_understood),
        cmocka_unit_test(a_refusal_is_an_error_and_the_connection_goes_on),
        cmocka_unit_test(what_stands_inside_a_transaction_is_not_refused),
        cmocka_unit_test(the_log_in_is_not_refused),
        cmocka_unit_test(encryption_is_left_alone_and_its_refusal_goes_on),
        cmocka_unit_test(a_walsender_is_a_stream),
        cmocka_unit_test(what_comes_at_any_time_answers_nothing),
        cmocka_unit_test(what_is_flushed_begins_a_transaction),
        cmocka_unit_test(answers_have_an_end),
        cmocka_unit_test(a_series_ends_at_its_sync),
        cmocka_unit_test(what_only_prepares_has_no_place),
        cmocka_unit_test(what_ends_a_prepared_transaction_is_not_refused),
        cmocka_unit_test(a_long_message_is_passed_over_by_count),
        cmocka_unit_test(what_is_not_the_protocol_is_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
