/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Clients ask for much and read nothing: the send queues of a real server stay below the ceiling,
 * as `ss` has them, and so does Redis's memory. When the clients read at last, every byte is right.
 */
#include "../base/suite.h"
#include "crowd.h"
#include "readers.h"
#include "recipes.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define KIB 1024UL
#define MIB (1024 * KIB)
#define SEGMENT (64 * KIB)
#define OBJECT (8 * MIB)
#define CLIENTS 24
#define CEILING (2 * MIB)
#define CALM_LOOKS 8
#define SETTLES_SECONDS 20
#define ARRIVES_SECONDS 60
#define COMMAND(...) ((const char *const[]){__VA_ARGS__, NULL})
#define LIMITS(...) COMMAND(__VA_ARGS__)

static struct server server, backend;
static struct readers readers;
static uint8_t object[OBJECT];

static void write_object(const struct server *where)
{
    char path[PATH_LENGTH * 2];
    snprintf(path, sizeof path, "%s/big", where->directory);
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    assert_int_equal(fwrite(object, 1, sizeof object, file), sizeof object);
    fclose(file);
}

static const struct expected http_object = {object, OBJECT, 1, true};

/* --- the servers --- */

static bool start_recipe(const char *name, const char *const *limits)
{
    bool started = recipe_start(recipe_named(name), &server, limits);
    if (started)
        write_object(&server);
    return started;
}

static bool start_nginx(const char *const *limits)
{
    return start_recipe("nginx", limits);
}

static bool start_apache_prefork(const char *const *limits)
{
    return start_recipe("apache-prefork", limits);
}

static bool start_apache_event(const char *const *limits)
{
    return start_recipe("apache-event", limits);
}

static bool start_lighttpd(const char *const *limits)
{
    return start_recipe("lighttpd", limits);
}

static bool start_threads(const char *const *limits)
{
    return start_recipe("python", limits);
}

static bool start_haproxy(const char *const *limits)
{
    if (!recipe_start(recipe_named("lighttpd"), &backend, NULL))
        return false;
    write_object(&backend);
    server_prepare(&server, "haproxy");
    return server_start(
        &server, limits,
        COMMAND("haproxy", "-db", "-f",
                server_file(&server, "haproxy.cfg",
                            "global\n nbthread 2\n maxconn 2000\ndefaults\n mode http\n"
                            " timeout client 60s\n timeout connect 5s\n timeout server 60s\n"
                            "frontend all\n bind 127.0.0.1:%u\n default_backend files\n"
                            "backend files\n server files 127.0.0.1:%u\n",
                            server.port, backend.port)));
}

/* A handler that never looks at what write says. */
static bool start_node(const char *const *limits)
{
    server_prepare(&server, "node");
    write_object(&server);
    return server_start(
        &server, limits,
        COMMAND("node", server_file(&server, "server.js",
                                    "const big = require('fs').readFileSync('%s/big');\n"
                                    "require('http').createServer((q, r) => {\n"
                                    "  r.writeHead(200, {'Content-Length': big.length});\n"
                                    "  for (let i = 0; i < big.length; i += 65536)\n"
                                    "    r.write(big.subarray(i, i + 65536));\n"
                                    "  r.end();\n}).listen(%u, '127.0.0.1', 1024);\n",
                                    server.directory, server.port)));
}

/* The same: write without drain. */
static bool start_asyncio(const char *const *limits)
{
    server_prepare(&server, "asyncio");
    write_object(&server);
    return server_start(
        &server, limits,
        COMMAND("python3",
                server_file(&server, "server.py",
                            "import asyncio\nbig = open('%s/big', 'rb').read()\n"
                            "class Server(asyncio.Protocol):\n"
                            "    def connection_made(self, transport):\n"
                            "        self.transport, self.got = transport, b''\n"
                            "    def data_received(self, data):\n"
                            "        self.got += data\n"
                            "        while b'\\r\\n\\r\\n' in self.got:\n"
                            "            self.got = self.got.split(b'\\r\\n\\r\\n', 1)[1]\n"
                            "            self.transport.write(b'HTTP/1.1 200 OK\\r\\n\\r\\n')\n"
                            "            self.transport.write(big)\n"
                            "async def main():\n"
                            "    loop = asyncio.get_running_loop()\n"
                            "    server = await loop.create_server(Server, '127.0.0.1', %u, "
                            "backlog=512)\n"
                            "    await server.serve_forever()\nasyncio.run(main())\n",
                            server.directory, server.port)));
}

static bool start_memcached(const char *const *limits)
{
    server_prepare(&server, "memcached");
    char port[8];
    snprintf(port, sizeof port, "%u", server.port);
    return server_start(&server, limits,
                        COMMAND("memcached", "-u", "nobody", "-l", "127.0.0.1", "-t", "2", "-I",
                                "2m", "-m", "128", "-p", port));
}

static bool start_redis(const char *const *limits)
{
    return recipe_start(recipe_named("redis"), &server, limits);
}

/* --- objects kept in the server --- */

#define VALUE MIB

/* Sends `head`, the value and a line end, and waits for `answer`. */
static void store(const char *head, const char *answer)
{
    struct sockaddr_in address = loopback(server.port);
    char got[64] = "";
    size_t length = 0;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(send(fd, head, strlen(head), 0), strlen(head));
    for (size_t sent = 0; sent < VALUE;) {
        ssize_t part = send(fd, object + sent, VALUE - sent, 0);
        assert_true(part > 0);
        sent += (size_t)part;
    }
    assert_int_equal(send(fd, "\r\n", 2, 0), 2);
    while (length < strlen(answer)) {
        ssize_t part = recv(fd, got + length, sizeof got - 1 - length, 0);
        assert_true(part > 0);
        length += (size_t)part;
    }
    close(fd);
    assert_string_equal(got, answer);
}

static uint8_t reply[VALUE + 128];

static struct expected replies(const char *head, const char *tail, size_t times)
{
    size_t length = strlen(head);
    memcpy(reply, head, length);
    memcpy(reply + length, object, VALUE);
    memcpy(reply + length + VALUE, tail, strlen(tail));
    return (struct expected){reply, length + VALUE + strlen(tail), times, false};
}

/* --- the tests --- */

/* Looks until the queues no longer grow; the most that was seen beyond what is allowed, if any. */
static uint64_t settle(uint64_t ceiling, bool read)
{
    double deadline = seconds_now() + SETTLES_SECONDS;
    uint64_t most = 0;
    for (unsigned calm = 0; calm < CALM_LOOKS && seconds_now() < deadline;) {
        unsigned sockets;
        for (int i = 0; i < 10; i++)
            readers_step(&readers, read, 5);
        uint64_t queued = queued_by_ss(server.port, &sockets);
        assert_in_range(queued, 0, ceiling + sockets * SEGMENT);
        calm = queued > most ? 0 : calm + 1;
        most = queued > most ? queued : most;
    }
    return most;
}

struct subject {
    const char *name, *program;
    bool (*start)(const char *const *limits);
    const char *request;
    const char *limit;
};

static void keeps_its_ceiling(void **state)
{
    const struct subject *subject = *state;
    if (access(subject->program, X_OK) != 0)
        skip();
    assert_true(subject->start(LIMITS(subject->limit)));
    struct expected expected = http_object;
    size_t times = 1;
    if (subject->start == start_memcached) {
        char head[64];
        snprintf(head, sizeof head, "set k 0 0 %lu\r\n", VALUE);
        store(head, "STORED\r\n");
        snprintf(head, sizeof head, "VALUE k 0 %lu\r\n", VALUE);
        expected = replies(head, "\r\nEND\r\n", times = 8);
    }
    readers_start(&readers, CLIENTS, server.port, subject->request, times, &expected);
    uint64_t most = settle(CEILING, false);
    printf("# %s: %llu KiB queued for %d clients that do not read\n", subject->name,
           (unsigned long long)most / KIB, CLIENTS);
    assert_true(most >= CLIENTS * 4 * KIB); /* it did push */
    long counted = total(&server, "buffer"), peak = total(&server, "buffer_peak");
    assert_in_range(counted, 1, CEILING + CLIENTS * SEGMENT);
    assert_true(peak >= counted);
    assert_true(readers_read_all(&readers, ARRIVES_SECONDS));
}

#define GET_BIG "GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n"
#define GET_PROXIED "GET /proxied/big HTTP/1.1\r\nHost: localhost\r\n\r\n"

static const struct subject subjects[] = {
    {"nginx", "/usr/sbin/nginx", start_nginx, GET_BIG, "total-buffer=2M"},
    {"nginx, proxying", "/usr/sbin/nginx", start_nginx, GET_PROXIED, "total-buffer=2M"},
    {"apache prefork", "/usr/sbin/apache2", start_apache_prefork, GET_BIG, "total-buffer=2M"},
    {"apache event", "/usr/sbin/apache2", start_apache_event, GET_BIG, "total-buffer=2M"},
    {"lighttpd", "/usr/sbin/lighttpd", start_lighttpd, GET_BIG, "buffer=2M"},
    {"haproxy", "/usr/sbin/haproxy", start_haproxy, GET_BIG, "buffer=2M"},
    {"node", "/usr/bin/node", start_node, GET_BIG, "buffer=2M"},
    {"python threads", "/usr/bin/python3", start_threads, GET_BIG, "buffer=2M"},
    {"python asyncio", "/usr/bin/python3", start_asyncio, GET_BIG, "buffer=2M"},
    {"memcached", "/usr/bin/memcached", start_memcached, "get k\r\n", "buffer=2M"},
};

static long resident_kib(void)
{
    char path[64], line[256];
    long kib = -1;
    snprintf(path, sizeof path, "/proc/%d/status", (int)server.pid);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "VmRSS: %ld", &kib) == 1)
            break;
    if (file)
        fclose(file);
    return kib;
}

#define GET_RESP "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"
#define REDIS_BUFFER_MIB 8

/* How much Redis grows while `clients` pipeline GETs and do not read, in KiB. */
static long redis_grows(const char *const *limits, size_t clients, size_t times, bool read_then)
{
    if (access("/usr/bin/redis-server", X_OK) != 0)
        skip();
    char head[64];
    assert_true(start_redis(limits));
    snprintf(head, sizeof head, "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%lu\r\n", VALUE);
    store(head, "+OK\r\n");
    snprintf(head, sizeof head, "$%lu\r\n", VALUE);
    struct expected expected = replies(head, "\r\n", times);
    long before = resident_kib(), most = before;
    readers_start(&readers, clients, server.port, GET_RESP, times, &expected);
    unsigned calm = 0;
    for (int i = 0; calm < CALM_LOOKS && i < 400; i++) {
        readers_step(&readers, false, 20);
        long now = resident_kib();
        calm = now > most ? 0 : calm + 1;
        most = now > most ? now : most;
    }
    if (limits)
        settle(REDIS_BUFFER_MIB * MIB, false);
    if (read_then)
        assert_true(readers_read_all(&readers, ARRIVES_SECONDS));
    readers_end(&readers);
    server_stop(&server);
    return most - before;
}

static void redis_does_not_grow(void **state)
{
    (void)state;
    long bare = redis_grows(NULL, 1, 500, false);
    long one = redis_grows(LIMITS("buffer=8M"), 1, 3000, false);
    long many = redis_grows(LIMITS("buffer=8M"), 50, 40, true);
    printf("# Redis grows by %ld MiB for one client that pipelines 500 GETs of 1 MiB, bare;\n"
           "# with buffer=8M by %ld KiB for one with 3000, by %ld KiB for 50 with 40 each\n",
           bare / 1024, one, many);
    assert_true(one <= (long)(REDIS_BUFFER_MIB * KIB * 12 / 10 + KIB));
    assert_true(many <= (long)(REDIS_BUFFER_MIB * KIB * 12 / 10 + 50 * KIB));
    assert_true(bare > 10 * one);
}

/* psql reads no more than its own output takes. */
#define ROWS 16000
#define ROW 897

static bool postgres_row_right(const char *row, unsigned number)
{
    char digits[8];
    snprintf(digits, sizeof digits, "%07u", number);
    for (unsigned i = 0; i < ROW - 1; i += 7)
        if (memcmp(row + i, digits, 7) != 0)
            return false;
    return row[ROW - 1] == '\n';
}

static void postgres_keeps_its_ceiling(void **state)
{
    enum { SESSIONS = 8 };
    FILE *session[SESSIONS];
    char command[512], row[ROW];
    (void)state;
    if (!recipe_available(recipe_named("postgres")))
        skip();
    assert_true(recipe_start(recipe_named("postgres"), &server, LIMITS("total-buffer=1M")));
    snprintf(command, sizeof command,
             "psql -h 127.0.0.1 -p %u -U postgres -c \"copy (select repeat(lpad(i::text, 7, '0'), "
             "128) from generate_series(1, %d) i) to stdout\" postgres",
             server.port, ROWS);
    for (int i = 0; i < SESSIONS; i++)
        assert_non_null(session[i] = popen(command, "re"));
    uint64_t most = settle(MIB, false);
    printf("# postgres: %llu KiB queued for %d sessions whose output nobody reads\n",
           (unsigned long long)most / KIB, SESSIONS);
    assert_true(most > SESSIONS * 4 * KIB);
    for (int i = 0; i < SESSIONS; i++) {
        for (unsigned number = 1; number <= ROWS; number++) {
            assert_int_equal(fread(row, 1, ROW, session[i]), ROW);
            assert_true(postgres_row_right(row, number));
        }
        assert_int_equal(pclose(session[i]), 0);
    }
}

static void stalled_connection_is_reset(void **state)
{
    static char output[1 << 16];
    (void)state;
    if (!recipe_available(recipe_named("nginx")))
        skip();
    assert_true(start_recipe("nginx", LIMITS("total-buffer=1M", "stall=2s")));
    readers_start(&readers, 4, server.port, GET_BIG, 1, &http_object);
    double started = seconds_now();
    /* The first reads a little all the time: slow is not stalled. It must take a segment of
     * loopback (64 KiB) well within `stall`, as less does not open its window, which is all that
     * the server's kernel hears of it (RFC 9293, 3.8.6.2.2). */
    struct readers slow = readers;
    slow.count = 1;
    while (total(&server, "stalls_reset") < 3 && seconds_now() < started + 60) {
        char some[8000];
        readers_step(&readers, false, 10);
        if (recv(readers.reader[0].fd, some, sizeof some, 0) < 0)
            readers_step(&slow, false, 1);
    }
    assert_int_equal(total(&server, "stalls_reset"), 3);
    assert_true(seconds_now() - started > 2);
    assert_true(total_becomes(&server, "conns", 1, 60000));
    assert_int_equal(
        bpctl(&server, output, sizeof output, COMMAND("events", server.name, "--json")), 0);
    assert_non_null(strstr(output, "stall_reset"));
}

/* Bytes per second that all read together, from now on for `seconds`; the least and the most that
 * one got. */
static double rate_of_all(double seconds, uint64_t *least, uint64_t *most)
{
    uint64_t before[CLIENTS] = {0}, sum = 0;
    double started = seconds_now();
    for (size_t i = 0; i < readers.count; i++)
        before[i] = readers.reader[i].got;
    while (seconds_now() < started + seconds)
        readers_step(&readers, true, 10);
    double took = seconds_now() - started;
    *least = UINT64_MAX;
    *most = 0;
    for (size_t i = 0; i < readers.count; i++) {
        uint64_t got = readers.reader[i].got - before[i];
        sum += got;
        *least = got < *least ? got : *least;
        *most = got > *most ? got : *most;
    }
    return (double)sum / took;
}

/* A machine that is busy with other things makes it slower, never faster. */
static void rate_is_kept_and_shared(void **state)
{
    static char output[1 << 16];
    uint64_t least, most;
    (void)state;
    if (!recipe_available(recipe_named("lighttpd")))
        skip();
    assert_true(start_recipe("lighttpd", LIMITS("send-rate=1M")));
    readers_start(&readers, 4, server.port, GET_BIG, 1, &http_object);
    rate_of_all(1.5, &least, &most); /* the first segments are not paced */
    double rate = rate_of_all(2, &least, &most);
    printf("# send-rate=1M: %.2f MiB/s, one of four got %llu to %llu KiB in 2 s\n", rate / MIB,
           (unsigned long long)least / KIB, (unsigned long long)most / KIB);
    assert_true(rate < 1.2 * MIB);
    assert_true(least > most / 3);
    assert_int_equal(bpctl(&server, output, sizeof output,
                           COMMAND("set", server.name, "send-rate=off", "conn-send-rate=512K")),
                     0);
    rate_of_all(0.5, &least, &most);
    rate = rate_of_all(2, &least, &most);
    printf("# conn-send-rate=512K: %.2f MiB/s for four\n", rate / MIB);
    assert_true(rate < 2.2 * MIB);
    assert_int_equal(
        bpctl(&server, output, sizeof output, COMMAND("set", server.name, "conn-send-rate=off")),
        0);
    assert_true(readers_read_all(&readers, ARRIVES_SECONDS));
}

static int clean_up(void **state)
{
    (void)state;
    if (readers.reader)
        readers_end(&readers);
    server_stop(&server);
    server_stop(&backend);
    memset(&server, 0, sizeof server);
    memset(&backend, 0, sizeof backend);
    return 0;
}

int main(int argc, char **argv)
{
    struct suite suite = {.name = "buffers"};

    signal(SIGPIPE, SIG_IGN);
    pattern_fill(object, sizeof object);
    suite_choose(argc, argv);
    for (size_t i = 0; i < sizeof subjects / sizeof *subjects; i++)
        suite_add(&suite, subjects[i].name, keeps_its_ceiling, clean_up, &subjects[i]);
#define ADD(function) suite_add(&suite, #function, function, clean_up, NULL)
    ADD(redis_does_not_grow);
    ADD(postgres_keeps_its_ceiling);
    ADD(stalled_connection_is_reset);
    ADD(rate_is_kept_and_shared);
    return suite_run(&suite, NULL, NULL);
}
