/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where requests to memcached begin and end, in text, meta and binary, however their bytes are cut,
 * and how they are refused.
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
#define QUITS (REQUEST_HEAD_WHOLE | REQUEST_SILENT | REQUEST_CLOSES)

struct message {
    const char *bytes;
    size_t length;
    uint32_t flags;
};

#define KEY_50 "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk"
#define KEY_250 KEY_50 KEY_50 KEY_50 KEY_50 KEY_50

/* Each is one request. */
static const struct message texts[] = {
    {SAID("get a\r\n"), WHOLE},
    {SAID("get a\n"), WHOLE},
    {SAID("  get a\r\n"), WHOLE},
    {SAID("get " KEY_250 " b c noreply q\r\n"), WHOLE},
    {SAID("gets a b\r\n"), WHOLE},
    {SAID("gat 10 a b\r\n"), WHOLE},
    {SAID("gats 10 a\r\n"), WHOLE},
    {SAID("get\r\n"), WHOLE},
    {SAID("set k 0 0 5\r\nhello\r\n"), WHOLE},
    {SAID("set k 0 0 5\nhello\r\n"), WHOLE},
    {SAID("set  k 4294967295 -1  5 \r\nset a\r\n"), WHOLE},
    {SAID("set k 0 0 0\r\n\r\n"), WHOLE},
    {SAID("set " KEY_250 " 0 2147483647 3\r\n\r\n\n\r\n"), WHOLE},
    {SAID("set k 0 0 5 noreply\r\nhello\r\n"), SILENT},
    {SAID("set k 0 0 5 noreply \r\nhello\r\n"), SILENT},
    {SAID("set k 0 0 5 else\r\nhello\r\n"), WHOLE},
    {SAID("set noreply 0 0 5\r\nhello\r\n"), WHOLE},
    {SAID("add k 0 0 5\r\nhello\r\n"), WHOLE},
    {SAID("replace k 0 0 5 noreply\r\nhello\r\n"), SILENT},
    {SAID("append k 0 0 1\r\nx\r\n"), WHOLE},
    {SAID("prepend k 0 0 1 noreply\r\nx\r\n"), SILENT},
    {SAID("cas k 0 0 5 18446744073709551600\r\nhello\r\n"), WHOLE},
    {SAID("cas k 0 0 5 7 noreply\r\nhello\r\n"), SILENT},
    {SAID("incr k 1\r\n"), WHOLE},
    {SAID("incr k 1 noreply\r\n"), SILENT},
    {SAID("decr noreply 1\r\n"), WHOLE},
    {SAID("delete k\r\n"), WHOLE},
    {SAID("delete noreply\r\n"), WHOLE},
    {SAID("delete k noreply\r\n"), SILENT},
    {SAID("delete k 0 noreply\r\n"), SILENT},
    {SAID("delete k noreply 0\r\n"), WHOLE},
    {SAID("touch k 0 noreply\r\n"), SILENT},
    {SAID("flush_all\r\n"), WHOLE},
    {SAID("flush_all 10\r\n"), WHOLE},
    {SAID("flush_all noreply\r\n"), SILENT},
    {SAID("flush_all 10 noreply\r\n"), SILENT},
    {SAID("verbosity 1 noreply\n"), SILENT},
    {SAID("stats\r\n"), WHOLE},
    {SAID("stats items\r\n"), WHOLE},
    {SAID("version\r\n"), SILENT},
    {SAID("mn\r\n"), SILENT},
    {SAID("quit\r\n"), QUITS},
    {SAID("me k\r\n"), WHOLE},
    {SAID("mg k\r\n"), WHOLE},
    {SAID("mg q v\r\n"), WHOLE},
    {SAID("mg k v Oq t\r\n"), WHOLE},
    {SAID("ms k 5\r\nhello\r\n"), WHOLE},
    {SAID("ms k 5 T0 Oq\r\nms k \r\n"), WHOLE},
    {SAID("ms k 5 T0 q\r\nhello\r\n"), SILENT},
    {SAID("ms q 0 q\r\n\r\n"), SILENT},
    {SAID("md k\r\n"), WHOLE},
    {SAID("md k q\r\n"), SILENT},
    {SAID("ma k D2 q\r\n"), SILENT},
    {SAID("lru_crawler metadump all\r\n"), WHOLE},
    {SAID("\r\n"), WHOLE}, /* "ERROR" */
    {SAID("nonsense k 0 0 5\r\n"), WHOLE},
    {SAID("GET k\r\n"), WHOLE},
    /* Of quiet gets only what ends them tells which found nothing. */
    {SAID("mg a v q\r\nmg b v q\r\nmn\r\n"), WHOLE},
    {SAID("mg a v q\r\nmg b v\r\n"), WHOLE},
    {SAID("mg a v q\r\nget b\r\n"), WHOLE},
    {SAID("mg a v q\r\nset b 0 0 2\r\nmn\r\n"), WHOLE},
    {SAID("mg a v q\r\nms b 2 q\r\nmn\r\nmn\r\n"), SILENT},
    {SAID("mg a v q\r\nquit\r\n"), WHOLE | REQUEST_CLOSES},
};

#define HEADER(opcode, key, extras, body)                                                          \
    "\x80" opcode "\0" key extras "\0\0\0\0\0\0" body "opaq\0\0\0\0\0\0\0\0"
#define NOOP HEADER("\x0a", "\0", "\0", "\0")

static const struct message binaries[] = {
    {SAID(HEADER("\0", "\1", "\0", "\1") "k"), WHOLE},
    {SAID(HEADER("\1", "\1", "\x08", "\x0e") "extrasixkhello"), WHOLE},
    {SAID(HEADER("\x11", "\1", "\x08", "\x0e") "extrasixkhello"), SILENT},
    {SAID(HEADER("\x14", "\1", "\0", "\1") "k"), SILENT},
    {SAID(HEADER("\x10", "\0", "\0", "\0")), WHOLE},
    {SAID(NOOP), SILENT},
    {SAID(HEADER("\x0b", "\0", "\0", "\0")), SILENT},
    {SAID(HEADER("\x07", "\0", "\0", "\0")), QUITS},
    {SAID(HEADER("\x17", "\0", "\0", "\0")), QUITS},
    {SAID(HEADER("\x21", "\5", "\0", "\x0b") "PLAIN\0u\0pwd"), SILENT},
    {SAID(HEADER("\xee", "\0", "\0", "\3") "abc"), WHOLE},
    {SAID(HEADER("\x0d", "\1", "\0", "\1") "a" HEADER("\x0d", "\1", "\0", "\1") "b" NOOP), WHOLE},
    {SAID(HEADER("\x09", "\1", "\0", "\1") "a" HEADER("\x00", "\1", "\0", "\1") "b"), WHOLE},
    {SAID(HEADER("\x09", "\1", "\0", "\1") "a" HEADER("\x14", "\1", "\0", "\1") "b" NOOP), SILENT},
};

static const struct corpus {
    enum busy_protocol protocol;
    const struct message *messages;
    size_t count;
} corpora[] = {
    {BUSY_IN_MEMCACHED, texts, COUNT(texts)},
    {BUSY_IN_MEMCACHED_BINARY, binaries, COUNT(binaries)},
};

static void check_message(enum busy_protocol protocol, const struct message *message, size_t cut)
{
    struct walk walk;
    walk_begin(&walk, NULL, protocol);
    walk_show(&walk, message->bytes, cut);
    assert_int_equal(walk.count, 0);
    walk_show(&walk, message->bytes + cut, message->length - cut);
    assert_int_equal(walk.count, 1);
    assert_int_equal(walk.ends[0].at, message->length);
    assert_int_equal(walk.ends[0].flags & PUBLIC_BITS, message->flags);
    walk_end(&walk);
}

static void a_request_ends_where_it_ends_split_at_every_byte(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(corpora); i++)
        for (size_t j = 0; j < corpora[i].count; j++)
            for (size_t cut = 0; cut < corpora[i].messages[j].length; cut++)
                check_message(corpora[i].protocol, &corpora[i].messages[j], cut);
}

static void pipelined(const struct corpus *corpus, size_t depth)
{
    static char bytes[64 * 400];
    struct walk walk;
    size_t length = 0;
    for (size_t i = 0; i < depth; i++) {
        const struct message *message = &corpus->messages[(depth * 7 + i) % corpus->count];
        assert_true(length + message->length <= sizeof bytes);
        memcpy(bytes + length, message->bytes, message->length);
        length += message->length;
    }
    walk_all_cuts(&walk, NULL, corpus->protocol, bytes, length, (uint32_t)depth);
    assert_int_equal(walk.count, depth);
    for (size_t i = 0, at = 0; i < depth; i++) {
        const struct message *message = &corpus->messages[(depth * 7 + i) % corpus->count];
        at += message->length;
        assert_int_equal(walk.ends[i].at, at);
        assert_int_equal(walk.ends[i].flags & PUBLIC_BITS, message->flags);
    }
    walk_end(&walk);
}

static void pipelined_requests_end_where_each_does(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(corpora); i++)
        for (size_t depth = 1; depth <= 64; depth++)
            pipelined(&corpora[i], depth);
}

/* Streams, and what leaves open whether a value follows. */
static void connections_are_left_alone(void **state)
{
    static const struct message left[] = {
        {SAID("watch fetchers\r\n"), BUSY_IN_MEMCACHED},
        {SAID("watch\n"), BUSY_IN_MEMCACHED},
        {SAID("set k 0 0\r\n"), BUSY_IN_MEMCACHED},
        {SAID("set k 0 0 5 6 7\r\n"), BUSY_IN_MEMCACHED},
        {SAID("set k 0 0 -1\r\n"), BUSY_IN_MEMCACHED},
        {SAID("set k 0 0 5x\r\n"), BUSY_IN_MEMCACHED},
        {SAID("set k 0 0 2147483646\r\n"), BUSY_IN_MEMCACHED},
        {SAID("set k 0 0 99999999999999999999999999999999999999\r\n"), BUSY_IN_MEMCACHED},
        {SAID("set k 4294967296 0 5\r\n"), BUSY_IN_MEMCACHED},
        {SAID("set k -1 0 5\r\n"), BUSY_IN_MEMCACHED},
        {SAID("set k 0 - 5\r\n"), BUSY_IN_MEMCACHED},
        {SAID("set k\0 0 0 5\r\n"), BUSY_IN_MEMCACHED},
        {SAID("set k" KEY_250 " 0 0 5\r\n"), BUSY_IN_MEMCACHED},
        {SAID("cas k 0 0 5\r\n"), BUSY_IN_MEMCACHED},
        {SAID("cas k 0 0 5 x\r\n"), BUSY_IN_MEMCACHED},
        {SAID("ms k\r\n"), BUSY_IN_MEMCACHED},
        {SAID("ms k S100\r\n"), BUSY_IN_MEMCACHED},
        {SAID("ms k 1 a b c d e f g h i j k l m n o p q\r\n"), BUSY_IN_MEMCACHED},
        {SAID(HEADER("\0", "\1", "\0", "\0")), BUSY_IN_MEMCACHED_BINARY},
        {SAID(HEADER("\0", "\1", "\x08", "\x08")), BUSY_IN_MEMCACHED_BINARY},
        {SAID(NOOP NOOP "get k\r\n0123456789012345678901234567890123456789"),
         BUSY_IN_MEMCACHED_BINARY},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(left); i++) {
        struct walk walk;
        walk_all_cuts(&walk, NULL, left[i].flags, left[i].bytes, left[i].length, (uint32_t)i);
        assert_int_equal(walk.stream.state, STREAM_ALONE);
        assert_int_equal(walk.count, i == COUNT(left) - 1 ? 2 : 0);
        walk_end(&walk);
    }
}

static void only_a_line_of_keys_is_long(void **state)
{
    static char bytes[100000];
    struct walk walk;
    (void)state;
    memset(bytes, 'k', sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i += 100)
        bytes[i] = ' ';
    walk_all_cuts(&walk, NULL, BUSY_IN_MEMCACHED, bytes, 2048, 1);
    assert_int_equal(walk.stream.state, STREAM_REQUESTS);
    walk_end(&walk);
    walk_all_cuts(&walk, NULL, BUSY_IN_MEMCACHED, bytes, 2049, 1);
    assert_int_equal(walk.stream.state, STREAM_ALONE);
    walk_end(&walk);
    memcpy(bytes, "get ", 4);
    bytes[sizeof bytes - 1] = '\n';
    walk_all_cuts(&walk, NULL, BUSY_IN_MEMCACHED, bytes, sizeof bytes, 1);
    assert_int_equal(walk.count, 1);
    walk_end(&walk);
}

/* A value's bytes are never looked at: they lie where nobody may read. */
static void pass_over(enum busy_protocol protocol, const char *head, size_t length, size_t size,
                      const char *rest, size_t rest_length)
{
    struct walk walk;
    enum request_step step;
    char *value = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_ptr_not_equal(value, MAP_FAILED);
    walk_begin(&walk, NULL, protocol);
    walk_show(&walk, head, length);
    assert_int_equal(request_ask(&walk.stream, NULL, value, size, &step), size);
    assert_int_equal(step, REQUEST_GOES_ON);
    assert_int_equal(request_ask(&walk.stream, NULL, rest, rest_length + 1, &step), rest_length);
    assert_int_equal(step, REQUEST_ENDS);
    munmap(value, size);
    walk_end(&walk);
}

static void a_big_value_is_passed_over_by_its_length(void **state)
{
    (void)state;
    pass_over(BUSY_IN_MEMCACHED, SAID("set k 0 0 1073741824 noreply\r\n"), 1 << 30, "\r\nget", 2);
    pass_over(BUSY_IN_MEMCACHED, SAID("ms k 1073741824\r\n"), 1 << 30, "\r\nget", 2);
    pass_over(BUSY_IN_MEMCACHED_BINARY,
              "\x80\1\0\1\x08\0\0\0\x40\0\0\x0aopaq\0\0\0\0\0\0\0\0extrasixk", 33, 1 << 30, "x\x80",
              1);
}

static void a_client_is_recognised_byte_by_byte(void **state)
{
    static const struct {
        struct message message;
        enum busy_protocol protocol;
    } first[] = {
        {{SAID("get a\r\n"), STREAM_REQUESTS}, BUSY_IN_MEMCACHED},
        {{SAID("set a 0 0 1\r\n"), STREAM_REQUESTS}, BUSY_IN_MEMCACHED},
        {{SAID("gats 1 a\r\n"), STREAM_REQUESTS}, BUSY_IN_MEMCACHED},
        {{SAID("mn\r\n"), STREAM_REQUESTS}, BUSY_IN_MEMCACHED},
        {{SAID("mn\n"), STREAM_REQUESTS}, BUSY_IN_MEMCACHED},
        {{SAID("mg a q\r\n"), STREAM_REQUESTS}, BUSY_IN_MEMCACHED},
        {{SAID("me a\r\n"), STREAM_REQUESTS}, BUSY_IN_MEMCACHED},
        {{SAID("version\r\n"), STREAM_REQUESTS}, BUSY_IN_MEMCACHED},
        {{SAID("stats\r\n"), STREAM_REQUESTS}, BUSY_IN_MEMCACHED},
        {{SAID("watch evictions\r\n"), STREAM_ALONE}, BUSY_IN_MEMCACHED},
        {{SAID(NOOP), STREAM_REQUESTS}, BUSY_IN_MEMCACHED_BINARY},
        {{SAID("mail\r\n"), STREAM_ALONE}, BUSY_IN_MEMCACHED},
        {{SAID("\x81\1\1\1"), STREAM_ALONE}, BUSY_IN_MEMCACHED},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(first); i++) {
        struct walk walk;
        walk_all_cuts(&walk, NULL, BUSY_PROTOCOLS, first[i].message.bytes, first[i].message.length,
                      0);
        assert_int_equal(walk.stream.state, first[i].message.flags);
        if (first[i].message.flags == STREAM_REQUESTS)
            assert_int_equal(walk.stream.protocol, first[i].protocol);
        walk_end(&walk);
    }
}

static void check_refusal(enum busy_protocol protocol, const char *request, size_t length,
                          const char *wanted, size_t wanted_length)
{
    char said[REQUEST_REFUSAL_MAX];
    struct walk walk;
    walk_begin(&walk, NULL, protocol);
    walk_show(&walk, request, length);
    assert_int_equal(walk.count, 1);
    assert_int_equal(request_refuse(&walk.stream, NULL, false, said, sizeof said), wanted_length);
    assert_memory_equal(said, wanted, wanted_length);
    assert_true(request_refuse(&walk.stream, NULL, false, said, 3) <= 3);
    walk_end(&walk);
}

static void refusals_leave_the_connection(void **state)
{
    static const char busy[] = "SERVER_ERROR busy, try again later\r\n";
    (void)state;
    check_refusal(BUSY_IN_MEMCACHED, SAID("get a\r\n"), busy, sizeof busy - 1);
    check_refusal(BUSY_IN_MEMCACHED, SAID("set a 0 0 1\r\nx\r\n"), busy, sizeof busy - 1);
    check_refusal(BUSY_IN_MEMCACHED, SAID("set a 0 0 1 noreply\r\nx\r\n"), "", 0);
    check_refusal(BUSY_IN_MEMCACHED, SAID("mg a q\r\nmn\r\n"), busy, sizeof busy - 1);
    check_refusal(BUSY_IN_MEMCACHED_BINARY, SAID(HEADER("\x1c", "\1", "\4", "\5") "timek"),
                  SAID("\x81\x1c\0\0\0\0\0\x85\0\0\0\0opaq\0\0\0\0\0\0\0\0"));
    check_refusal(BUSY_IN_MEMCACHED_BINARY, SAID(HEADER("\x0d", "\1", "\0", "\1") "a" NOOP),
                  SAID("\x81\x0a\0\0\0\0\0\x85\0\0\0\0opaq\0\0\0\0\0\0\0\0"));
    check_refusal(BUSY_IN_MEMCACHED_BINARY, SAID(NOOP), "", 0);
}

static void garbage_is_followed_alike_however_it_is_cut(void **state)
{
    static const char alphabet[] = "    \r\n\r\n\n0123mgsqtednorplyca\0\x80\x81\x09\x0a";
    uint32_t chance = 1;
    (void)state;
    for (unsigned round = 0; round < 3000; round++) {
        static const enum busy_protocol protocols[] = {BUSY_IN_MEMCACHED, BUSY_IN_MEMCACHED_BINARY,
                                                       BUSY_PROTOCOLS};
        char bytes[200];
        struct walk walk;
        for (size_t i = 0; i < sizeof bytes; i++) {
            chance = chance * 1664525 + 1013904223;
            bytes[i] = alphabet[(chance >> 10) % (sizeof alphabet - 1)];
        }
        walk_all_cuts(&walk, NULL, protocols[round % 3], bytes, sizeof bytes, chance);
        walk_end(&walk);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_ends_where_it_ends_split_at_every_byte),
        cmocka_unit_test(pipelined_requests_end_where_each_does),
        cmocka_unit_test(connections_are_left_alone),
        cmocka_unit_test(only_a_line_of_keys_is_long),
        cmocka_unit_test(a_big_value_is_passed_over_by_its_length),
        cmocka_unit_test(a_client_is_recognised_byte_by_byte),
        cmocka_unit_test(refusals_leave_the_connection),
        cmocka_unit_test(garbage_is_followed_alike_however_it_is_cut),
    };
    return cmocka_run_group_tests_name("requests to memcached", tests, NULL, NULL);
}
