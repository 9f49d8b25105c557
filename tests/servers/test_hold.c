/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Under total-conns=20 and when-full=hold, 200 clients that connect at once and stay: 20 are
 * served, the others follow when those leave, and nobody is lost.
 */
#include "../base/suite.h"
#include "crowd.h"
#include "recipes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define CEILING 20
#define CLIENTS 200
#define STANDS_MS 300
#define SERVED_WITHIN_MS 60000

/* A client that the server was probed with may be counted until the server has noticed its end. */
static void settle(const struct server *server)
{
    assert_true(total_becomes(server, "conns", 0, 60000));
}

static void assert_served(const struct crowd *crowd, const struct recipe *recipe)
{
    for (size_t i = 0; i < crowd->count; i++) {
        const struct client *client = &crowd->client[i];
        if (client->state == CLIENT_SERVED && recipe->answer[0])
            assert_memory_equal(client->answer, recipe->answer, strlen(recipe->answer));
    }
}

static void assert_nobody_lost(const struct crowd *crowd)
{
    for (size_t i = 0; i < crowd->count; i++) {
        const struct client *client = &crowd->client[i];
        if (client->state >= CLIENT_ENDED && client->state != CLIENT_LEFT)
            printf("# client %zu, state %d, after %zu bytes: %.60s\n", i, (int)client->state,
                   client->length, client->answer);
    }
    assert_int_equal(crowd_count(crowd, CLIENT_ENDED), 0);
    assert_int_equal(crowd_count(crowd, CLIENT_RESET), 0);
    assert_int_equal(crowd_count(crowd, CLIENT_FAILED), 0);
}

/* Whether anybody is still to be served. */
static bool lives(const struct crowd *crowd)
{
    return crowd_count(crowd, CLIENT_CONNECTING) + crowd_count(crowd, CLIENT_WAITING) +
               crowd_count(crowd, CLIENT_SERVED) >
           0;
}

static void holds(void **state)
{
    const struct recipe *recipe = *state;
    struct server server;
    struct crowd crowd;

    if (!recipe_available(recipe))
        skip();
    assert_true(recipe_start(recipe, &server, (const char *const[]){"total-conns=20", NULL}));
    settle(&server);
    struct sockaddr_in address = loopback(server.port);
    crowd_start(&crowd, CLIENTS, (struct sockaddr *)&address, sizeof address, NULL, 0,
                recipe->request, recipe->request_length);

    assert_true(crowd_until(&crowd, CLIENT_SERVED, CEILING, SERVED_WITHIN_MS));
    assert_false(crowd_until(&crowd, CLIENT_SERVED, CEILING + 1, STANDS_MS));
    assert_int_equal(connections_by_ss(server.port), CEILING);
    assert_int_equal(total(&server, "conns"), CEILING);

    double started = seconds_now(), deadline = started + SERVED_WITHIN_MS / 1000.0;
    size_t left = 0;
    unsigned most = 0;
    while (left < CLIENTS && lives(&crowd) && seconds_now() < deadline) {
        assert_true(crowd_count(&crowd, CLIENT_SERVED) <= CEILING);
        assert_served(&crowd, recipe);
        left += crowd_leave(&crowd);
        crowd_step(&crowd, 20);
        if (left % 3 == 0) {
            unsigned seen = connections_by_ss(server.port);
            most = seen > most ? seen : most;
        }
    }
    printf("# %s: %zu of %d clients served, at most %u at once by ss, %.1f s\n", recipe->name, left,
           CLIENTS, most, seconds_now() - started);
    assert_nobody_lost(&crowd);
    assert_int_equal(left, CLIENTS);
    assert_true(most <= CEILING);
    assert_true(total_becomes(&server, "conns", 0, 60000));
    assert_int_equal(connections_by_ss(server.port), 0);
    crowd_end(&crowd);
    server_stop(&server);
}

/* A failed assertion jumps out of the test: what it started ends here. */
static int clean_up(void **state)
{
    struct server server = {.directory = ""};
    (void)state;
    server_stop(&server);
    return 0;
}

int main(int argc, char **argv)
{
    struct suite suite = {.name = "hold"};
    suite_choose(argc, argv);
    for (size_t i = 0; i < recipes_count; i++)
        suite_add(&suite, recipes[i].name, holds, clean_up, &recipes[i]);
    return suite_run(&suite, NULL, NULL);
}
