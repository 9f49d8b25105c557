/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Clients that send and read at the same time get back every byte they sent, through echo servers
 * in every style of waiting, proxies and TLS, at every ceiling from 4 KiB up, and while ceilings
 * are changed at random twenty times a second.
 */
#include "../base/suite.h"
#include "crowd.h"
#include "readers.h"
#include "recipes.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define CLIENTS 6
#define PATTERN (1U << 20)
#define CHUNK 70001
#define CHANGES_PER_SECOND 20
#define CHANGING_SECONDS 2
#define WITHIN_SECONDS 60
#define COMMAND(...) ((const char *const[]){__VA_ARGS__, NULL})

static struct server server, behind, before;
static uint8_t pattern[PATTERN + CHUNK];
static char output[65536];

struct stream {
    int fd;
    uint64_t sent, got;
    bool ended;
};
static struct stream streams[CLIENTS];

static uint64_t random_below(uint64_t end)
{
    static uint64_t state = 88172645463325252U;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % end;
}

static void connect_all(uint16_t port)
{
    struct sockaddr_in address = loopback(port);
    for (size_t i = 0; i < CLIENTS; i++) {
        streams[i] = (struct stream){.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
        assert_int_equal(connect(streams[i].fd, (struct sockaddr *)&address, sizeof address), 0);
        fcntl(streams[i].fd, F_SETFL, O_NONBLOCK);
    }
}

static void give(struct stream *stream, uint64_t length)
{
    uint64_t left = length - stream->sent, part = 1 + random_below(CHUNK);
    ssize_t sent =
        send(stream->fd, pattern + stream->sent % PATTERN, part < left ? part : left, MSG_NOSIGNAL);
    if (sent > 0)
        stream->sent += (uint64_t)sent;
}

static void take(struct stream *stream)
{
    static uint8_t buffer[CHUNK];
    ssize_t got = recv(stream->fd, buffer, 1 + random_below(CHUNK), 0);
    if (got == 0 || (got < 0 && errno != EAGAIN))
        stream->ended = true;
    if (got <= 0)
        return;
    assert_memory_equal(buffer, pattern + stream->got % PATTERN, (size_t)got);
    stream->got += (uint64_t)got;
}

/* One turn of all; true when every byte is back. */
static bool turn(uint64_t length)
{
    struct pollfd fds[CLIENTS];
    bool all = true;
    for (size_t i = 0; i < CLIENTS; i++)
        fds[i] =
            (struct pollfd){.fd = streams[i].got < length ? streams[i].fd : -1,
                            .events = (short)(POLLIN | (streams[i].sent < length ? POLLOUT : 0))};
    poll(fds, CLIENTS, 10);
    for (size_t i = 0; i < CLIENTS; i++) {
        if (fds[i].fd < 0)
            continue;
        if (fds[i].revents & POLLOUT)
            give(&streams[i], length);
        if (fds[i].revents & (POLLIN | POLLERR | POLLHUP))
            take(&streams[i]);
        if (streams[i].ended) {
            server_print_log(&server);
            fail();
        }
        all = all && streams[i].got == length;
        if (streams[i].got == length) {
            close(streams[i].fd); /* makes room for those that wait */
            streams[i].fd = -1;
        }
    }
    return all;
}

static void change_a_limit(void)
{
    static const char *const keys[] = {"buffer", "total-buffer", "conn-buffer"};
    char limit[64], pause[32];
    uint64_t kib = UINT64_C(4) << random_below(15);
    if (random_below(8) == 0)
        snprintf(limit, sizeof limit, "%s=off", keys[random_below(3)]);
    else
        snprintf(limit, sizeof limit, "%s=%lluK", keys[random_below(3)], (unsigned long long)kib);
    snprintf(pause, sizeof pause, "pause-reads=%s", random_below(4) ? "on" : "off");
    assert_int_equal(
        bpctl(&server, output, sizeof output, COMMAND("set", server.name, limit, pause)), 0);
}

/* Everybody sends `length` bytes to `port` and gets them back. */
static void exchange(uint16_t port, uint64_t length, bool change)
{
    double started = seconds_now(), next = started;
    connect_all(port);
    while (!turn(length)) {
        if (seconds_now() > started + WITHIN_SECONDS) {
            for (size_t i = 0; i < CLIENTS; i++)
                fprintf(stderr, "stream %zu: sent %llu, back %llu of %llu\n", i,
                        (unsigned long long)streams[i].sent, (unsigned long long)streams[i].got,
                        (unsigned long long)length);
            bpctl(&server, output, sizeof output, COMMAND("show", server.name));
            fputs(output, stderr);
            server_print_log(&server);
            fail();
        }
        if (change && seconds_now() >= next) {
            change_a_limit();
            next += 1.0 / CHANGES_PER_SECOND;
        }
    }
    printf("# %llu KiB each in %.2f s\n", (unsigned long long)length / 1024,
           seconds_now() - started);
}

/* --- who echoes --- */

static bool start_echo(struct server *where, const char *style, const char *const *limits)
{
    char port[8], program[PATH_LENGTH];
    const char *build = getenv("BUILD");
    server_prepare(where, "echo");
    snprintf(port, sizeof port, "%u", where->port);
    snprintf(program, sizeof program, "%s/tests/echo", build ? build : "build");
    return server_start(where, limits, COMMAND(program, style, port));
}

static uint16_t start_style(const char *style, const char *const *limits)
{
    return start_echo(&server, style, limits) ? server.port : 0;
}

static uint16_t start_haproxy(const char *style, const char *const *limits)
{
    (void)style;
    if (!start_echo(&behind, "edge", NULL))
        return 0;
    server_prepare(&server, "haproxy");
    const char *config =
        server_file(&server, "haproxy.cfg",
                    "global\n nbthread 2\ndefaults\n mode tcp\n timeout client 60s\n"
                    " timeout connect 5s\n timeout server 60s\nfrontend all\n"
                    " bind 127.0.0.1:%u\n default_backend echo\nbackend echo\n"
                    " server echo 127.0.0.1:%u\n",
                    server.port, behind.port);
    return server_start(&server, limits, COMMAND("haproxy", "-db", "-f", config)) ? server.port : 0;
}

/* TLS: a stunnel under the shim, which another one, bare, talks to for the clients. */
static uint16_t start_stunnel(const char *style, const char *const *limits)
{
    char command[1024], config[PATH_LENGTH * 2];
    (void)style;
    if (!start_echo(&behind, "edge", NULL))
        return 0;
    server_prepare(&server, "stunnel");
    server_prepare(&before, "stunnel");
    snprintf(command, sizeof command,
             "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -days 1 -keyout %s/key "
             "-out %s/certificate 2>/dev/null",
             server.directory, server.directory);
    if (system(command) != 0)
        return 0;
    snprintf(config, sizeof config, "%s",
             server_file(&server, "stunnel.conf",
                         "foreground = yes\npid =\nsyslog = no\n[tls]\naccept = 127.0.0.1:%u\n"
                         "connect = 127.0.0.1:%u\ncert = %s/certificate\nkey = %s/key\n",
                         server.port, behind.port, server.directory, server.directory));
    if (!server_start(&server, limits, COMMAND("stunnel", config)))
        return 0;
    snprintf(config, sizeof config, "%s",
             server_file(&before, "stunnel.conf",
                         "foreground = yes\npid =\nsyslog = no\n[plain]\nclient = yes\n"
                         "accept = 127.0.0.1:%u\nconnect = 127.0.0.1:%u\n",
                         before.port, server.port));
    return server_start(&before, NULL, COMMAND("stunnel", config)) ? before.port : 0;
}

/* Node, whose pipe pauses by itself, and a handler that does not. */
static uint16_t start_node(const char *style, const char *const *limits)
{
    server_prepare(&server, "node");
    const char *script = server_file(
        &server, "echo.js",
        "require('net').createServer({allowHalfOpen: true}, s => { s.on('error', () => {}); %s })"
        ".listen(%u, '127.0.0.1');\n",
        strcmp(style, "pipe") == 0 ? "s.pipe(s);"
                                   : "s.on('data', d => s.write(d)); s.on('end', () => s.end());",
        server.port);
    return server_start(&server, limits, COMMAND("node", script)) ? server.port : 0;
}

struct subject {
    const char *name, *style;
    const char *program; /* of a package that may be missing, or NULL */
    uint16_t (*start)(const char *style, const char *const *limits);
};

static void every_byte_comes_back(void **state)
{
    static const char *const limits[] = {"buffer=4K",       "conn-buffer=4K",  "buffer=64K",
                                         "conn-buffer=17K", "total-buffer=1M", "buffer=256M"};
    const struct subject *subject = *state;
    if (subject->program && access(subject->program, X_OK) != 0)
        skip();
    uint16_t port = subject->start(subject->style, COMMAND(limits[0]));
    assert_int_not_equal(port, 0);
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        printf("# %s, %s: ", subject->name, limits[i]);
        assert_int_equal(
            bpctl(&server, output, sizeof output,
                  COMMAND("set", server.name, "buffer=off", "total-buffer=off", "conn-buffer=off")),
            0);
        assert_int_equal(
            bpctl(&server, output, sizeof output, COMMAND("set", server.name, limits[i])), 0);
        exchange(port, i == 0 ? 256 << 10 : 1 << 20, false);
    }
    for (double until = seconds_now() + CHANGING_SECONDS; seconds_now() < until;) {
        printf("# %s, limits changing: ", subject->name);
        exchange(port, 8 << 20, true);
    }
    assert_true(total_becomes(&server, "conns", 0, 60000));
}

static const struct subject subjects[] = {
    {"epoll, level-triggered", "level", NULL, start_style},
    {"epoll, edge-triggered", "edge", NULL, start_style},
    {"epoll, one shot, threads", "oneshot", NULL, start_style},
    {"poll", "poll", NULL, start_style},
    {"select", "select", NULL, start_style},
    {"blocking threads", "threads", NULL, start_style},
    {"haproxy", "", "/usr/sbin/haproxy", start_haproxy},
    {"stunnel", "", "/usr/bin/stunnel", start_stunnel},
    {"node, pipe", "pipe", "/usr/bin/node", start_node},
    {"node, careless", "careless", "/usr/bin/node", start_node},
};

/* HTTP/2 has flow control of its own on top. */
static void http2_echoes(void **state)
{
    static const char client[] =
        "const http2 = require('http2'), crypto = require('crypto');\n"
        "const data = crypto.randomBytes(4 << 20), session = http2.connect(process.argv[2], "
        "{maxSessionMemory: 1000});\n"
        "let left = 8;\n"
        "for (let i = 0; i < 8; i++) {\n"
        "  const stream = session.request({':path': '/', ':method': 'POST'}), got = [];\n"
        "  stream.on('data', d => got.push(d));\n"
        "  stream.on('end', () => {\n"
        "    if (!Buffer.concat(got).equals(data)) { console.log('wrong'); process.exit(1); }\n"
        "    if (--left == 0) { console.log('right'); session.close(); }\n  });\n"
        "  for (let at = 0; at < data.length; at += 50000) stream.write(data.subarray(at, at + "
        "50000));\n  stream.end();\n}\n";
    char command[PATH_LENGTH * 3], said[64] = "";
    (void)state;
    if (access("/usr/bin/node", X_OK) != 0)
        skip();
    server_prepare(&server, "http2");
    const char *script = server_file(&server, "server.js",
                                     "require('http2').createServer({maxSessionMemory: "
                                     "1000}).on('stream', s => { s.respond({':status': 200}); "
                                     "s.pipe(s); }).listen(%u, '127.0.0.1');\n",
                                     server.port);
    assert_true(server_start(&server, COMMAND("buffer=32K"), COMMAND("node", script)));
    snprintf(command, sizeof command, "node %s http://127.0.0.1:%u",
             server_file(&server, "client.js", "%s", client), server.port);
    FILE *pipe = popen(command, "re");
    assert_non_null(pipe);
    int fd = fileno(pipe);
    double deadline = seconds_now() + WITHIN_SECONDS;
    for (;;) {
        struct pollfd answer = {.fd = fd, .events = POLLIN};
        if (poll(&answer, 1, 1000 / CHANGES_PER_SECOND) > 0)
            break;
        assert_true(seconds_now() < deadline);
        change_a_limit();
    }
    assert_non_null(fgets(said, sizeof said, pipe));
    assert_string_equal(said, "right\n");
    assert_int_equal(pclose(pipe), 0);
}

static int clean_up(void **state)
{
    (void)state;
    for (size_t i = 0; i < CLIENTS; i++)
        if (streams[i].fd > 0)
            close(streams[i].fd);
    memset(streams, 0, sizeof streams);
    server_stop(&server);
    server_stop(&behind);
    server_stop(&before);
    memset(&server, 0, sizeof server);
    memset(&behind, 0, sizeof behind);
    memset(&before, 0, sizeof before);
    return 0;
}

int main(int argc, char **argv)
{
    struct suite suite = {.name = "duplex"};

    signal(SIGPIPE, SIG_IGN);
    pattern_fill(pattern, PATTERN);
    memcpy(pattern + PATTERN, pattern, CHUNK);
    suite_choose(argc, argv);
    for (size_t i = 0; i < sizeof subjects / sizeof *subjects; i++)
        suite_add(&suite, subjects[i].name, every_byte_comes_back, clean_up, &subjects[i]);
    suite_add(&suite, "http2", http2_echoes, clean_up, NULL);
    return suite_run(&suite, NULL, NULL);
}
