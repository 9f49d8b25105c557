/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whatever way a program accepts, and whatever way it closes: never more inside than the ceiling,
 * by the program's own count; everybody served in the end; nothing lost afterwards; and no
 * spinning.
 */
#include "../base/suite.h"
#include "crowd.h"
#include "launch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include <cmocka.h>

#define CEILING 12
#define CLIENTS 120
#define STANDS_MS 150
#define STRETCHES 20
#define WITHIN_MS 60000
/* Who is found only by comparing with the kernel is found at a bounded rate. */
#define FOLLOW_WITHIN_S 90.0

struct style {
    const char *name;
    const char *words[8];
    const char *limits[4];
    bool reuseport; /* the kernel deals clients out before anybody knows who has room */
};

static const struct style styles[] = {
    {"blocking", {"blocking"}, {0}, false},
    {"blocking, address NULL", {"blocking", "null"}, {0}, false},
    {"blocking, eight threads", {"blocking", "threads=8"}, {0}, false},
    {"blocking, SO_RCVTIMEO", {"blocking", "timeout=50"}, {0}, false},
    {"blocking, four processes", {"blocking", "processes=4"}, {0}, false},
    {"blocking after poll", {"poll-blocking"}, {0}, false},
    {"fork for each connection", {"forking"}, {0}, false},
    {"poll", {"poll"}, {0}, false},
    {"ppoll", {"ppoll"}, {0}, false},
    {"select", {"select"}, {0}, false},
    {"pselect", {"pselect"}, {0}, false},
    {"epoll, level-triggered", {"level"}, {0}, false},
    {"epoll, edge-triggered", {"edge"}, {0}, false},
    {"epoll, EPOLLEXCLUSIVE", {"exclusive", "processes=3"}, {0}, false},
    {"epoll, EPOLLONESHOT, one set for four threads", {"oneshot", "threads=4"}, {0}, false},
    {"epoll_pwait", {"epoll_pwait"}, {0}, false},
    {"epoll_pwait2", {"epoll_pwait2"}, {0}, false},
    {"epoll, four threads with sets of their own", {"level", "threads=4"}, {0}, false},
    {"epoll, edge-triggered, four processes", {"edge", "processes=4"}, {0}, false},
    {"poll, four processes on one listener", {"poll", "processes=4"}, {0}, false},
    {"select, three listeners", {"select", "listeners=3"}, {0}, false},
    {"epoll, three listeners", {"edge", "listeners=3"}, {0}, false},
    {"SO_REUSEPORT, three processes", {"level", "processes=3", "reuseport"}, {0}, true},
    {"IPv6", {"level", "family=6"}, {0}, false},
    {"AF_UNIX", {"level", "family=unix"}, {0}, false},
    {"AF_UNIX, blocking", {"blocking", "family=unix"}, {0}, false},
    {"closed by an unseen system call", {"level", "close=unseen"}, {0}, false},
    {"closed by syscall()", {"poll", "close=number"}, {0}, false},
    {"closed by close_range", {"level", "close=range"}, {0}, false},
    {"closed by fclose", {"level", "close=stdio"}, {0}, false},
    {"closed by dup2 over it", {"level", "close=dup2"}, {0}, false},
    {"closed thrice, after dup and F_DUPFD", {"level", "close=dup"}, {0}, false},
    {"held by a spawned child that is killed", {"level", "close=spawn"}, {0}, false},
    {"closed in a vfork child, too", {"level", "close=vfork"}, {0}, false},
    {"passed to another process", {"level", "close=pass"}, {0}, false},
    {"passed to another process, unix", {"blocking", "close=pass", "family=unix"}, {0}, false},
    {"conns in each of three processes",
     {"level", "processes=3", "close=unseen"},
     {"conns=4", "total-conns=off"},
     false},
};

#define STYLES (sizeof styles / sizeof *styles)

/* The address of the acceptor, whatever its family. */
static socklen_t address_of(const struct style *style, uint16_t port,
                            struct sockaddr_storage *address)
{
    memset(address, 0, sizeof *address);
    for (const char *const *word = style->words; *word; word++) {
        if (strcmp(*word, "family=6") == 0) {
            struct sockaddr_in6 in6 = {.sin6_family = AF_INET6,
                                       .sin6_port = htons(port),
                                       .sin6_addr = IN6ADDR_LOOPBACK_INIT};
            memcpy(address, &in6, sizeof in6);
            return sizeof in6;
        }
        if (strcmp(*word, "family=unix") == 0) {
            struct sockaddr_un un = {.sun_family = AF_UNIX};
            int length = snprintf(un.sun_path + 1, sizeof un.sun_path - 1, "acceptor-%u", port);
            memcpy(address, &un, sizeof un);
            return (socklen_t)(sizeof(sa_family_t) + 1 + (size_t)length);
        }
    }
    struct sockaddr_in in = loopback(port);
    memcpy(address, &in, sizeof in);
    return sizeof in;
}

static bool start(struct server *server, const struct style *style)
{
    const char *command[16], *limits[8] = {"total-conns=12"};
    char program[256], port[8];
    size_t words = 0, given = 1;
    const char *build = getenv("BUILD"), *given_program = getenv("ACCEPTOR");

    server_prepare(server, "acceptor");
    snprintf(program, sizeof program, "%s/tests/acceptor", build ? build : "build");
    if (given_program)
        snprintf(program, sizeof program, "%s", given_program);
    snprintf(port, sizeof port, "%u", server->port);
    command[words++] = program;
    command[words++] = port;
    for (const char *const *word = style->words; *word; word++)
        command[words++] = *word;
    command[words] = NULL;
    if (style->limits[0])
        given = 0;
    for (const char *const *limit = style->limits; *limit; limit++)
        limits[given++] = *limit;
    limits[given] = NULL;
    struct sockaddr_storage address;
    socklen_t length = address_of(style, server->port, &address);
    return server_start_at(server, (struct sockaddr *)&address, length, limits, command);
}

static void assert_never_above(const struct crowd *crowd)
{
    for (size_t i = 0; i < crowd->count; i++) {
        int inside, peak;
        if (crowd->client[i].length == 0)
            continue;
        assert_int_equal(sscanf(crowd->client[i].answer, "inside %d peak %d", &inside, &peak), 2);
        assert_true(peak <= CEILING);
    }
}

static void assert_nobody_lost(const struct crowd *crowd)
{
    assert_int_equal(crowd_count(crowd, CLIENT_ENDED), 0);
    assert_int_equal(crowd_count(crowd, CLIENT_RESET), 0);
    assert_int_equal(crowd_count(crowd, CLIENT_FAILED), 0);
}

/* Who spins takes more than half of the time in every stretch of it; on a slow machine a calm
 * program may do so in some. A tick is a hundredth of a second. */
static bool stands_without_spinning(struct server *server, struct crowd *crowd)
{
    for (unsigned stretch = 0; stretch < STRETCHES; stretch++) {
        unsigned long before = cpu_ticks(server);
        assert_false(crowd_until(crowd, CLIENT_SERVED, CEILING + 1, STANDS_MS));
        if ((cpu_ticks(server) - before) * 10 <= STANDS_MS / 2)
            return true;
    }
    return false;
}

static void keeps_its_ceiling(void **state)
{
    const struct style *style = *state;
    struct server server;
    struct crowd crowd;
    struct sockaddr_storage address;

    assert_true(start(&server, style));
    assert_true(total_becomes(&server, "conns", 0, 60000));
    socklen_t length = address_of(style, server.port, &address);
    crowd_start(&crowd, CLIENTS, (struct sockaddr *)&address, length, NULL, 0, NULL, 0);
    if (style->reuseport)
        crowd_until(&crowd, CLIENT_SERVED, CEILING, STANDS_MS * 10);
    else
        assert_true(crowd_until(&crowd, CLIENT_SERVED, CEILING, WITHIN_MS));
    assert_true(stands_without_spinning(&server, &crowd));

    size_t left = 0;
    double started = seconds_now(), deadline = started + FOLLOW_WITHIN_S;
    while (left < CLIENTS && seconds_now() < deadline) {
        left += crowd_leave(&crowd);
        crowd_step(&crowd, 20);
    }
    assert_nobody_lost(&crowd);
    assert_never_above(&crowd);
    printf("# %zu of %d followed in %.2f s\n", left, CLIENTS, seconds_now() - started);
    assert_int_equal(left, CLIENTS);
    assert_true(total_becomes(&server, "conns", 0, 60000));
    crowd_end(&crowd);

    /* After the storm there is as much room as before it. */
    crowd_start(&crowd, CEILING, (struct sockaddr *)&address, length, NULL, 0, NULL, 0);
    if (!style->reuseport)
        assert_true(crowd_until(&crowd, CLIENT_SERVED, CEILING, WITHIN_MS));
    crowd_end(&crowd);
    server_stop(&server);
}

static int clean_up(void **state)
{
    struct server server = {.directory = ""};
    (void)state;
    server_stop(&server);
    return 0;
}

int main(int argc, char **argv)
{
    struct suite suite = {.name = "styles"};
    suite_choose(argc, argv);
    for (size_t i = 0; i < STYLES; i++)
        suite_add(&suite, styles[i].name, keeps_its_ceiling, clean_up, &styles[i]);
    return suite_run(&suite, NULL, NULL);
}
