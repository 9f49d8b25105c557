/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Above the ceiling, a client under when-full=busy reads a whole answer, and one under
 * when-full=reset gets ECONNRESET; those inside are served as ever.
 */
#include "../base/suite.h"
#include "crowd.h"
#include "recipes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CEILING 20
#define CLIENTS 200
#define WITHIN_MS 60000
#define STANDS_MS 200
#define SORRY "-BUSY come back later\r\n"

static size_t over(const struct crowd *crowd)
{
    return crowd_count(crowd, CLIENT_ENDED) + crowd_count(crowd, CLIENT_RESET) +
           crowd_count(crowd, CLIENT_FAILED);
}

/* Starts the server and the crowd, and waits until all but the ceiling's worth are turned away. */
static void overrun(const struct recipe *recipe, struct server *server, struct crowd *crowd,
                    const char *const *limits)
{
    assert_true(recipe_start(recipe, server, limits));
    assert_true(total_becomes(server, "conns", 0, 60000));
    struct sockaddr_in address = loopback(server->port);
    crowd_start(crowd, CLIENTS, (struct sockaddr *)&address, sizeof address, NULL, 0,
                recipe->request, recipe->request_length);
    double deadline = seconds_now() + WITHIN_MS / 1000.0;
    while ((over(crowd) < CLIENTS - CEILING || crowd_count(crowd, CLIENT_SERVED) < CEILING) &&
           seconds_now() < deadline)
        crowd_step(crowd, 20);
    crowd_until(crowd, CLIENT_SERVED, CLIENTS, STANDS_MS);
    for (size_t i = 0; i < crowd->count; i++)
        if (crowd->client[i].state == CLIENT_FAILED || crowd->client[i].state == CLIENT_WAITING)
            printf("# client %zu: state %d after %.60s\n", i, (int)crowd->client[i].state,
                   crowd->client[i].answer);
    assert_int_equal(crowd_count(crowd, CLIENT_SERVED), CEILING);
    assert_int_equal(connections_by_ss(server->port), CEILING);
}

static void finish(struct server *server, struct crowd *crowd)
{
    crowd_leave(crowd);
    assert_true(total_becomes(server, "conns", 0, 60000));
    crowd_end(crowd);
    server_stop(server);
}

/* RFC 9110, 15.6.4 and 10.2.3; the length must be that of the body which came. */
static unsigned assert_busy_answer(const char *answer)
{
    unsigned seconds = 0;
    const char *retry = strstr(answer, "Retry-After: "), *length, *body;
    assert_memory_equal(answer, "HTTP/1.1 503 ", strlen("HTTP/1.1 503 "));
    assert_non_null(retry);
    assert_int_equal(sscanf(retry, "Retry-After: %u\r\n", &seconds), 1);
    assert_true(seconds >= 7 && seconds <= 11);
    assert_non_null(strstr(answer, "Connection: close\r\n"));
    assert_non_null(length = strstr(answer, "Content-Length: "));
    assert_non_null(body = strstr(answer, "\r\n\r\n"));
    assert_int_equal(strlen(body + 4), strtoul(length + strlen("Content-Length: "), NULL, 10));
    return seconds;
}

static void answers_503(void **state)
{
    const struct recipe *recipe = *state;
    struct server server;
    struct crowd crowd;
    unsigned drawn = 0;

    if (!recipe_available(recipe))
        skip();
    overrun(recipe, &server, &crowd,
            (const char *const[]){"total-conns=20", "when-full=busy", "retry-after=7..11", NULL});
    assert_int_equal(crowd_count(&crowd, CLIENT_ENDED), CLIENTS - CEILING);
    for (size_t i = 0; i < crowd.count; i++)
        if (crowd.client[i].state == CLIENT_ENDED)
            drawn |= 1U << assert_busy_answer(crowd.client[i].answer);
    assert_int_equal(drawn, 0x1fU << 7); /* every value of the range was drawn */
    assert_true(total_becomes(&server, "shed_busy", CLIENTS - CEILING, 60000));
    finish(&server, &crowd);
}

static void answers_text(void **state)
{
    const struct recipe *recipe = *state;
    struct server server;
    struct crowd crowd;

    if (!recipe_available(recipe))
        skip();
    overrun(recipe, &server, &crowd,
            (const char *const[]){"total-conns=20", "when-full=busy",
                                  "busy=text:-BUSY come back later\\r\\n", NULL});
    assert_int_equal(crowd_count(&crowd, CLIENT_ENDED), CLIENTS - CEILING);
    for (size_t i = 0; i < crowd.count; i++)
        if (crowd.client[i].state == CLIENT_ENDED)
            assert_string_equal(crowd.client[i].answer, SORRY);
    finish(&server, &crowd);
}

static void resets(void **state)
{
    const struct recipe *recipe = *state;
    struct server server;
    struct crowd crowd;

    if (!recipe_available(recipe))
        skip();
    overrun(recipe, &server, &crowd,
            (const char *const[]){"total-conns=20", "when-full=reset", NULL});
    assert_int_equal(crowd_count(&crowd, CLIENT_RESET), CLIENTS - CEILING);
    assert_true(total_becomes(&server, "shed_reset", CLIENTS - CEILING, 60000));
    finish(&server, &crowd);
}

/* A failed assertion jumps out of the test: what it started ends here. */
static int clean_up(void **state)
{
    struct server server = {.directory = ""};
    (void)state;
    server_stop(&server);
    return 0;
}

static void add(struct suite *suite, const char *what, CMUnitTestFunction function,
                const struct recipe *recipe)
{
    static char names[SUITE_MOST][64];
    char *name = names[suite->count % SUITE_MOST];
    snprintf(name, sizeof names[0], "%s %s", recipe->name, what);
    suite_add(suite, name, function, clean_up, recipe);
}

int main(int argc, char **argv)
{
    struct suite suite = {.name = "refuse"};
    suite_choose(argc, argv);
    for (size_t i = 0; i < recipes_count; i++) {
        if (recipes[i].http)
            add(&suite, "answers 503", answers_503, &recipes[i]);
        else
            add(&suite, "answers a text", answers_text, &recipes[i]);
        add(&suite, "resets", resets, &recipes[i]);
    }
    return suite_run(&suite, NULL, NULL);
}
