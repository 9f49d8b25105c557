/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where requests to Redis begin and end, however their bytes are cut; what they do to a session;
 * how they are refused; and which answers answer nothing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <sys/mman.h>

#include "request_walk.h"

static void walk_fails(const char *what)
{
    fail_msg("%s", what);
}

#define SAID(text) text, sizeof text - 1
#define COUNT(array) (sizeof(array) / sizeof *(array))
#define PUBLIC_BITS (REQUEST_BITS & ~REQUEST_OF_OWN)

#define WHOLE REQUEST_HEAD_WHOLE
#define SILENT (REQUEST_HEAD_WHOLE | REQUEST_SILENT)
#define WAITS (REQUEST_HEAD_WHOLE | REQUEST_WAITS)
#define OPENS (REQUEST_HEAD_WHOLE | REQUEST_OPENS)
#define QUITS (REQUEST_HEAD_WHOLE | REQUEST_SILENT | REQUEST_CLOSES)

#define MULTI "*1\r\n$5\r\nMULTI\r\n"
#define EXEC "*1\r\n$4\r\nEXEC\r\n"
#define SET "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nv\r\n\r\n\r\n"
#define GET "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"

struct message {
    const char *bytes;
    size_t length;
    uint32_t flags;
};

/* Each is one request, and leaves the session as it was. */
static const struct message messages[] = {
    {SAID(GET), WHOLE},
    {SAID(SET), WHOLE},
    {SAID("*1\r\n$6\r\nDBSIZE\r\n"), WHOLE},
    {SAID("*1\r\n$0\r\n\r\n"), WHOLE},
    {SAID("*2\r\n$3\r\nGET\r\n$0\r\n\r\n"), WHOLE},
    {SAID("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$8\r\n*1\r\n$4\r\n\r\n"), WHOLE},
    {SAID("*2\r\n$3\r\nGET\r\n$12\r\n$4\r\nPING\r\nx\0\r\n"), WHOLE},
    {SAID("*2\r\n$40\r\nanamethatislongerthanallofredis'commands\r\n$1\r\nx\r\n"), WHOLE},
    {SAID("*2\r\n$15\r\nXREADGROUPBLOCK\r\n$1\r\nx\r\n"), WHOLE},
    {SAID("*11\r\n$3\r\nDEL\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n$1\r\nd\r\n$1\r\ne\r\n$1\r\nf\r\n"
          "$1\r\ng\r\n$1\r\nh\r\n$1\r\ni\r\n$5\r\nBLOCK\r\n"),
     WHOLE},
    {SAID("*1\r\n$4\r\nPING\r\n"), SILENT},
    {SAID("*2\r\n$6\r\nselect\r\n$1\r\n3\r\n"), SILENT},
    {SAID("*3\r\n$4\r\nAUTH\r\n$4\r\nuser\r\n$6\r\nsecret\r\n"), SILENT},
    {SAID("*2\r\n$5\r\nHELLO\r\n$1\r\n2\r\n"), SILENT},
    {SAID("*1\r\n$5\r\nHELLO\r\n"), SILENT},
    {SAID("*2\r\n$5\r\nWATCH\r\n$1\r\nk\r\n"), SILENT},
    {SAID("*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$3\r\nabc\r\n"), SILENT},
    {SAID("*3\r\n$6\r\nCLIENT\r\n$8\r\nTRACKING\r\n$2\r\non\r\n"), SILENT},
    {SAID("*2\r\n$6\r\nSCRIPT\r\n$4\r\nKILL\r\n"), SILENT},
    {SAID("*2\r\n$8\r\nFUNCTION\r\n$4\r\nkill\r\n"), SILENT},
    {SAID("*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n$4\r\nKILL\r\n"), WHOLE},
    {SAID("*2\r\n$8\r\nSHUTDOWN\r\n$6\r\nNOSAVE\r\n"), SILENT},
    {SAID("*1\r\n$4\r\nQUIT\r\n"), QUITS},
    {SAID("*3\r\n$5\r\nBLPOP\r\n$1\r\nq\r\n$1\r\n0\r\n"), WAITS},
    {SAID("*3\r\n$5\r\nbrPop\r\n$1\r\nq\r\n$1\r\n0\r\n"), WAITS},
    {SAID("*6\r\n$6\r\nBLMOVE\r\n$1\r\na\r\n$1\r\nb\r\n$4\r\nLEFT\r\n$4\r\nLEFT\r\n$1\r\n0\r\n"),
     WAITS},
    {SAID("*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$1\r\n0\r\n"), WAITS},
    {SAID("*4\r\n$5\r\nXREAD\r\n$7\r\nSTREAMS\r\n$5\r\nBLOCK\r\n$1\r\n0\r\n"), WHOLE},
    {SAID("*8\r\n$5\r\nXREAD\r\n$5\r\nCOUNT\r\n$1\r\n2\r\n$5\r\nBLOCK\r\n$1\r\n0\r\n$7\r\nSTREAMS"
          "\r\n$1\r\ns\r\n$1\r\n$\r\n"),
     WAITS},
    {SAID("*9\r\n$10\r\nXREADGROUP\r\n$5\r\nGROUP\r\n$7\r\nSTREAMS\r\n$1\r\nc\r\n$5\r\nblock\r\n"
          "$1\r\n0\r\n$7\r\nSTREAMS\r\n$1\r\ns\r\n$1\r\n>\r\n"),
     WAITS},
    {SAID("*7\r\n$10\r\nXREADGROUP\r\n$5\r\nGROUP\r\n$5\r\nBLOCK\r\n$5\r\nBLOCK\r\n$7\r\nSTREAMS"
          "\r\n$1\r\ns\r\n$1\r\n>\r\n"),
     WHOLE},
    {SAID("GET k\r\n"), WHOLE},
    {SAID("GET k\n"), WHOLE},
    {SAID("  set \"k k\" 'v' \t\r\n"), WHOLE},
    {SAID("\"PING\"\r\n"), SILENT},
    {SAID("PING\r\n"), SILENT},
    {SAID("ping\n"), SILENT},
    {SAID("BLPOP q 0\r\n"), WAITS},
    {SAID("XREAD BLOCK 0 STREAMS s $\r\n"), WAITS},
    {SAID("quit\r\n"), QUITS},
    {SAID("$5\r\n"), WHOLE}, /* a line like another */
    {SAID("\r\n"), SILENT},
    {SAID("\n"), SILENT},
    {SAID("   \r\n"), SILENT},
    {SAID("*0\r\n"), SILENT},
    {SAID("*-1\r\n"), SILENT},
    {SAID("*-20\r\n"), SILENT},
    /* Without their effect, as they are errors. */
    {SAID("*2\r\n$5\r\nMULTI\r\n$1\r\nx\r\n"), OPENS},
    {SAID("*2\r\n$4\r\nEXEC\r\n$1\r\nx\r\n"), WHOLE},
};

static void check_message(const struct message *message, size_t cut)
{
    struct walk walk;
    walk_begin(&walk, NULL, BUSY_IN_REDIS);
    walk_show(&walk, message->bytes, cut);
    assert_int_equal(walk.count, 0);
    walk_show(&walk, message->bytes + cut, message->length - cut);
    assert_int_equal(walk.count, 1);
    assert_int_equal(walk.ends[0].at, message->length);
    assert_int_equal(walk.ends[0].flags & PUBLIC_BITS, message->flags);
    assert_int_equal(walk.stream.flags & SESSION_TRANSACTION, 0);
    walk_end(&walk);
}

static void a_request_ends_where_it_ends_split_at_every_byte(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(messages); i++)
        for (size_t cut = 0; cut < messages[i].length; cut++)
            check_message(&messages[i], cut);
}

/* What is known of a request is known before all of it is there. */
static void a_command_is_known_by_its_first_words(void **state)
{
    static const char head[] = "*3\r\n$5\r\nBLPOP\r\n";
    struct walk walk;
    (void)state;
    walk_begin(&walk, NULL, BUSY_IN_REDIS);
    walk_show(&walk, head, sizeof head - 2);
    assert_int_equal(walk.stream.flags & PUBLIC_BITS, 0);
    walk_show(&walk, head + sizeof head - 2, 1);
    assert_int_equal(walk.stream.flags & PUBLIC_BITS, WAITS);
    assert_int_equal(walk.count, 0);
    walk_end(&walk);
}

static void pipelined_requests_end_where_each_does(void **state)
{
    static char bytes[64 * 128];
    (void)state;
    for (size_t depth = 1; depth <= 64; depth++) {
        struct walk walk;
        size_t length = 0;
        for (size_t i = 0; i < depth; i++) {
            const struct message *message = &messages[(depth * 7 + i) % COUNT(messages)];
            memcpy(bytes + length, message->bytes, message->length);
            length += message->length;
        }
        walk_all_cuts(&walk, NULL, BUSY_IN_REDIS, bytes, length, (uint32_t)depth);
        assert_int_equal(walk.count, depth);
        for (size_t i = 0, at = 0; i < depth; i++) {
            const struct message *message = &messages[(depth * 7 + i) % COUNT(messages)];
            at += message->length;
            assert_int_equal(walk.ends[i].at, at);
            assert_int_equal(walk.ends[i].flags & PUBLIC_BITS, message->flags);
        }
        walk_end(&walk);
    }
}

/* Sent one behind another; `inside` is what the next one finds. */
static const struct {
    struct message message;
    bool inside;
} session[] = {
    {{SAID(MULTI), OPENS}, true},
    {{SAID(SET), WHOLE}, true},
    {{SAID("*3\r\n$5\r\nBLPOP\r\n$1\r\nq\r\n$1\r\n0\r\n"), WHOLE}, true}, /* does not block here */
    {{SAID(MULTI), OPENS}, true},                                         /* cannot be nested */
    {{SAID("*2\r\n$4\r\nEXEC\r\n$1\r\nx\r\n"), WHOLE}, true},
    {{SAID(EXEC), WHOLE}, false},
    {{SAID("multi\r\n"), OPENS}, true},
    {{SAID("DISCARD\r\n"), WHOLE}, false},
    {{SAID(MULTI), OPENS}, true},
    {{SAID("*1\r\n$5\r\nRESET\r\n"), SILENT}, false},
    {{SAID("*2\r\n$5\r\nWATCH\r\n$1\r\nk\r\n"), SILENT}, false},
    /* Whose answers are off is not answered. */
    {{SAID("*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$4\r\nSKIP\r\n"), SILENT}, false},
    {{SAID(GET), SILENT}, false},
    {{SAID(GET), WHOLE}, false},
    {{SAID("*3\r\n$6\r\nCLIENT\r\n$5\r\nreply\r\n$3\r\noff\r\n"), SILENT}, false},
    {{SAID(GET), SILENT}, false},
    {{SAID(SET), SILENT}, false},
    {{SAID("CLIENT REPLY ON\r\n"), SILENT}, false},
    {{SAID(GET), WHOLE}, false},
};

static void a_session_goes_from_one_request_to_the_next(void **state)
{
    struct walk walk;
    (void)state;
    walk_begin(&walk, NULL, BUSY_IN_REDIS);
    for (size_t i = 0; i < COUNT(session); i++) {
        walk_pieces(&walk, session[i].message.bytes, session[i].message.length, 1, false, 0);
        assert_int_equal(walk.count, i + 1);
        assert_int_equal(walk.stream.flags & PUBLIC_BITS, session[i].message.flags);
        assert_int_equal((walk.stream.flags & SESSION_TRANSACTION) != 0, session[i].inside);
    }
    walk_end(&walk);
}

/* Streams, and what Redis answers by closing the connection. */
static void connections_are_left_alone(void **state)
{
    static const struct message left[] = {
        {SAID("*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nc\r\n"), 0},
        {SAID("*2\r\n$10\r\npsubscribe\r\n$1\r\nc\r\n"), 0},
        {SAID("*2\r\n$10\r\nSSUBSCRIBE\r\n$1\r\nc\r\n"), 0},
        {SAID("*1\r\n$7\r\nMONITOR\r\n"), 0},
        {SAID("*1\r\n$4\r\nSYNC\r\n"), 0},
        {SAID("*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n"), 0},
        {SAID("*3\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$1\r\n0\r\n"), 0},
        {SAID("MONITOR\r\n"), 0},
        {SAID("subscribe c\r\n"), 0},
        {SAID("*x\r\n"), 0},
        {SAID("*\r\n"), 0},
        {SAID("*1\n"), 0},
        {SAID("*01\r\n"), 0},
        {SAID("*+1\r\n"), 0},
        {SAID("*1 \r\n"), 0},
        {SAID("*2147483648\r\n"), 0},
        {SAID("*99999999999999999999\r\n"), 0},
        {SAID("*999999999999999999999999999\r\n"), 0},
        {SAID("*1\r\n+4\r\nPING\r\n"), 0},
        {SAID("*1\r\n$-1\r\n"), 0},
        {SAID("*1\r\n$-\r\n"), 0},
        {SAID("*1\r\n$\r\n"), 0},
        {SAID("*1\r\n$04\r\nPING\r\n"), 0},
        {SAID("*1\r\n$9223372036854775808\r\n"), 0},
        {SAID("*1\r\n\r\n"), 0},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(left); i++) {
        struct walk walk;
        walk_all_cuts(&walk, NULL, BUSY_IN_REDIS, left[i].bytes, left[i].length, (uint32_t)i);
        assert_int_equal(walk.stream.state, STREAM_ALONE);
        assert_int_equal(walk.count, 0);
        walk_end(&walk);
    }
}

static void a_line_without_an_end_is_followed_as_far_as_redis_does(void **state)
{
    static char bytes[66000];
    struct walk walk;
    (void)state;
    memset(bytes, 'x', sizeof bytes);
    walk_all_cuts(&walk, NULL, BUSY_IN_REDIS, bytes, 65000, 1);
    assert_int_equal(walk.stream.state, STREAM_REQUESTS);
    walk_end(&walk);
    walk_all_cuts(&walk, NULL, BUSY_IN_REDIS, bytes, sizeof bytes, 1);
    assert_int_equal(walk.stream.state, STREAM_ALONE);
    walk_end(&walk);
}

/* A value's bytes are never looked at: they lie where nobody may read. */
static void a_big_value_is_passed_over_by_its_length(void **state)
{
    static const char head[] = "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\n";
    const size_t size = 536870912;
    struct walk walk;
    enum request_step step;
    (void)state;
    char *value = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_ptr_not_equal(value, MAP_FAILED);
    walk_begin(&walk, NULL, BUSY_IN_REDIS);
    walk_show(&walk, head, sizeof head - 1);
    assert_int_equal(request_ask(&walk.stream, NULL, value, size, &step), size);
    assert_int_equal(step, REQUEST_GOES_ON);
    assert_int_equal(request_ask(&walk.stream, NULL, "\r\n*1\r\n", 6, &step), 2);
    assert_int_equal(step, REQUEST_ENDS);
    munmap(value, size);
    walk_end(&walk);
}

static void a_client_is_recognised_byte_by_byte(void **state)
{
    static const struct message first[] = {
        {SAID(GET), STREAM_REQUESTS},
        {SAID("*1\r\n$5\r\nHELLO\r\n"), STREAM_REQUESTS},
        {SAID("PING\r\n"), STREAM_REQUESTS},
        {SAID("SET k v\r\n"), STREAM_REQUESTS},
        {SAID("AUTH secret\r\nPING\r\n"), STREAM_REQUESTS},
        {SAID("ROLE\r\n"), STREAM_REQUESTS},
        {SAID("hget k f\r\n"), STREAM_REQUESTS},
        {SAID("*x\r\n"), STREAM_ALONE},
        {SAID("SUB c\r\n"), STREAM_ALONE},
        {SAID("echo hello\r\n"), STREAM_ALONE},
        {SAID("ROLES\r\n"), STREAM_ALONE},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(first); i++) {
        struct walk walk;
        walk_all_cuts(&walk, NULL, BUSY_PROTOCOLS, first[i].bytes, first[i].length, 0);
        assert_int_equal(walk.stream.state, first[i].flags);
        if (first[i].flags == STREAM_REQUESTS)
            assert_int_equal(walk.stream.protocol, BUSY_IN_REDIS);
        walk_end(&walk);
    }
}

static void check_refusal(const char *request, const char *wanted)
{
    char said[REQUEST_REFUSAL_MAX];
    struct walk walk;
    walk_begin(&walk, NULL, BUSY_IN_REDIS);
    walk_show(&walk, request, strlen(request));
    assert_int_equal(request_refuse(&walk.stream, NULL, false, said, sizeof said), strlen(wanted));
    assert_memory_equal(said, wanted, strlen(wanted));
    assert_true(request_refuse(&walk.stream, NULL, false, said, 3) <= 3);
    walk_end(&walk);
}

static void refusals_are_errors_of_one_line(void **state)
{
    (void)state;
    check_refusal(GET, "-BUSY the server is busy, try again later\r\n");
    check_refusal(MULTI, "-BUSY the server is busy, try again later\r\n");
    check_refusal(MULTI SET EXEC,
                  "-EXECABORT Transaction discarded: the server is busy, try again later\r\n");
    check_refusal("*1\r\n$4\r\nPING\r\n", "");
    check_refusal("\r\n", "");
    check_refusal("CLIENT REPLY OFF\r\n" GET, "");
}

static void a_transaction_that_is_all_there_can_be_shed(void **state)
{
    static const char whole[] = MULTI SET SET EXEC GET;
    struct walk walk;
    (void)state;
    walk_begin(&walk, NULL, BUSY_IN_REDIS);
    size_t length = sizeof MULTI SET SET EXEC - 1;
    assert_int_equal(request_transaction(&walk.stream, NULL, whole, sizeof whole - 1), length);
    for (size_t less = 0; less < length; less++)
        assert_int_equal(request_transaction(&walk.stream, NULL, whole, less), 0);
    static const char subscribes[] = MULTI "SUBSCRIBE c\r\n" EXEC;
    assert_int_equal(request_transaction(&walk.stream, NULL, subscribes, sizeof subscribes - 1), 0);
    assert_int_equal(walk.stream.flags, 0);
}

/* After HELLO 3; `begun`: whether some of it answers. */
static const struct {
    const char *bytes;
    size_t length;
    bool begun;
} answers[] = {
    {SAID(">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n"), false},
    {SAID(">2\r\n+invalidate\r\n*-1\r\n>2\r\n$3\r\nfoo\r\n_\r\n"), false},
    {SAID(">3\r\n%1\r\n+a\r\n$-1\r\n|1\r\n+x\r\n~0\r\n#t\r\n(123\r\n"), false},
    {SAID("+OK\r\n"), true},
    {SAID("$5\r\n>2\r\n>\r\n"), true},
    {SAID(">1\r\n:1\r\n:2\r\n"), true},
    {SAID(",1.5\r\n>1\r\n+a\r\n"), true},
    {SAID("|1\r\n+a\r\n+b\r\n*2\r\n=7\r\ntxt:abc\r\n!3\r\nERR\r\n"), true},
    {SAID(">x\r\n"), true},
    {SAID(">99999999999999999999\r\n"), true},
};

static void answer_in_pieces(struct walk *walk, size_t i, size_t piece)
{
    bool begun = false;
    for (size_t at = 0; at < answers[i].length; at += piece) {
        size_t length = answers[i].length - at < piece ? answers[i].length - at : piece;
        begun |= request_answer(&walk->stream, answers[i].bytes + at, length, true) == ANSWER_BEGUN;
    }
    assert_int_equal(begun, answers[i].begun);
}

static void push_messages_answer_nothing(void **state)
{
    (void)state;
    for (size_t piece = 1; piece < 60; piece++) {
        struct walk walk;
        walk_begin(&walk, NULL, BUSY_IN_REDIS);
        walk_show(&walk, SAID("HELLO 3\r\n"));
        for (size_t i = 0; i < COUNT(answers); i++)
            answer_in_pieces(&walk, i, piece);
        /* Not understood any more: all are answers. */
        assert_int_equal(request_answer(&walk.stream, SAID(">1\r\n+a\r\n"), true), ANSWER_BEGUN);
        walk_end(&walk);
        walk_begin(&walk, NULL, BUSY_IN_REDIS);
        walk_show(&walk, SAID("HELLO 2\r\n"));
        assert_int_equal(request_answer(&walk.stream, SAID(">1\r\n+a\r\n"), true), ANSWER_BEGUN);
        walk_end(&walk);
    }
}

/* A connection that is followed from its middle may be in a transaction; its first answer tells. */
static void the_first_answer_tells_of_a_transaction(void **state)
{
    static const struct {
        const char *asked, *answered;
        bool inside;
    } first[] = {
        {GET, "+QUEUED\r\n", true}, {GET, "$6\r\nQUEUED\r\n", false}, {GET, "+OK\r\n", false},
        {EXEC, "*0\r\n", false},    {MULTI, "+OK\r\n", true},         {GET MULTI, "$-1\r\n", true},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(first); i++) {
        struct walk walk;
        walk_begin(&walk, NULL, BUSY_IN_REDIS);
        assert_true(request_may_be_inside(&walk.stream));
        walk.stream.flags |= SESSION_TRANSACTION;
        walk_show(&walk, first[i].asked, strlen(first[i].asked));
        request_answer(&walk.stream, first[i].answered, strlen(first[i].answered), true);
        assert_int_equal((walk.stream.flags & SESSION_TRANSACTION) != 0, first[i].inside);
        walk_show(&walk, SAID("EXEC\r\n"));
        request_answer(&walk.stream, SAID("+QUEUED\r\n"), true);
        assert_int_equal(walk.stream.flags & SESSION_TRANSACTION, 0);
        walk_end(&walk);
    }
}

static void garbage_is_followed_alike_however_it_is_cut(void **state)
{
    static const char alphabet[] = "**$$0123\r\n\r\n\r\n GETMULTIEXEC\"\0\xff";
    uint32_t chance = 1;
    (void)state;
    for (unsigned round = 0; round < 3000; round++) {
        char bytes[200];
        struct walk walk;
        for (size_t i = 0; i < sizeof bytes; i++) {
            chance = chance * 1664525 + 1013904223;
            bytes[i] = alphabet[(chance >> 10) % (sizeof alphabet - 1)];
        }
        walk_all_cuts(&walk, NULL, round % 2 ? BUSY_IN_REDIS : BUSY_PROTOCOLS, bytes, sizeof bytes,
                      chance);
        walk_end(&walk);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_ends_where_it_ends_split_at_every_byte),
        cmocka_unit_test(a_command_is_known_by_its_first_words),
        cmocka_unit_test(pipelined_requests_end_where_each_does),
        cmocka_unit_test(a_session_goes_from_one_request_to_the_next),
        cmocka_unit_test(connections_are_left_alone),
        cmocka_unit_test(a_line_without_an_end_is_followed_as_far_as_redis_does),
        cmocka_unit_test(a_big_value_is_passed_over_by_its_length),
        cmocka_unit_test(a_client_is_recognised_byte_by_byte),
        cmocka_unit_test(refusals_are_errors_of_one_line),
        cmocka_unit_test(a_transaction_that_is_all_there_can_be_shed),
        cmocka_unit_test(push_messages_answer_nothing),
        cmocka_unit_test(the_first_answer_tells_of_a_transaction),
        cmocka_unit_test(garbage_is_followed_alike_however_it_is_cut),
    };
    return cmocka_run_group_tests_name("requests to Redis", tests, NULL, NULL);
}
