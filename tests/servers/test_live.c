/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The other ceilings, and every change while the server runs, on nginx with two workers and on
 * python's threading server.
 */
#include "../base/suite.h"
#include "crowd.h"
#include "recipes.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#define WITHIN_MS 60000
#define STANDS_MS 200
#define LIMITS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define BPCTL(...) bpctl(&server, output, sizeof output, (const char *const[]){__VA_ARGS__, NULL})

static struct server server;
static struct crowd crowd, others;
static char output[65536];

static void start(const char *recipe, const char *const *limits)
{
    if (!recipe_available(recipe_named(recipe)))
        skip();
    assert_true(recipe_start(recipe_named(recipe), &server, limits));
    assert_true(total_becomes(&server, "conns", 0, 60000));
}

/* `count` clients from 127.0.0.`host`. */
static void come(struct crowd *who, size_t count, uint32_t host)
{
    const struct recipe *recipe = recipe_named(server.recipe);
    struct sockaddr_in to = loopback(server.port), from = loopback(0);
    from.sin_addr.s_addr = htonl(0x7f000000U | host);
    crowd_start(who, count, (struct sockaddr *)&to, sizeof to, (struct sockaddr *)&from,
                sizeof from, recipe->request, recipe->request_length);
}

static void assert_settles_at(struct crowd *who, size_t served)
{
    assert_true(crowd_until(who, CLIENT_SERVED, served, WITHIN_MS));
    assert_false(crowd_until(who, CLIENT_SERVED, served + 1, STANDS_MS));
}

static int tear_down(void **state)
{
    (void)state;
    crowd_end(&crowd);
    crowd_end(&others);
    server_stop(&server);
    return 0;
}

static void raised_limit_lets_the_next_in_and_lowered_one_nobody(void **state)
{
    (void)state;
    start("nginx", LIMITS("total-conns=10"));
    come(&crowd, 60, 1);
    assert_settles_at(&crowd, 10);
    assert_int_equal(BPCTL("set", server.name, "total-conns=25"), 0);
    assert_settles_at(&crowd, 25);
    assert_int_equal(BPCTL("set", server.name, "total-conns=5"), 0);
    assert_int_equal(crowd_leave(&crowd), 25); /* nobody was thrown out */
    assert_settles_at(&crowd, 5);
    assert_int_equal(BPCTL("set", server.name, "total-conns=off"), 0);
    assert_settles_at(&crowd, 35);
}

static void peer_ceiling_leaves_others_alone(void **state)
{
    (void)state;
    start("nginx", LIMITS("peer-conns=4"));
    come(&crowd, 30, 2);
    assert_settles_at(&crowd, 4);
    come(&others, 3, 3);
    assert_settles_at(&others, 3); /* not behind those of the other address */
    for (size_t left = 4; left < 30; left += 4) {
        assert_true(crowd_leave(&crowd) <= 4);
        assert_true(crowd_until(&crowd, CLIENT_SERVED, 30 - left < 4 ? 30 - left : 4, WITHIN_MS));
    }
    crowd_leave(&crowd);
    assert_int_equal(crowd_count(&crowd, CLIENT_LEFT), 30);
}

static void peer_ceiling_refuses_when_told_to(void **state)
{
    (void)state;
    start("nginx", LIMITS("peer-conns=4", "when-full=busy"));
    come(&crowd, 30, 2);
    assert_true(crowd_until(&crowd, CLIENT_ENDED, 26, WITHIN_MS));
    assert_settles_at(&crowd, 4);
    come(&others, 3, 3);
    assert_settles_at(&others, 3);
}

static void exempt_clients_pass_a_full_house(void **state)
{
    (void)state;
    start("nginx", LIMITS("total-conns=6", "exempt=127.0.0.7,10.0.0.0/8"));
    come(&crowd, 100, 1);
    assert_settles_at(&crowd, 6);
    come(&others, 5, 7);
    assert_settles_at(&others, 5);
    assert_int_equal(total(&server, "conns"), 6);
    assert_int_equal(total(&server, "exempted"), 5);
    size_t left = 0;
    for (double deadline = seconds_now() + 20; left < 100 && seconds_now() < deadline;) {
        size_t leave = crowd_leave(&crowd);
        assert_true(leave <= 6);
        left += leave;
        crowd_step(&crowd, 20);
    }
    assert_int_equal(left, 100);
}

static void exempt_clients_pass_a_full_house_of_refusals(void **state)
{
    (void)state;
    start("python", LIMITS("total-conns=6", "exempt=127.0.0.7", "when-full=reset"));
    come(&crowd, 40, 1);
    assert_true(crowd_until(&crowd, CLIENT_RESET, 34, WITHIN_MS));
    come(&others, 5, 7);
    assert_settles_at(&others, 5);
}

/* Counted over one run: the clients admitted fit the bucket, and there is no gap either. */
static void accept_rate_is_kept(void **state)
{
    (void)state;
    start("nginx", LIMITS("accept-rate=50/10"));
    double started = seconds_now();
    come(&crowd, 60, 1);
    assert_true(crowd_until(&crowd, CLIENT_SERVED, 60, WITHIN_MS));
    double took = seconds_now() - started;
    assert_true(took >= (60 - 10 - 1) / 50.0 - 0.05); /* a slow machine may only take longer */
}

static void accept_rate_changes_live(void **state)
{
    (void)state;
    start("nginx", LIMITS("accept-rate=1/2"));
    come(&crowd, 80, 1);
    assert_true(crowd_until(&crowd, CLIENT_SERVED, 2, WITHIN_MS));
    assert_true(crowd_count(&crowd, CLIENT_SERVED) < 10);
    assert_int_equal(BPCTL("set", server.name, "accept-rate=off"), 0);
    assert_true(crowd_until(&crowd, CLIENT_SERVED, 80, WITHIN_MS));
}

static long listener_field(const char *field)
{
    assert_int_equal(BPCTL("show", server.name, "--json"), 0);
    json_t *shown = json_loads(output, 0, NULL);
    json_t *number = json_object_get(json_array_get(json_object_get(shown, "listeners"), 0), field);
    assert_true(json_is_integer(number));
    long value = (long)json_integer_value(number);
    json_decref(shown);
    return value;
}

/* Those whose SYN was dropped may come again only after half a minute: newcomers fill what is free.
 * They keep their places in the queue though they leave. */
static void assert_queue_fills_to(long length)
{
    long queue;
    for (double deadline = seconds_now() + 60; (queue = listener_field("queue")) < length;) {
        assert_true(seconds_now() < deadline);
        come(&others, 2, 1);
        crowd_step(&others, STANDS_MS);
        crowd_end(&others);
    }
    assert_int_equal(queue, length);
}

static void queue_bounds_the_waiting_room_and_changes_live(void **state)
{
    (void)state;
    start("nginx", LIMITS("total-conns=3", "queue=7"));
    assert_int_equal(listener_field("queue_max"), 7);
    come(&crowd, 60, 1);
    assert_settles_at(&crowd, 3);
    assert_queue_fills_to(7);
    assert_int_equal(BPCTL("set", server.name, "queue=20"), 0);
    assert_int_equal(listener_field("queue_max"), 20);
    assert_queue_fills_to(20);
    assert_int_equal(BPCTL("set", server.name, "queue=off"), 0);
    assert_int_equal(listener_field("queue_max"), 1025); /* what nginx asked for holds one more */
}

static void no_queue_at_all_gates_syns_while_full(void **state)
{
    (void)state;
    start("nginx", LIMITS("total-conns=3", "queue=0"));
    come(&crowd, 3, 1);
    assert_settles_at(&crowd, 3);
    come(&others, 20, 1);
    assert_false(crowd_until(&others, CLIENT_SERVED, 1, STANDS_MS * 3));
    assert_true(listener_field("queue") <= 1);
    assert_int_equal(crowd_leave(&crowd), 3);
    assert_true(crowd_until(&others, CLIENT_SERVED, 1, WITHIN_MS));
}

/* Under hold nobody is accepted while no slot becomes free; who waits too long hears so all the
 * same. */
static void who_waits_too_long_is_told(void **state)
{
    static const char *const recipes_tried[] = {"python", "nginx", "node", "apache-prefork"};
    (void)state;
    for (size_t i = 0; i < sizeof recipes_tried / sizeof *recipes_tried; i++) {
        start(recipes_tried[i], LIMITS("total-conns=2", "queue-delay=50ms"));
        come(&crowd, 12, 1);
        assert_true(crowd_until(&crowd, CLIENT_ENDED, 10, WITHIN_MS));
        assert_int_equal(crowd_count(&crowd, CLIENT_SERVED), 2);
        for (size_t j = 0; j < crowd.count; j++)
            if (crowd.client[j].state == CLIENT_ENDED)
                assert_memory_equal(crowd.client[j].answer, "HTTP/1.1 503 ", 13);
        assert_int_equal(total(&server, "shed_late"), 10);
        assert_int_equal(crowd_leave(&crowd), 2);
        come(&others, 2, 1);
        assert_settles_at(&others, 2);
        tear_down(state);
    }
}

/* A wait that is short, or a ceiling that nobody comes up to, is no reason to refuse anybody. */
static void who_comes_in_soon_is_not_refused(void **state)
{
    (void)state;
    start("nginx", LIMITS("total-conns=20", "queue-delay=5s"));
    come(&crowd, 60, 1);
    for (size_t served = 20; served <= 60; served += 20) {
        assert_settles_at(&crowd, 20);
        assert_int_equal(crowd_leave(&crowd), 20);
    }
    assert_int_equal(total(&server, "shed_late"), 0);
    assert_int_equal(total(&server, "shed_busy"), 0);
}

static void a_ceiling_that_finds_itself_stays_in_its_range(void **state)
{
    (void)state;
    start("nginx", LIMITS("total-conns=auto:2..5", "when-full=busy"));
    come(&crowd, 40, 1);
    assert_true(crowd_until(&crowd, CLIENT_ENDED, 35, WITHIN_MS));
    assert_true(crowd_until(&crowd, CLIENT_SERVED, 2, WITHIN_MS));
    size_t served = 40 - crowd_count(&crowd, CLIENT_ENDED);
    assert_true(served >= 2 && served <= 5);
    assert_true(crowd_until(&crowd, CLIENT_SERVED, served, WITHIN_MS));
    assert_int_equal(BPCTL("show", server.name), 0);
    assert_non_null(strstr(output, "total-conns    auto:2..5"));
    assert_non_null(strstr(output, "answers/s"));
    assert_int_equal(BPCTL("set", server.name, "total-conns=30"), 0);
    come(&others, 40, 1);
    assert_true(crowd_until(&others, CLIENT_SERVED, 30 - served, WITHIN_MS));
}

static void pause_resume_and_drain(void **state)
{
    (void)state;
    start("nginx", LIMITS("total-conns=50"));
    come(&crowd, 5, 1);
    assert_settles_at(&crowd, 5);
    assert_int_equal(BPCTL("pause", server.name), 0);
    come(&others, 5, 1);
    assert_false(crowd_until(&others, CLIENT_SERVED, 1, STANDS_MS * 2));
    assert_int_equal(crowd_count(&crowd, CLIENT_SERVED), 5);
    assert_int_equal(BPCTL("resume", server.name), 0);
    assert_true(crowd_until(&others, CLIENT_SERVED, 5, WITHIN_MS));

    assert_int_equal(BPCTL("drain", server.name, "--timeout", "200ms"), 1);
    assert_non_null(strstr(output, "10 connections are still open"));
    assert_int_equal(crowd_leave(&crowd) + crowd_leave(&others), 10);
    assert_int_equal(BPCTL("drain", server.name, "--timeout", "10s"), 0);
    assert_int_equal(total(&server, "conns"), 0);
    assert_int_equal(BPCTL("resume", server.name), 0);
    crowd_end(&crowd);
    come(&crowd, 5, 1);
    assert_settles_at(&crowd, 5);
}

static void limit_of_one_process(void **state)
{
    char target[128];
    (void)state;
    start("python", LIMITS("conns=9"));
    snprintf(target, sizeof target, "%s/%d", server.name, (int)server.pid);
    assert_int_equal(BPCTL("set", target, "conns=4"), 0);
    come(&crowd, 30, 1);
    assert_settles_at(&crowd, 4);
    assert_int_equal(BPCTL("set", target, "total-conns=4"), 2); /* not of one process */
    assert_int_equal(BPCTL("set", target, "conns=off"), 0);
    assert_settles_at(&crowd, 9);
}

static void conns_counts_each_worker(void **state)
{
    (void)state;
    start("nginx", LIMITS("conns=4"));
    come(&crowd, 60, 1);
    assert_settles_at(&crowd, 8);
    assert_int_equal(total(&server, "conns"), 8);
}

static void when_full_changes_live(void **state)
{
    (void)state;
    start("nginx", LIMITS("total-conns=4"));
    come(&crowd, 30, 1);
    assert_settles_at(&crowd, 4);
    assert_int_equal(BPCTL("set", server.name, "when-full=busy"), 0);
    assert_true(crowd_until(&crowd, CLIENT_ENDED, 26, WITHIN_MS));
    assert_int_equal(crowd_count(&crowd, CLIENT_SERVED), 4);
}

/* Workers die with what they hold; nginx's master starts others. */
static void killed_workers_lose_no_slot(void **state)
{
    pid_t all[16];
    (void)state;
    start("nginx", LIMITS("total-conns=12"));
    for (int round = 0; round < 3; round++) {
        come(&crowd, 40, 1);
        assert_settles_at(&crowd, 12);
        size_t count = descendants(server.pid, all, 16);
        for (size_t i = 1; i < count; i++)
            kill(all[i], SIGKILL);
        /* Those in the queue are served by the new workers. */
        assert_true(crowd_until(&crowd, CLIENT_SERVED, 12, WITHIN_MS));
        assert_true(connections_by_ss(server.port) <= 12);
        crowd_end(&crowd);
        assert_true(total_becomes(&server, "conns", 0, 60000));
        assert_int_equal(connections_by_ss(server.port), 0);
    }
    come(&crowd, 40, 1);
    assert_settles_at(&crowd, 12);
}

/* The whole service dies, and is started again under its name: nothing is left of the dead. */
static void killed_service_starts_afresh(void **state)
{
    struct server second;
    (void)state;
    start("redis", LIMITS("total-conns=4"));
    come(&crowd, 20, 1);
    assert_settles_at(&crowd, 4);
    kill(server.pid, SIGKILL);
    second = server;
    assert_true(crowd_until(&crowd, CLIENT_RESET, 1, WITHIN_MS));
    crowd_end(&crowd);
    char port[8];
    snprintf(port, sizeof port, "%u", server.port);
    assert_true(server_start(&second, LIMITS("total-conns=7"),
                             LIMITS("redis-server", "--port", port, "--save", "")));
    server = second;
    assert_true(total_becomes(&server, "conns", 0, 60000));
    come(&crowd, 20, 1);
    assert_settles_at(&crowd, 7);
}

/* Whether an event of this kind is among those that `bpctl events --json` printed, a line each. */
static bool told_of(const char *kind)
{
    bool told = false;
    for (const char *line = output; *line && !told; line += *line == '\n') {
        json_t *event = json_loads(line, JSON_DISABLE_EOF_CHECK, NULL);
        const char *name = json_string_value(json_object_get(event, "event"));
        assert_non_null(name);
        told = strcmp(name, kind) == 0;
        json_decref(event);
        line += strcspn(line, "\n");
    }
    return told;
}

static void events_tell_what_happened(void **state)
{
    (void)state;
    start("nginx", LIMITS("total-conns=2"));
    come(&crowd, 10, 1);
    assert_settles_at(&crowd, 2);
    assert_int_equal(BPCTL("set", server.name, "total-conns=3"), 0);
    assert_int_equal(BPCTL("pause", server.name), 0);
    assert_int_equal(BPCTL("events", server.name), 0);
    assert_non_null(strstr(output, "started"));
    assert_non_null(strstr(output, "held"));
    assert_non_null(strstr(output, "total-conns=3"));
    assert_non_null(strstr(output, "paused"));
    assert_int_equal(BPCTL("events", server.name, "--json"), 0);
    assert_true(told_of("set"));
    assert_true(total(&server, "held") > 0);
}

#define TEST(function) cmocka_unit_test_teardown(function, tear_down)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(raised_limit_lets_the_next_in_and_lowered_one_nobody),
        TEST(peer_ceiling_leaves_others_alone),
        TEST(peer_ceiling_refuses_when_told_to),
        TEST(exempt_clients_pass_a_full_house),
        TEST(exempt_clients_pass_a_full_house_of_refusals),
        TEST(accept_rate_is_kept),
        TEST(accept_rate_changes_live),
        TEST(queue_bounds_the_waiting_room_and_changes_live),
        TEST(no_queue_at_all_gates_syns_while_full),
        TEST(who_waits_too_long_is_told),
        TEST(who_comes_in_soon_is_not_refused),
        TEST(a_ceiling_that_finds_itself_stays_in_its_range),
        TEST(pause_resume_and_drain),
        TEST(limit_of_one_process),
        TEST(conns_counts_each_worker),
        TEST(when_full_changes_live),
        TEST(killed_workers_lose_no_slot),
        TEST(killed_service_starts_afresh),
        TEST(events_tell_what_happened),
    };
    suite_choose(argc, argv);
    return cmocka_run_group_tests_name("live", tests, NULL, NULL);
}
