/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where requests of HTTP/1.x begin and end, however their bytes are cut; what answers tell; and how
 * one request is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dialects/request.h"

#define SAID(text) text, sizeof text - 1
#define PUBLIC_BITS                                                                                \
    (REQUEST_HEAD_WHOLE | REQUEST_EXEMPT | REQUEST_SILENT | REQUEST_WAITS | REQUEST_CLOSES |       \
     REQUEST_UNBOUNDED)
#define WHOLE REQUEST_HEAD_WHOLE
#define CLOSES (REQUEST_HEAD_WHOLE | REQUEST_CLOSES)
#define UNBOUNDED (REQUEST_HEAD_WHOLE | REQUEST_CLOSES | REQUEST_UNBOUNDED)
#define EXEMPT (REQUEST_HEAD_WHOLE | REQUEST_EXEMPT)
#define NEXT "GET /next HTTP/1.1\r\nHost: b\r\n\r\n"

static struct limits limits;

static int with_limits(void **state)
{
    struct limits_source source;
    (void)state;
    limits_defaults(&limits);
    limits_source_init(&source, &limits);
    assert_true(
        limits_take_words(&source, "exempt-request=/healthz,/ready/ retry-after=3..9", false));
    limits = source.limits;
    return 0;
}

struct message {
    const char *bytes;
    size_t length;
    uint32_t flags;
};

/* Each ends where it ends. */
static const struct message bounded[] = {
    {SAID("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), WHOLE},
    {SAID("GET / HTTP/1.1\nHost: a\n\n"), WHOLE},
    {SAID("GET / HTTP/1.1\r\n\r\n"), WHOLE},
    {SAID("\r\n\n\r\nGET / HTTP/1.1\r\n\r\n"), WHOLE},
    {SAID("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"), WHOLE},
    {SAID("OPTIONS * HTTP/1.1\r\n\r\n"), WHOLE},
    {SAID("M-SEARCH * HTTP/1.1\r\n\r\n"), WHOLE},
    {SAID("GET / HTTP/1.1\r\nConnection: close\r\n\r\n"), CLOSES},
    {SAID("GET / HTTP/1.1\r\nConnection: Keep-Alive ,\t Close , foo\r\n\r\n"), CLOSES},
    {SAID("GET / HTTP/1.1\r\nConnection: closed, not close\r\n\r\n"), WHOLE},
    {SAID("GET / HTTP/1.1\r\nConnection: a, b\r\nX: close\r\nCONNECTION:close\r\n\r\n"), CLOSES},
    {SAID("GET / HTTP/1.1\r\nConnection:\r\n\r\n"), WHOLE},
    {SAID("GET / HTTP/1.0\r\n\r\n"), CLOSES},
    {SAID("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"), WHOLE},
    {SAID("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n"), CLOSES},
    {SAID("GET / HTTP/1.2\r\n\r\n"), WHOLE},
    {SAID("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"), WHOLE},
    {SAID("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"), WHOLE},
    {SAID("POST / HTTP/1.1\r\ncontent-length:\t 0005 \t\r\n\r\nhello"), WHOLE},
    {SAID("POST / HTTP/1.0\r\nContent-Length: 26\r\n\r\nGET /inner HTTP/1.1\r\n\r\n\r\n\r"),
     CLOSES},
    {SAID("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc"), WHOLE},
    {SAID("GET / HTTP/1.1\r\nX-Content-Length: 7\r\nContent-Lengths: 8\r\nContent: 9\r\n\r\n"),
     WHOLE},
    {SAID("GET / HTTP/1.1\r\nContent_Length: 7\r\n\r\n"), WHOLE},
    {SAID("GET / HTTP/1.1\r\nX: \t a\x0b\xff:b\r\n\r\n"), WHOLE},
    {SAID("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), WHOLE},
    {SAID("POST / HTTP/1.1\r\nTRANSFER-ENCODING:\tCHUNKED \r\n\r\n5\r\nhello\r\n0\r\n\r\n"), WHOLE},
    {SAID(
         "POST / HTTP/1.1\r\nTransfer-Encoding: gzip , chunked\r\n\r\n5\r\n0\r\n\r\n\r\n0\r\n\r\n"),
     WHOLE},
    {SAID("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
          "00a;x=\"y z\"\r\n0123456789\r\n1 ;q\r\nx\r\n1\t \r\ny\r\n000;last\r\n"
          "Trailer: a\r\nContent-Length: 9\r\nTransfer-Encoding: x\r\nConnection: close\r\n\r\n"),
     WHOLE},
    {SAID("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
          "F\r\n0\r\n\r\nGET / HTTP\r\n0\r\n\r\n"),
     CLOSES},
    {SAID("GET /healthz HTTP/1.1\r\n\r\n"), EXEMPT},
    {SAID("GET /healthz?full=1 HTTP/1.1\r\n\r\n"), EXEMPT},
    {SAID("GET /healthz/db/x HTTP/1.0\r\n\r\n"), EXEMPT | CLOSES},
    {SAID("GET http://u:p@host.example:80/healthz HTTP/1.1\r\n\r\n"), EXEMPT},
    {SAID("GET https://[::1]/ready/x#y HTTP/1.1\r\n\r\n"), EXEMPT},
    {SAID("GET /ready/"
          "0123456789012345678901234567890123456789012345678901234567890 HTTP/1.1\n\n"),
     EXEMPT},
    {SAID("GET /healthzz HTTP/1.1\r\n\r\n"), WHOLE},
    {SAID("GET /healthz/../x HTTP/1.1\r\n\r\n"), WHOLE},
    {SAID("GET /x?/healthz HTTP/1.1\r\n\r\n"), WHOLE},
    {SAID("GET http:/healthz HTTP/1.1\r\n\r\n"), WHOLE},
    {SAID("GET http://healthz HTTP/1.1\r\n\r\n"), WHOLE},
    {SAID("GET http://a?/healthz HTTP/1.1\r\n\r\n"), WHOLE},
    {SAID("CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n"), WHOLE},
    {SAID("CONNECT example.com:443 HTTP/1.1\r\nContent-Length: 0\r\n\r\n"), WHOLE},
    {SAID("GET /chat HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"), WHOLE},
    {SAID("GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"), WHOLE},
};

/* Servers may differ about the end, or nobody knows it: none is told, whatever follows. */
static const struct message unbounded[] = {
    {SAID("GET /\r\n"), UNBOUNDED},
    {SAID("GET / \r\n"), UNBOUNDED},
    {SAID("GET / HTTP/2.0\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.10\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1 \r\n\r\n"), UNBOUNDED},
    {SAID("GET  / HTTP/1.1\r\n\r\n"), UNBOUNDED},
    {SAID("GET /\t HTTP/1.1\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\n Host: a\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nTransfer-Encoding:\r\n chunked\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nA\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\n: b\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nA: b\rc\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\rA: b\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\n\rA: b\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nA: b\0c\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nConnection: \0\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nContent-Type: \0\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\n\0: b\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nContent-Length : 5\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nContent-Length: 5 5\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nContent-Length: +5\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nContent-Length: 0x5\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nContent-Length: 5;\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nContent-Length:\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nContent-Length: \x0b"
          "5\r\n\r\n"),
     UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nContent-Length: 9223372036854775808\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nContent-Length: 18446744073709551617\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nContent-Length: 99999999999999999999999999999999\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nTransfer-Encoding: chunke\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n"),
     UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nTransfer-Encoding: chunked;q=1\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nTransfer-Encoding: \"chunked\"\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nTransfer-Encoding: chunked x\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nTransfer-Encoding: , chunked\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nTransfer-Encoding: chunked,\r\n\r\n"), UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nTransfer-Encoding: \x0b"
          "chunked\r\n\r\n"),
     UNBOUNDED},
    {SAID("GET / HTTP/1.1\r\nTransfer-Encoding:\r\n\r\n"), UNBOUNDED},
    {SAID("CONNECT a:1 HTTP/1.1\r\nContent-Length: 5\r\n\r\n"), UNBOUNDED},
    {SAID("CONNECT a:1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), UNBOUNDED},
#define CHUNKED "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    {SAID(CHUNKED "\r\n"), UNBOUNDED},
    {SAID(CHUNKED " 5\r\nhello\r\n"), UNBOUNDED},
    {SAID(CHUNKED "+5\r\nhello\r\n"), UNBOUNDED},
    {SAID(CHUNKED "-5\r\nhello\r\n"), UNBOUNDED},
    {SAID(CHUNKED "0x5\r\nhello\r\n"), UNBOUNDED},
    {SAID(CHUNKED "5\nhello\r\n"), UNBOUNDED},
    {SAID(CHUNKED "5;a\nhello\r\n"), UNBOUNDED},
    {SAID(CHUNKED "5;a\rhello\r\n"), UNBOUNDED},
    {SAID(CHUNKED "5 a\r\nhello\r\n"), UNBOUNDED},
    {SAID(CHUNKED "5\r\nhello\n"), UNBOUNDED},
    {SAID(CHUNKED "5\r\nhello!\r\n"), UNBOUNDED},
    {SAID(CHUNKED "8000000000000000\r\n"), UNBOUNDED},
    {SAID(CHUNKED "ffffffffffffffff\r\n"), UNBOUNDED},
    {SAID(CHUNKED "00000000000000005\r\n"), UNBOUNDED},
    {SAID(CHUNKED "0\r\n\n"), UNBOUNDED},
    {SAID(CHUNKED "0\r\nA: b\n\r\n"), UNBOUNDED},
    {SAID(CHUNKED "0\r\nA b\r\n\r\n"), UNBOUNDED},
    {SAID(CHUNKED "0\r\nA: b\r\n c\r\n\r\n"), UNBOUNDED},
};

/* What is no HTTP: the connection is left alone. The first request tells that it is, before that.
 */
static const struct message others[] = {
    {SAID("\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"), 0},
    {SAID("\x16\x03\x01\x02\x00\x01"), 0},
    {SAID("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 0},
    {SAID("OPTIONS rtsp://a/b RTSP/1.0\r\n\r\n"), 0},
    {SAID("GET\r\n"), 0},
    {SAID("GET\t/ HTTP/1.1\r\n\r\n"), 0},
    {SAID(" GET / HTTP/1.1\r\n\r\n"), 0},
    {SAID("\r\rGET / HTTP/1.1\r\n\r\n"), 0},
    {SAID("AMETHODOFMORETHANTHIRTYTWOLETTERS / HTTP/1.1\r\n\r\n"), 0},
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* What the dialect said of the bytes so far. */
struct seen {
    struct request_stream stream;
    size_t shown, ends[80];
    uint32_t flags[80];
    unsigned count;
    bool leaves;
};

/* Shows a piece, of memory of its own, so that a sanitizer sees a byte too far. */
static void show(struct seen *seen, const char *bytes, size_t length)
{
    char *piece = malloc(length ? length : 1);
    assert_non_null(piece);
    memcpy(piece, bytes, length);
    for (size_t at = 0; at < length;) {
        enum request_step step;
        size_t taken = request_ask(&seen->stream, &limits, piece + at, length - at, &step);
        assert_true(taken <= length - at);
        at += taken;
        seen->shown += taken;
        if (step != REQUEST_ENDS) {
            assert_int_equal(at, length);
            seen->leaves = step == REQUEST_LEAVES;
            break;
        }
        assert_true(taken > 0);
        assert_true(request_between(&seen->stream));
        assert_true(seen->count < COUNT(seen->ends));
        seen->ends[seen->count] = seen->shown;
        seen->flags[seen->count++] = seen->stream.flags & PUBLIC_BITS;
    }
    free(piece);
}

static uint32_t draw(uint32_t *seed, uint32_t below)
{
    *seed = *seed * 1664525 + 1013904223;
    return (*seed >> 8) % below;
}

static void show_in_pieces(struct seen *seen, const char *bytes, size_t length, uint32_t most,
                           uint32_t *seed)
{
    for (size_t at = 0; at < length;) {
        size_t piece = 1 + draw(seed, most);
        piece = piece < length - at ? piece : length - at;
        show(seen, bytes + at, piece);
        at += piece;
    }
}

static void assert_one(const struct seen *seen, const struct message *message, size_t before)
{
    if (seen->count < 1 || seen->ends[0] != before + message->length ||
        seen->flags[0] != message->flags)
        fail_msg("%u ends, at %zu (%zu), flags %x (%x): %s", seen->count, seen->ends[0],
                 before + message->length, seen->flags[0], message->flags, message->bytes);
}

/* A message and the one behind it, cut at each byte, and into single bytes. */
static void requests_end_where_they_end_however_they_are_cut(void **state)
{
    static char text[1024];
    (void)state;
    for (size_t i = 0; i < COUNT(bounded); i++) {
        size_t length = bounded[i].length;
        memcpy(text, bounded[i].bytes, length);
        memcpy(text + length, SAID(NEXT));
        length += sizeof NEXT - 1;
        /* What begins with an unknown method is taken for HTTP only later. */
        struct seen known = {0};
        if (strncmp(bounded[i].bytes, SAID("M-SEARCH")) == 0)
            show(&known, SAID(NEXT));
        known = (struct seen){.stream = known.stream};
        for (size_t cut = 0; cut <= length; cut++) {
            struct seen seen = known;
            show(&seen, text, cut);
            show(&seen, text + cut, length - cut);
            assert_one(&seen, &bounded[i], 0);
            assert_int_equal(seen.count, 2);
            assert_int_equal(seen.ends[1], length);
            assert_int_equal(seen.flags[1], WHOLE);
        }
        struct seen seen = known;
        for (size_t at = 0; at < length; at++)
            show(&seen, text + at, 1);
        assert_one(&seen, &bounded[i], 0);
        assert_int_equal(seen.count, 2);
    }
}

/* 1 to 64 of them behind one another, in pieces of any length. */
static void requests_in_a_pipeline_end_one_by_one(void **state)
{
    static char text[64 * 256];
    size_t ends[64];
    uint32_t flags[64], seed = 18;
    (void)state;
    for (unsigned depth = 1; depth <= 64; depth++) {
        size_t length = 0;
        for (unsigned i = 0; i < depth; i++) {
            const struct message *one = &bounded[i ? draw(&seed, COUNT(bounded)) : 0];
            assert_true(one->length <= 256);
            memcpy(text + length, one->bytes, one->length);
            ends[i] = length += one->length;
            flags[i] = one->flags;
        }
        static const uint32_t pieces[] = {1, 2, 7, 100, 1500, sizeof text};
        for (size_t p = 0; p < COUNT(pieces); p++) {
            struct seen seen = {0};
            show_in_pieces(&seen, text, length, pieces[p], &seed);
            assert_int_equal(seen.count, depth);
            assert_memory_equal(seen.ends, ends, depth * sizeof *ends);
            assert_memory_equal(seen.flags, flags, depth * sizeof *flags);
        }
    }
}

/* Bodies are passed over unread, whatever is in them, and of whatever length. */
static void bodies_of_any_length_and_chunking_are_passed_over(void **state)
{
    static char text[1 << 16];
    uint32_t seed = 9112;
    (void)state;
    for (unsigned round = 0; round < 300; round++) {
        size_t length = (size_t)sprintf(text, "%s", CHUNKED);
        for (unsigned chunks = draw(&seed, 40); chunks > 0; chunks--) {
            unsigned size = 1 + draw(&seed, draw(&seed, 2) ? 20 : 1500);
            length += (size_t)sprintf(text + length, draw(&seed, 2) ? "%x\r\n" : "%03X;a=\"b\"\r\n",
                                      size);
            for (unsigned i = 0; i < size; i++)
                text[length++] = "\r\n0;GET / HTTP/1.1"[draw(&seed, 18)];
            length += (size_t)sprintf(text + length, "\r\n");
        }
        length +=
            (size_t)sprintf(text + length, draw(&seed, 2) ? "0\r\n\r\n" : "0\r\nA: b\r\n\r\n");
        struct message message = {text, length, WHOLE};
        memcpy(text + length, SAID(NEXT));
        struct seen seen = {0};
        show_in_pieces(&seen, text, length + sizeof NEXT - 1, 1 + draw(&seed, 3000), &seed);
        assert_one(&seen, &message, 0);
        assert_int_equal(seen.count, 2);
    }
    struct seen seen = {0};
    show(&seen, SAID("PUT / HTTP/1.1\r\nContent-Length: 9223372036854775807\r\n\r\n"));
    assert_int_equal(seen.stream.flags & PUBLIC_BITS, WHOLE);
    assert_false(request_between(&seen.stream));
    for (unsigned i = 0; i < 100; i++)
        show(&seen, text, sizeof text);
    assert_int_equal(seen.count, 0);
}

/* What the next one is cannot be smuggled in: behind a request of which servers may think
 * differently nothing ends any more. */
static void what_servers_differ_about_never_ends(void **state)
{
    static char text[4096];
    (void)state;
    for (size_t i = 0; i < COUNT(unbounded); i++) {
        size_t length = unbounded[i].length;
        memcpy(text, unbounded[i].bytes, length);
        length += (size_t)sprintf(text + length, "hello\r\n0\r\n\r\n\r\n\r\n" NEXT NEXT "\r\n\r\n");
        for (size_t cut = 0; cut <= length; cut++) {
            struct seen seen = {0};
            show(&seen, text, cut);
            show(&seen, text + cut, length - cut);
            if (seen.count || seen.leaves || (seen.stream.flags & PUBLIC_BITS) != UNBOUNDED)
                fail_msg("%u ends, %d, flags %x: %s", seen.count, seen.leaves, seen.stream.flags,
                         unbounded[i].bytes);
            show(&seen, SAID(NEXT));
            assert_int_equal(seen.count, 0);
        }
    }
}

static void what_is_no_http_leaves(void **state)
{
    struct seen empty = {0};
    (void)state;
    for (unsigned i = 0; i < REQUEST_KEPT; i++) {
        assert_false(empty.leaves);
        show(&empty, SAID("\n"));
    }
    assert_true(empty.leaves);
    for (size_t i = 0; i < COUNT(others); i++) {
        for (size_t cut = 0; cut <= others[i].length; cut++) {
            struct seen seen = {0};
            show(&seen, SAID(NEXT));
            show(&seen, others[i].bytes, cut);
            show(&seen, others[i].bytes + cut, others[i].length - cut);
            assert_int_equal(seen.count, 1);
            if (!seen.leaves || seen.stream.state != STREAM_ALONE)
                fail_msg("it stays: %s", others[i].bytes);
            show(&seen, SAID(NEXT));
            assert_int_equal(seen.count, 1);
        }
    }
}

/* A head, or a trailer, without end is nobody's to wait for. */
static void long_heads_are_given_up(void **state)
{
    static char text[1 << 17];
    static const char *const starts[] = {
        "GET /",
        "GET / HTTP/1.1\r\nA: ", "GET / HTTP/1.1\r\nA: b\r\nConnection: ", CHUNKED "0\r\nA"};
    (void)state;
    for (size_t i = 0; i < COUNT(starts); i++) {
        static const size_t pieces[] = {1, 4096, sizeof text};
        for (size_t p = 0; p < COUNT(pieces); p++) {
            size_t given_up = 0, length = strlen(starts[i]);
            struct seen seen = {0};
            memcpy(text, starts[i], length);
            memset(text + length, 'a', sizeof text - length);
            for (size_t at = 0; at < sizeof text; at += pieces[p]) {
                show(&seen, text + at, pieces[p]);
                if (!given_up && seen.stream.flags & REQUEST_UNBOUNDED)
                    given_up = at + pieces[p];
            }
            assert_true(given_up >= 1 << 16 && seen.count == 0 && !seen.leaves);
            assert_int_equal(seen.stream.flags & PUBLIC_BITS, UNBOUNDED);
        }
    }
    /* One that ends just in time. */
    struct seen seen = {0};
    int start = sprintf(text, "GET / HTTP/1.1\r\nA: ");
    memset(text + start, 'a', UINT16_MAX);
    memcpy(text + UINT16_MAX - 4, SAID("\r\n\r\n"));
    show_in_pieces(&seen, text, UINT16_MAX, 1000, &(uint32_t){5});
    assert_int_equal(seen.count, 1);
}

/* A path is known once its line is whole, whatever comes of the rest. */
static void flags_tell_as_soon_as_they_can(void **state)
{
    static const struct {
        const char *bytes;
        uint32_t flags;
    } steps[] = {
        {"GET /healthz", 0},
        {" HTTP/1.1", 0},
        {"\r", REQUEST_EXEMPT},
        {"\n", REQUEST_EXEMPT},
        {"Connection: close\r\n", REQUEST_EXEMPT},
        {"Content-Length: 2\r\n\r", REQUEST_EXEMPT},
        {"\n", EXEMPT | CLOSES},
        {"a", EXEMPT | CLOSES},
        {"b", EXEMPT | CLOSES},
        {"G", 0},
        {"ET / HTTP/1.1\r\nA : b\r\n", REQUEST_UNBOUNDED | REQUEST_CLOSES},
        {"\r\n", UNBOUNDED},
    };
    struct seen seen = {0};
    (void)state;
    for (size_t i = 0; i < COUNT(steps); i++) {
        show(&seen, steps[i].bytes, strlen(steps[i].bytes));
        assert_int_equal(seen.stream.flags & PUBLIC_BITS, steps[i].flags);
        assert_int_equal(request_between(&seen.stream), strcmp(steps[i].bytes, "b") == 0);
    }
    assert_int_equal(seen.count, 1);
    assert_int_equal(seen.stream.state, STREAM_REQUESTS);
}

#define ASKED(method, target) method " " target " HTTP/1.1\r\nHost: a\r\n\r\n"
#define GET ASKED("GET", "/")
#define OK "HTTP/1.1 200 OK\r\n"
#define CONTINUE "HTTP/1.1 100 Continue\r\n\r\n"
#define HINTS "HTTP/1.1 103 Early Hints\r\nLink: <a>\r\nContent-Length: 9\r\n\r\n"

/* What a program writes for requests, and what has come of it then. */
enum end {
    ENDED,   /* all are answered */
    MORE,    /* the answer goes on, or another one is to come */
    UNKNOWN, /* it is not understood */
    LEFT,
};

static const struct {
    const char *asked, *bytes;
    enum answer_step step;
    enum end end;
} answers[] = {
    {GET, OK "Content-Length: 5\r\n\r\nhello", ANSWER_BEGUN, ENDED},
    {GET, OK "Content-Length: 5\r\n\r\nhell", ANSWER_BEGUN, MORE},
    {GET, OK "Content-Length: 0\r\n\r\n", ANSWER_BEGUN, ENDED},
    {GET, OK "Content-Length: 5", ANSWER_BEGUN, MORE},
    {GET, "HTTP/1.1 2", ANSWER_NOTHING, MORE},
    {GET, "HTTP/1.1 200", ANSWER_BEGUN, MORE},
    {GET, OK "\r\nuntil it closes", ANSWER_BEGUN, MORE},
    {GET, OK "Transfer-Encoding: chunked\r\n\r\n", ANSWER_BEGUN, MORE},
    {GET, OK "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", ANSWER_BEGUN, ENDED},
    {GET, "HTTP/1.1 204 No Content\r\n\r\n", ANSWER_BEGUN, ENDED},
    {GET, "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", ANSWER_BEGUN, ENDED},
    {GET, "HTTP/1.1 304\r\n\r\n", ANSWER_BEGUN, ENDED},
    {ASKED("HEAD", "/"), OK "Content-Length: 5\r\n\r\n", ANSWER_BEGUN, ENDED},
    {ASKED("HEAD", "/"), OK "Transfer-Encoding: chunked\r\n\r\n", ANSWER_BEGUN, ENDED},
    {GET, CONTINUE, ANSWER_NOTHING, MORE},
    {GET, HINTS, ANSWER_NOTHING, MORE},
    {GET, HINTS CONTINUE, ANSWER_NOTHING, MORE},
    {GET, CONTINUE HINTS OK "Content-Length: 1\r\n\r\nx", ANSWER_BEGUN, ENDED},
    {GET, CONTINUE "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81",
     ANSWER_LEAVES, LEFT},
    {GET, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n", ANSWER_LEAVES, LEFT},
    {GET, OK "Content-Type: text/event-stream\r\n\r\ndata: x\n\n", ANSWER_LEAVES, LEFT},
    {GET, OK "CONTENT-TYPE:Text/Event-Stream;charset=utf-8\r\nContent-Length: 5\r\n\r\n",
     ANSWER_LEAVES, LEFT},
    {GET, OK "Content-Type: multipart/x-mixed-replace; boundary=a\r\n\r\n", ANSWER_LEAVES, LEFT},
    {GET, OK "Content-Type: text/event-streams\r\nContent-Length: 0\r\n\r\n", ANSWER_BEGUN, ENDED},
    {GET, OK "Content-Type: text/event\r\nContent-Length: 0\r\n\r\n", ANSWER_BEGUN, ENDED},
    {GET, OK "X-Content-Type: text/event-stream\r\nContent-Length: 0\r\n\r\n", ANSWER_BEGUN, ENDED},
    {ASKED("CONNECT", "a:1"), OK "\r\n", ANSWER_LEAVES, LEFT},
    {ASKED("CONNECT", "a:1"), "HTTP/1.0 299 x\r\n\r\n", ANSWER_LEAVES, LEFT},
    {ASKED("CONNECT", "a:1"), "HTTP/1.1 403 No\r\nContent-Length: 1\r\n\r\nx", ANSWER_BEGUN, ENDED},
    {GET, "<html>of HTTP/0.9", ANSWER_BEGUN, UNKNOWN},
    {GET, "HTTP/2 200\r\n\r\n", ANSWER_BEGUN, UNKNOWN},
    {GET GET, OK "Content-Length: 1\r\n\r\nx", ANSWER_BEGUN, MORE},
    {ASKED("HEAD", "/") GET, OK "Content-Length: 1\r\n\r\n" OK "Content-Length: 2\r\n\r\nxy",
     ANSWER_BEGUN, ENDED},
    {GET ASKED("HEAD", "/"), OK "Content-Length: 1\r\n\r\nx" OK "Content-Length: 2\r\n\r\n",
     ANSWER_BEGUN, ENDED},
    {GET ASKED("CONNECT", "a:1"), OK "Content-Length: 0\r\n\r\n", ANSWER_BEGUN, MORE},
    {GET ASKED("CONNECT", "a:1"), OK "Content-Length: 0\r\n\r\n" OK "\r\n", ANSWER_LEAVES, LEFT},
    {GET "POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc",
     OK "Content-Length: 0\r\n\r\nHTTP/1.1 413 x\r\nContent-Length: 0\r\n\r\n", ANSWER_BEGUN,
     ENDED},
    {GET, OK "A: b\r\n c\r\nContent-Length: 0\r\n\r\n", ANSWER_BEGUN, UNKNOWN},
    {GET, OK "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", ANSWER_BEGUN, UNKNOWN},
    {GET, OK "Content-Length: x\r\n\r\n", ANSWER_BEGUN, UNKNOWN},
    {GET, OK "Transfer-Encoding: chunked\r\n\r\nx", ANSWER_BEGUN, UNKNOWN},
    {GET GET, OK "Content-Length: 1\r\n\r\nx" OK "Content-Length: 2\r\n\r\nxy", ANSWER_BEGUN,
     ENDED},
    {GET GET, OK "Content-Length: 1\r\n\r\nx" OK "Content-Type: text/event-stream\r\n\r\n",
     ANSWER_LEAVES, LEFT},
    {GET GET, OK "Content-Length: 0\r\n\r\nHTTP/1.1 101 x\r\n\r\n", ANSWER_LEAVES, LEFT},
};

static void asked(struct request_stream *stream, const char *text)
{
    struct seen seen = {.stream = *stream};
    show(&seen, text, strlen(text));
    assert_false(seen.leaves);
    *stream = seen.stream;
}

static enum end end_of(const struct request_stream *stream)
{
    bool between = stream->answer_phase == 0 && stream->answer_left == 0;
    return stream->state == STREAM_ALONE       ? LEFT
           : stream->flags & ANSWER_UNFINISHED ? MORE
           : between                           ? ENDED
                                               : UNKNOWN;
}

/* Writes a piece as shim/requests does: `first` until something answers. */
static void written(struct request_stream *stream, const char *bytes, size_t length,
                    enum answer_step *so_far)
{
    char *piece = malloc(length ? length : 1);
    assert_non_null(piece);
    memcpy(piece, bytes, length);
    enum answer_step step = request_answer(stream, piece, length, *so_far == ANSWER_NOTHING);
    free(piece);
    if (step > *so_far)
        *so_far = step;
}

static void answers_are_the_same_however_they_are_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(answers); i++) {
        size_t length = strlen(answers[i].bytes);
        struct request_stream before = {0};
        asked(&before, answers[i].asked);
        for (size_t cut = 0; cut <= length + 1; cut++) {
            struct request_stream stream = before;
            enum answer_step step = ANSWER_NOTHING;
            for (size_t at = 0; cut > length && at < length; at++)
                written(&stream, answers[i].bytes + at, 1, &step);
            if (cut <= length) {
                written(&stream, answers[i].bytes, cut, &step);
                written(&stream, answers[i].bytes + cut, length - cut, &step);
            }
            if (step != answers[i].step || end_of(&stream) != answers[i].end)
                fail_msg("cut at %zu: %d (%d), %d (%d): %s", cut, step, answers[i].step,
                         end_of(&stream), answers[i].end, answers[i].bytes);
        }
    }
}

/* A connection that stays: each request is answered, and after HEAD no body is waited for. */
static void answers_follow_one_another(void **state)
{
    struct request_stream stream = {0};
    uint32_t seed = 1;
    (void)state;
    for (unsigned round = 0; round < 2000; round++) {
        size_t i = draw(&seed, COUNT(answers)), length = strlen(answers[i].bytes);
        enum answer_step step = ANSWER_NOTHING;
        if (answers[i].end != ENDED || strstr(answers[i].asked, "POST"))
            continue;
        asked(&stream, answers[i].asked);
        size_t cut = draw(&seed, (uint32_t)length);
        written(&stream, answers[i].bytes, cut, &step);
        written(&stream, answers[i].bytes + cut, length - cut, &step);
        assert_int_equal(step, ANSWER_BEGUN);
        assert_int_equal(end_of(&stream), ENDED);
    }
}

/* Bodies that went by sendfile are followed; what is not understood hides nothing that comes later.
 */
static void answers_are_followed_unseen_and_found_again(void **state)
{
    struct request_stream stream = {0};
    enum answer_step step = ANSWER_NOTHING;
    (void)state;
    asked(&stream, GET);
    written(&stream, SAID(OK "Content-Length: 100000\r\n\r\n"), &step);
    assert_int_equal(step, ANSWER_BEGUN);
    assert_int_equal(request_answer_unseen(&stream, 99999, false), ANSWER_BEGUN);
    assert_int_equal(end_of(&stream), MORE);
    assert_int_equal(request_answer_unseen(&stream, 1, false), ANSWER_BEGUN);
    assert_int_equal(end_of(&stream), ENDED);

    step = ANSWER_NOTHING;
    asked(&stream, GET);
    written(&stream, SAID(OK "Transfer-Encoding: chunked\r\n\r\n1000\r\n"), &step);
    request_answer_unseen(&stream, 0x1000, false);
    assert_int_equal(end_of(&stream), MORE);
    written(&stream, SAID("\r\n0\r\n\r\n"), &step);
    assert_int_equal(end_of(&stream), ENDED);

    asked(&stream, GET);
    request_answer_unseen(&stream, 1000, true);
    assert_int_equal(end_of(&stream), UNKNOWN);
    step = ANSWER_NOTHING;
    asked(&stream, ASKED("HEAD", "/"));
    written(&stream, SAID(CONTINUE), &step);
    assert_int_equal(step, ANSWER_NOTHING);
    written(&stream, SAID(OK "Content-Length: 5\r\n\r\n"), &step);
    assert_int_equal(step, ANSWER_BEGUN);
    assert_int_equal(end_of(&stream), ENDED);

    step = ANSWER_NOTHING;
    asked(&stream, GET);
    written(&stream, SAID("garbage"), &step);
    assert_int_equal(end_of(&stream), UNKNOWN);
    asked(&stream, GET);
    assert_int_equal(
        request_answer(&stream, SAID(OK "Content-Type: text/event-stream\r\n\r\n"), true),
        ANSWER_LEAVES);
    assert_int_equal(stream.state, STREAM_ALONE);
}

/* The program answers the others as if it had not been. */
static void nobody_waits_for_the_answer_to_what_was_refused(void **state)
{
    struct request_stream stream = {0};
    enum answer_step step = ANSWER_NOTHING;
    (void)state;
    for (unsigned round = 0; round < 100; round++) {
        asked(&stream, ASKED("HEAD", "/"));
        request_refused(&stream);
        asked(&stream, GET);
        written(&stream, SAID(OK "Content-Length: 5\r\n\r\nhello"), &step);
        assert_int_equal(end_of(&stream), ENDED);
    }
    /* More of them in a pipeline than are told apart. */
    for (unsigned i = 0; i < 100; i++)
        asked(&stream, i % 2 ? ASKED("HEAD", "/") : GET);
    for (unsigned i = 0; i < 64; i++) {
        written(&stream, SAID(OK "Content-Length: 5\r\n\r\n"), &step);
        if (i % 2 == 0)
            written(&stream, SAID("hello"), &step);
    }
    assert_int_equal(stream.answer_phase, 0);
    assert_int_equal(stream.answer_left, 0);
    assert_int_equal(end_of(&stream), MORE);
}

/* The refusal of the last request of `text`, whole and ended by NUL. */
static const char *refusal(const char *text, bool closes)
{
    static char out[REQUEST_REFUSAL_MAX + 1];
    struct seen seen = {0};
    show(&seen, text, strlen(text));
    memset(out, 'x', sizeof out);
    size_t length = request_refuse(&seen.stream, &limits, closes, out, REQUEST_REFUSAL_MAX);
    assert_in_range(length, 1, REQUEST_REFUSAL_MAX);
    for (size_t size = 0; size < length; size++) {
        char *small = malloc(size ? size : 1);
        assert_non_null(small);
        assert_int_equal(request_refuse(&seen.stream, &limits, closes, small, size), 0);
        free(small);
    }
    out[length] = '\0';
    return out;
}

static void a_refusal_keeps_the_connection_where_it_may(void **state)
{
    static const struct {
        const char *asked;
        bool closes;
        const char *connection; /* the field, or NULL */
        bool body;
    } rows[] = {
        {GET, false, NULL, true},
        {GET, true, "close", true},
        {ASKED("HEAD", "/"), false, NULL, false},
        {ASKED("HEAD", "/"), true, "close", false},
        {"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", false, "close", true},
        {"GET / HTTP/1.0\r\n\r\n", false, "close", true},
        {"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", false, "keep-alive", true},
        {"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true, "close", true},
        {"GET / HTTP/1.1\r\nA : b\r\n\r\n", false, "close", true},
        {"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhe", true, "close", true},
        {ASKED("HEAD", "/") GET, false, NULL, true},
        {"HEAD /", true, "close", false},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        const char *out = refusal(rows[i].asked, rows[i].closes), *end = strstr(out, "\r\n\r\n");
        assert_int_equal(strncmp(out, SAID("HTTP/1.1 503 ")), 0);
        assert_non_null(end);
        char *length = strstr(out, "\r\nContent-Length: "), *at = strstr(out, "\r\nConnection: ");
        assert_non_null(length);
        size_t said = strtoul(length + 18, NULL, 10);
        assert_true(said > 0);
        assert_int_equal(strlen(end + 4), rows[i].body ? said : 0);
        if (!rows[i].connection) {
            assert_null(at);
            continue;
        }
        assert_non_null(at);
        assert_int_equal(strncmp(at + 14, rows[i].connection, strlen(rows[i].connection)), 0);
        assert_int_equal(at[14 + strlen(rows[i].connection)], '\r');
    }
}

static void each_refusal_draws_its_time(void **state)
{
    unsigned drawn[10] = {0};
    (void)state;
    for (unsigned i = 0; i < 700; i++) {
        const char *field = strstr(refusal(GET, false), "\r\nRetry-After: ");
        assert_non_null(field);
        unsigned long seconds = strtoul(field + 15, NULL, 10);
        assert_in_range(seconds, 3, 9);
        drawn[seconds]++;
    }
    for (unsigned seconds = 3; seconds <= 9; seconds++)
        assert_in_range(drawn[seconds], 30, 250);
    limits.value[LIMIT_RETRY_AFTER] = LIMIT_OFF;
    assert_null(strstr(refusal(GET, false), "Retry-After"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_end_where_they_end_however_they_are_cut),
        cmocka_unit_test(requests_in_a_pipeline_end_one_by_one),
        cmocka_unit_test(bodies_of_any_length_and_chunking_are_passed_over),
        cmocka_unit_test(what_servers_differ_about_never_ends),
        cmocka_unit_test(what_is_no_http_leaves),
        cmocka_unit_test(long_heads_are_given_up),
        cmocka_unit_test(flags_tell_as_soon_as_they_can),
        cmocka_unit_test(answers_are_the_same_however_they_are_cut),
        cmocka_unit_test(answers_follow_one_another),
        cmocka_unit_test(answers_are_followed_unseen_and_found_again),
        cmocka_unit_test(nobody_waits_for_the_answer_to_what_was_refused),
        cmocka_unit_test(a_refusal_keeps_the_connection_where_it_may),
        cmocka_unit_test(each_refusal_draws_its_time),
    };
    return cmocka_run_group_tests_name("requests of HTTP", tests, with_limits, NULL);
}
