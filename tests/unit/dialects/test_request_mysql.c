/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * MySQL's requests: where they begin and end, which stand inside a transaction, and how one is
 * refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include "recorded.h"

#define BYTES(text) text, sizeof text - 1

static struct limits limits;

enum { IN_TRANS = 1, AUTOCOMMIT = 2, MORE = 8 };
enum { PROTOCOL_41 = 1 << 9, COMPRESS = 1 << 5, SSL = 1 << 11, WITHOUT_EOF = 1 << 24 };

/* A packet: its number, and what is in it. */
static size_t packet(char *out, uint8_t number, const void *payload, size_t length)
{
    memcpy(out, (char[]){(char)length, (char)(length >> 8), (char)(length >> 16), (char)number}, 4);
    memcpy(out + 4, payload, length);
    return length + 4;
}

static enum request_step asks(struct request_stream *stream, uint8_t number, const void *payload,
                              size_t length)
{
    static char bytes[1 << 17];
    enum request_step step;
    size_t whole = packet(bytes, number, payload, length);
    assert_int_equal(request_ask(stream, &limits, bytes, whole, &step), whole);
    return step;
}

static void query(struct request_stream *stream, const char *text)
{
    char payload[256] = "\3";
    memcpy(payload + 1, text, strlen(text));
    assert_int_equal(asks(stream, 0, payload, strlen(text) + 1), REQUEST_ENDS);
}

static enum answer_step answers(struct request_stream *stream, uint8_t number, const void *payload,
                                size_t length)
{
    static char bytes[1 << 17];
    return request_answer(stream, bytes, packet(bytes, number, payload, length), true);
}

static void ok(struct request_stream *stream, uint8_t number, unsigned status)
{
    assert_int_equal(
        answers(stream, number, (char[]){0, 0, 0, (char)status, (char)(status >> 8), 0, 0}, 7),
        ANSWER_BEGUN);
}

static void eof(struct request_stream *stream, uint8_t number, unsigned status)
{
    answers(stream, number, (char[]){(char)0xfe, 0, 0, (char)status, (char)(status >> 8)}, 5);
}

static void error(struct request_stream *stream, uint8_t number)
{
    answers(stream, number, BYTES("\xff\x26\x04#23000Duplicate entry"));
}

static void definition(struct request_stream *stream, uint8_t number)
{
    answers(stream, number,
            BYTES("\3def\0\0\0\1"
                  "1\0\xc?\0\1\0\0\0\3\x81\0\0\0\0"));
}

static struct request_stream greeted(void)
{
    struct request_stream stream = {0};
    char greeting[128] = "\n5.5.5-10.11.19-MariaDB";
    assert_int_equal(answers(&stream, 0, greeting, 100), ANSWER_NOTHING);
    assert_int_equal(stream.state, STREAM_REQUESTS);
    assert_int_equal(stream.protocol, BUSY_IN_MYSQL);
    return stream;
}

static enum request_step claims(struct request_stream *stream, uint32_t capabilities)
{
    char login[64] = {(char)capabilities, (char)(capabilities >> 8), (char)(capabilities >> 16),
                      (char)(capabilities >> 24)};
    return asks(stream, 1, login, sizeof login);
}

static struct request_stream logged_in(uint32_t capabilities)
{
    struct request_stream stream = greeted();
    assert_int_equal(claims(&stream, PROTOCOL_41 | capabilities), REQUEST_ENDS);
    assert_true(stream.flags & REQUEST_SILENT);
    ok(&stream, 2, AUTOCOMMIT);
    assert_true(request_between(&stream));
    return stream;
}

static size_t refusal_of(const struct request_stream *stream)
{
    char out[REQUEST_REFUSAL_MAX];
    return request_refuse(stream, &limits, false, out, sizeof out);
}

static bool inside(const struct request_stream *stream)
{
    return stream->flags & SESSION_TRANSACTION;
}

/* What was asked: see the comments, and tests/fuzz/record.py. */
static void real_conversations_are_understood(void **state)
{
    static const struct recorded conversations[] = {
        /* The program `mysql`: databases, select, begin, select, commit, select. */
        {"request_mysql/client", "srrrttrx", STREAM_REQUESTS},
        {"request_mysql/compress", "", STREAM_ALONE},
        /* A copying ALTER TABLE that tells its progress. */
        {"request_mysql/progress", "srrrrttx", STREAM_REQUESTS},
        /* After a failed change of user (twice spoken) nothing is known until the next status. */
        {"request_mysql/change_user_fails", "srsstx", STREAM_REQUESTS},
        /* Twice drop and create; then files, within a transaction the second. */
        {"request_mysql/infile", "srrrsssssrrtsstrsrrtx", STREAM_REQUESTS},
        /* With autocommit off. */
        {"request_mysql/pymysql", "srrrrrttrtrrrrttrsx", STREAM_REQUESTS},
        /* Prepared statements in the binary protocol: cursors, procedures, long data, errors. */
        {"request_mysql/prepared",
         "srrrrsrssrssrssssssrsssrsstsstsstsssssstssrsssrsrrsrssrsssstssrsrssrsstssrsx",
         STREAM_REQUESTS},
        /* Errors inside, implicit commits, autocommit off, several statements in one, XA, LOCK
         * TABLES, procedures, and each of the small commands. */
        {"request_mysql/transactions",
         "srrrrttttrrrrttrrrrttrtrrtrtrtrtttttttrtttrrrrttrrrrrsssssssrtsrrssrsrx",
         STREAM_REQUESTS},
        /* The same with both ways to end rows. */
        {"request_mysql/with_eof", "srrrrrrtttrsrrttsstrssrsrsrsrrrx", STREAM_REQUESTS},
        {"request_mysql/without_eof", "srrrrrrtttrsrrttsstrssrsrsrsrrrx", STREAM_REQUESTS},
    };
    (void)state;
    struct request_stream begins = {.state = STREAM_REQUESTS, .protocol = BUSY_IN_MYSQL};
    for (size_t i = 0; i < sizeof conversations / sizeof *conversations; i++)
        recorded_check(&conversations[i], begins);
}

static void a_server_is_known_by_its_greeting(void **state)
{
    static const struct {
        const char *bytes;
        size_t length;
    } others[] = {{BYTES("220 mail ESMTP\r\n")},
                  {BYTES("\x4a\0\0")},
                  {BYTES("\x4a\0\0\1\n5.5.5")},
                  {BYTES("\x17\0\0\0\xff\x10\4Too many connections")}};
    (void)state;
    greeted();
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        struct request_stream stream = {0};
        assert_int_equal(request_answer(&stream, others[i].bytes, others[i].length, true),
                         ANSWER_LEAVES);
        assert_int_equal(stream.state, STREAM_ALONE);
    }
}

static void a_refusal_is_an_error_and_the_connection_goes_on(void **state)
{
    char out[REQUEST_REFUSAL_MAX];
    struct request_stream stream = logged_in(0);
    (void)state;
    query(&stream, "SELECT 1");
    assert_int_equal(stream.flags & REQUEST_BITS & ~REQUEST_OF_OWN,
                     REQUEST_HEAD_WHOLE | REQUEST_LEADS);
    size_t length = request_refuse(&stream, &limits, false, out, sizeof out);
    assert_in_range(length, 20, sizeof out);
    assert_int_equal((size_t)(uint8_t)out[0] + 4, length);
    assert_memory_equal(out + 1, "\0\0\1\xff\xbd\4#40001", 12);
    for (size_t size = 0; size < length; size++)
        assert_int_equal(request_refuse(&stream, &limits, false, out, size), 0);
    /* It is never an end of the connection. */
    assert_int_equal(request_refuse(&stream, &limits, true, out, sizeof out), 0);
    /* What the server then answers is the next one. */
    request_refused(&stream);
    asks(&stream, 0, BYTES("\x16select 1"));
    answers(&stream, 1, BYTES("\0\1\0\0\0\0\0\0\0\0\0\0"));
    query(&stream, "select 1");
    assert_true(refusal_of(&stream) > 0);
}

static void answers_have_an_end(void **state)
{
    struct request_stream stream = logged_in(0);
    (void)state;
    assert_false(stream.flags & ANSWER_UNFINISHED);
    query(&stream, "select 1");
    answers(&stream, 1, "\1", 1);
    assert_true(stream.flags & ANSWER_UNFINISHED);
    definition(&stream, 2);
    eof(&stream, 3, AUTOCOMMIT);
    assert_true(stream.flags & ANSWER_UNFINISHED);
    request_answer(&stream, "\5\0\0\4", 4, false);
    request_answer(&stream, BYTES("\xfe\0\0\2"), false);
    assert_true(stream.flags & ANSWER_UNFINISHED);
    request_answer(&stream, "\0", 1, false);
    assert_false(stream.flags & ANSWER_UNFINISHED);
    /* The server waits for the file. */
    query(&stream, "load data local infile 'f' into table t");
    answers(&stream, 1, BYTES("\xfb/f"));
    assert_false(stream.flags & ANSWER_UNFINISHED);
}

/* Its number follows that of the last packet of the request. */
static void a_long_request_is_one(void **state)
{
    static char filling[1 << 16];
    struct request_stream stream = logged_in(0);
    enum request_step step;
    (void)state;
    char header[] = {(char)0xff, (char)0xff, (char)0xff, 0, 3};
    for (int number = 0; number < 2; number++) {
        header[3] = (char)number;
        request_ask(&stream, &limits, header, 5, &step);
        assert_int_equal(step, REQUEST_GOES_ON);
        uint64_t left = 0xffffff - 1;
        for (; left > sizeof filling; left -= sizeof filling)
            request_ask(&stream, &limits, filling, sizeof filling, &step);
        request_ask(&stream, &limits, filling, left, &step);
        assert_int_equal(step, REQUEST_GOES_ON);
        assert_false(request_between(&stream));
    }
    assert_int_equal(asks(&stream, 2, "", 0), REQUEST_ENDS);
    char out[REQUEST_REFUSAL_MAX];
    assert_true(request_refuse(&stream, &limits, false, out, sizeof out) > 0);
    assert_int_equal(out[3], 3);
}

static void what_is_encrypted_or_compressed_is_left_alone(void **state)
{
    static const uint32_t capabilities[] = {PROTOCOL_41 | SSL, PROTOCOL_41 | COMPRESS,
                                            PROTOCOL_41 | 1u << 26, 0};
    (void)state;
    for (size_t i = 0; i < sizeof capabilities / sizeof *capabilities; i++) {
        struct request_stream stream = greeted();
        assert_int_equal(claims(&stream, capabilities[i]), REQUEST_LEAVES);
    }
}

static void replication_is_a_stream(void **state)
{
    static const char commands[] = {0x12, 0x13, 0x15, 0x1e, 0x20, 0x21};
    (void)state;
    for (size_t i = 0; i < sizeof commands; i++) {
        struct request_stream stream = logged_in(0);
        assert_int_equal(asks(&stream, 0, commands + i, 1), REQUEST_LEAVES);
        assert_int_equal(stream.state, STREAM_ALONE);
    }
}

/* Commands that are quick, clean up, or belong to what was asked before. */
static void what_is_silent_has_no_place(void **state)
{
    static const char commands[] = {1,    2,    4,    8,    9,    0xa,  0xc,  0xd,  0xe,
                                    0x11, 0x16, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1f, 0x70};
    (void)state;
    for (size_t i = 0; i < sizeof commands; i++) {
        struct request_stream stream = logged_in(0);
        asks(&stream, 0, commands + i, 1);
        assert_true(stream.flags & REQUEST_SILENT);
        assert_int_equal(!!(stream.flags & REQUEST_CLOSES), commands[i] == 1);
        assert_int_equal(refusal_of(&stream), 0);
    }
}

static void every_status_is_heeded(void **state)
{
    struct request_stream stream = logged_in(0);
    (void)state;
    query(&stream, "begin");
    assert_false(inside(&stream));
    ok(&stream, 1, AUTOCOMMIT | IN_TRANS);
    assert_true(inside(&stream));
    query(&stream, "select 1; commit");
    assert_int_equal(refusal_of(&stream), 0);
    answers(&stream, 1, "\1", 1);
    definition(&stream, 2);
    eof(&stream, 3, IN_TRANS);
    answers(&stream, 4, "\1x", 2);
    eof(&stream, 5, IN_TRANS | MORE);
    assert_true(inside(&stream));
    ok(&stream, 6, AUTOCOMMIT);
    assert_false(inside(&stream));
    query(&stream, "select 1");
    assert_true(refusal_of(&stream) > 0);
}

/* Numbers of up to nine bytes stand before a status, and behind it what the session tracks. */
static void a_status_is_found_behind_long_numbers(void **state)
{
    static const char answer[] = "\0\xfe\1\2\3\4\5\6\7\x8\xfe\1\2\3\4\5\6\7\x8\3\0\0\0 and more";
    static const char small[] = "\0\xfc\1\2\xfd\1\2\3\2\0\0\0";
    struct request_stream stream = logged_in(0);
    (void)state;
    query(&stream, "update t set a = 1");
    answers(&stream, 1, BYTES(answer));
    assert_true(inside(&stream));
    query(&stream, "update t set a = 1");
    answers(&stream, 1, BYTES(small));
    assert_false(inside(&stream));
}

/* An error has no status. */
static void after_an_error_only_what_is_known_counts(void **state)
{
    struct request_stream stream = logged_in(0);
    (void)state;
    /* It may have been a procedure, which began a transaction before it failed. */
    query(&stream, "call p()");
    error(&stream, 1);
    assert_true(inside(&stream));
    query(&stream, "select 1");
    ok(&stream, 1, AUTOCOMMIT);
    assert_false(inside(&stream));
    /* An INSERT does no such thing, */
    query(&stream, "insert into t values (1)");
    error(&stream, 1);
    assert_false(inside(&stream));
    /* unless each statement does. */
    query(&stream, "set autocommit = 0");
    ok(&stream, 1, 0);
    query(&stream, "insert into t values (1)");
    error(&stream, 1);
    assert_true(inside(&stream));
    query(&stream, "commit");
    ok(&stream, 1, AUTOCOMMIT);
    /* Nor does a statement before it make its failure harmless. */
    query(&stream, "select 1; call p()");
    ok(&stream, 1, AUTOCOMMIT | MORE);
    error(&stream, 2);
    assert_true(inside(&stream));
}

static void locked_tables_are_as_a_transaction(void **state)
{
    struct request_stream stream = logged_in(0);
    (void)state;
    query(&stream, "LOCK TABLES t WRITE");
    assert_true(inside(&stream));
    ok(&stream, 1, AUTOCOMMIT);
    assert_true(inside(&stream));
    query(&stream, "UNLOCK TABLES");
    assert_int_equal(refusal_of(&stream), 0);
    ok(&stream, 1, AUTOCOMMIT);
    assert_false(inside(&stream));
    query(&stream, "XA COMMIT 'x'");
    assert_int_equal(refusal_of(&stream), 0);
}

/* The server keeps what it got: tried again after a refusal, it would have it twice. */
static void an_execution_with_long_data_is_not_refused(void **state)
{
    struct request_stream stream = logged_in(0);
    (void)state;
    asks(&stream, 0, BYTES("\x18\1\0\0\0\0\0hello"));
    asks(&stream, 0, BYTES("\x17\1\0\0\0\0\1\0\0\0"));
    assert_int_equal(refusal_of(&stream), 0);
    ok(&stream, 1, AUTOCOMMIT);
    asks(&stream, 0, BYTES("\x17\1\0\0\0\0\1\0\0\0"));
    assert_true(refusal_of(&stream) > 0);
}

/* Its packets are numbered on, and after 256 of them one has the number that commands have. */
static void a_local_file_belongs_to_what_asked_for_it(void **state)
{
    struct request_stream stream = logged_in(0);
    (void)state;
    query(&stream, "load data local infile 'f' into table t");
    assert_int_equal(answers(&stream, 1, BYTES("\xfb/f")), ANSWER_BEGUN);
    for (unsigned number = 2; number < 600; number++) {
        assert_int_equal(asks(&stream, (uint8_t)number, BYTES("\x12\n")), REQUEST_ENDS);
        assert_true(stream.flags & REQUEST_SILENT);
    }
    asks(&stream, (uint8_t)600, "", 0);
    assert_true(stream.flags & REQUEST_SILENT);
    ok(&stream, (uint8_t)601, AUTOCOMMIT);
    query(&stream, "select 1");
    assert_true(refusal_of(&stream) > 0);
}

/* A row, too, may begin as an end does: then it fills its packet. */
static void rows_are_told_from_their_end(void **state)
{
    static char filling[1 << 16];
    struct request_stream stream = logged_in(WITHOUT_EOF);
    (void)state;
    query(&stream, "select repeat('x', 1 << 24)");
    answers(&stream, 1, "\1", 1);
    definition(&stream, 2);
    request_answer(&stream, BYTES("\xff\xff\xff\3\xfe\0\0\0\1\0\0\0\0"), false);
    uint64_t left = 0xffffff - 9;
    for (; left > sizeof filling; left -= sizeof filling)
        request_answer(&stream, filling, sizeof filling, false);
    request_answer(&stream, filling, left, false);
    /* The rest of the row may look like anything. */
    answers(&stream, 4, BYTES("\xfe\0\0\3\0\0\0"));
    answers(&stream, 5, BYTES("\0\0\0\3\0\0\0"));
    assert_false(inside(&stream));
    answers(&stream, 6, BYTES("\xfe\0\0\3\0\0\0"));
    assert_true(inside(&stream));
}

/* Without their definitions, as MariaDB and MySQL may leave them away. */
static void results_without_definitions_are_understood(void **state)
{
    struct request_stream stream = logged_in(0);
    (void)state;
    query(&stream, "select 1");
    answers(&stream, 1, BYTES("\1\0"));
    eof(&stream, 2, AUTOCOMMIT);
    answers(&stream, 3,
            BYTES("\1"
                  "1"));
    eof(&stream, 4, AUTOCOMMIT | IN_TRANS);
    assert_true(inside(&stream));
    asks(&stream, 0, BYTES("\x16select ?"));
    answers(&stream, 1, BYTES("\0\1\0\0\0\1\0\1\0\0\0\0\0"));
    query(&stream, "commit");
    ok(&stream, 1, AUTOCOMMIT);
    assert_false(inside(&stream));
}

static void pipelined_commands_are_answered_in_turn(void **state)
{
    struct request_stream stream = logged_in(0);
    (void)state;
    asks(&stream, 0, BYTES("\x16select 1"));
    query(&stream, "begin");
    /* What stands behind another cannot be answered before it. */
    assert_int_equal(refusal_of(&stream), 0);
    query(&stream, "select 1");
    answers(&stream, 1, BYTES("\0\1\0\0\0\1\0\0\0\0\0\0"));
    definition(&stream, 2);
    eof(&stream, 3, AUTOCOMMIT);
    ok(&stream, 1, AUTOCOMMIT | IN_TRANS);
    assert_true(inside(&stream));
    answers(&stream, 1, "\1", 1);
    definition(&stream, 2);
    eof(&stream, 3, AUTOCOMMIT);
    eof(&stream, 4, AUTOCOMMIT);
    assert_false(inside(&stream));
}

/* It says 'inside' from then on, however harmless what follows. */
static void whoever_loses_count_refuses_nothing_more(void **state)
{
    static const struct {
        uint8_t number;
        const char *payload;
        size_t length;
    } wrong[] = {{2, BYTES("\5not a definition")}, /* of two columns */
                 {3, BYTES("\3def")},              /* one is missing */
                 {2, BYTES("")}};
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct request_stream stream = logged_in(0);
        query(&stream, "select 1, 2");
        answers(&stream, 1, "\2", 1);
        answers(&stream, wrong[i].number, wrong[i].payload, wrong[i].length);
        if (wrong[i].length == 0) /* a definition without a byte */
            answers(&stream, 3, BYTES("\7"));
        assert_true(inside(&stream));
        query(&stream, "select 1");
        ok(&stream, 1, AUTOCOMMIT);
        query(&stream, "select 1");
        assert_int_equal(refusal_of(&stream), 0);
    }
    /* So does one who answers what nobody asked, unless it is why the server closes. */
    struct request_stream stream = logged_in(0);
    error(&stream, 0);
    query(&stream, "select 1");
    assert_true(refusal_of(&stream) > 0);
    ok(&stream, 1, AUTOCOMMIT);
    ok(&stream, 2, AUTOCOMMIT);
    query(&stream, "select 1");
    assert_int_equal(refusal_of(&stream), 0);
}

int main(void)
{
    limits_defaults(&limits);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(real_conversations_are_understood),
        cmocka_unit_test(a_server_is_known_by_its_greeting),
        cmocka_unit_test(a_refusal_is_an_error_and_the_connection_goes_on),
        cmocka_unit_test(answers_have_an_end),
        cmocka_unit_test(a_long_request_is_one),
        cmocka_unit_test(what_is_encrypted_or_compressed_is_left_alone),
        cmocka_unit_test(replication_is_a_stream),
        cmocka_unit_test(what_is_silent_has_no_place),
        cmocka_unit_test(every_status_is_heeded),
        cmocka_unit_test(a_status_is_found_behind_long_numbers),
        cmocka_unit_test(after_an_error_only_what_is_known_counts),
        cmocka_unit_test(locked_tables_are_as_a_transaction),
        cmocka_unit_test(an_execution_with_long_data_is_not_refused),
        cmocka_unit_test(a_local_file_belongs_to_what_asked_for_it),
        cmocka_unit_test(rows_are_told_from_their_end),
        cmocka_unit_test(results_without_definitions_are_understood),
        cmocka_unit_test(pipelined_commands_are_answered_in_turn),
        cmocka_unit_test(whoever_loses_count_refuses_nothing_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
