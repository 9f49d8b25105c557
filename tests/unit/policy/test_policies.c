/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The policies, each a function of its state, its input and a clock that the test moves.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "policy/auto_limit.h"
#include "policy/patience.h"
#include "policy/queue_delay.h"
#include "policy/retry_schedule.h"
#include "policy/token_bucket.h"

#define MILLISECOND UINT64_C(1000000)
#define SECOND (1000 * MILLISECOND)
#define START (1000 * SECOND)

/* --- token bucket --- */

static void a_token_is_waited_for_as_long_as_the_burst_leaves(void **state)
{
    static const struct {
        uint64_t period, burst, next, now, wait;
    } cases[] = {
        {10, 1, 0, 100, 0},   {10, 1, 100, 100, 0},  {10, 1, 105, 100, 5},
        {10, 0, 105, 100, 5}, {10, 2, 110, 100, 0},  {10, 2, 111, 100, 1},
        {10, 5, 140, 100, 0}, {10, 5, 150, 100, 10}, {0, 1, 100, 100, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(token_bucket_wait((struct token_bucket){cases[i].period, cases[i].burst},
                                           cases[i].next, cases[i].now),
                         cases[i].wait);
}

static unsigned taken(struct token_bucket bucket, _Atomic uint64_t *word, uint64_t now)
{
    unsigned count = 0;
    while (count < 1000 && token_bucket_take(bucket, word, now))
        count++;
    return count;
}

static void tokens_come_at_the_rate_and_at_most_a_burst_at_once(void **state)
{
    struct token_bucket bucket = {.period_ns = 10 * MILLISECOND, .burst = 5};
    _Atomic uint64_t word = 0;
    (void)state;
    assert_int_equal(taken(bucket, &word, START), 5);
    assert_int_equal(taken(bucket, &word, START + 9 * MILLISECOND), 0);
    assert_int_equal(taken(bucket, &word, START + 10 * MILLISECOND), 1);
    assert_int_equal(taken(bucket, &word, START + 40 * MILLISECOND), 3);
    assert_int_equal(taken(bucket, &word, START + 10 * SECOND), 5);
}

static void a_token_given_back_can_be_taken_again(void **state)
{
    struct token_bucket bucket = {.period_ns = SECOND, .burst = 1};
    _Atomic uint64_t word = 0;
    (void)state;
    assert_true(token_bucket_take(bucket, &word, START));
    assert_false(token_bucket_take(bucket, &word, START));
    token_bucket_give(bucket, &word);
    assert_true(token_bucket_take(bucket, &word, START));
}

static void a_bill_adds_up_and_is_paid_by_time(void **state)
{
    _Atomic uint64_t word = 0;
    (void)state;
    token_bucket_charge(&word, 30, 100);
    token_bucket_charge(&word, 30, 100);
    assert_int_equal(word, 160);
    token_bucket_charge(&word, 5, 1000);
    assert_int_equal(word, 1005);
}

/* --- queue delay --- */

#define TARGET (50 * MILLISECOND)
#define INTERVAL (500 * MILLISECOND)
#define LATE (60 * MILLISECOND)

struct queue {
    struct segment_queue state;
    struct queue_depth depth;
    uint64_t now;
    unsigned asked;
};

static struct queue_depth depth_of(void *context)
{
    struct queue *queue = context;
    queue->asked++;
    return queue->depth;
}

static struct queue calm_queue(uint32_t waiting)
{
    return (struct queue){.depth = {waiting, 128}, .now = START};
}

static bool sheds(struct queue *queue, uint64_t waited_ns)
{
    struct queue_look look = {.depth = depth_of, .context = queue, .tells = true};
    return queue_delay_sheds(&queue->state, (struct queue_client){waited_ns, false}, TARGET, look,
                             queue->now);
}

/* Everybody is late for `ns`, one each millisecond; how many were shed. */
static unsigned shed_while_late(struct queue *queue, uint64_t ns)
{
    unsigned count = 0;
    for (uint64_t end = queue->now + ns; queue->now < end; queue->now += MILLISECOND)
        count += sheds(queue, LATE);
    return count;
}

static void short_waits_are_served_and_nobody_is_asked(void **state)
{
    struct queue queue = calm_queue(1000);
    (void)state;
    for (int i = 0; i < 1000; i++, queue.now += MILLISECOND)
        assert_false(sheds(&queue, TARGET - 1));
    assert_int_equal(queue.asked, 0);
}

static void a_burst_is_served_late(void **state)
{
    struct queue queue = calm_queue(20);
    (void)state;
    assert_int_equal(shed_while_late(&queue, 2 * INTERVAL - MILLISECOND), 0);
    assert_false(sheds(&queue, 0)); /* worked off: what comes next begins anew */
    queue.now += SECOND;
    assert_int_equal(shed_while_late(&queue, 2 * INTERVAL - MILLISECOND), 0);
}

static void a_queue_stands_after_two_intervals(void **state)
{
    struct queue queue = calm_queue(20);
    (void)state;
    assert_int_equal(shed_while_late(&queue, 2 * INTERVAL), 0);
    assert_int_equal(shed_while_late(&queue, 10 * MILLISECOND), 10);
}

static void a_queue_that_is_worked_off_has_another_two_intervals(void **state)
{
    struct queue queue = calm_queue(100);
    (void)state;
    shed_while_late(&queue, 2 * INTERVAL);
    queue.depth.waiting = 75;
    assert_false(sheds(&queue, LATE));
    queue.depth.waiting = 74; /* not a quarter less than 75 */
    assert_int_equal(shed_while_late(&queue, 2 * INTERVAL), 0);
    assert_true(sheds(&queue, LATE));
}

static void a_queue_that_goes_on_growing_is_a_flood(void **state)
{
    struct queue queue = calm_queue(20);
    unsigned steps = 0;
    (void)state;
    assert_false(sheds(&queue, LATE));
    do {
        queue.now += MILLISECOND;
        queue.depth.waiting += 4;
        steps++;
    } while (!sheds(&queue, LATE) && steps < 100);
    assert_int_equal(steps, 4);
}

static void growth_that_falls_back_is_none(void **state)
{
    struct queue queue = calm_queue(20);
    (void)state;
    for (unsigned i = 0; i < 100; i++, queue.now += MILLISECOND) {
        queue.depth.waiting = 20 + i % 4 * 4;
        assert_false(sheds(&queue, LATE));
    }
}

static void a_queue_that_doubled_or_is_full_stands(void **state)
{
    static const uint32_t becomes[] = {64, 128};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct queue queue = calm_queue(32);
        assert_false(sheds(&queue, LATE));
        queue.depth.waiting = becomes[i];
        queue.now += MILLISECOND;
        assert_false(sheds(&queue, LATE)); /* just late: no proof */
        queue.now += TARGET + MILLISECOND;
        assert_true(sheds(&queue, LATE));
    }
}

static struct queue standing_queue(void)
{
    struct queue queue = calm_queue(20);
    shed_while_late(&queue, 2 * INTERVAL + 10 * MILLISECOND);
    return queue;
}

static void while_it_stands_a_quarter_of_the_time_is_the_programs(void **state)
{
    struct queue queue = standing_queue();
    (void)state;
    assert_true(sheds(&queue, TARGET * 3 / 4));
    assert_false(sheds(&queue, TARGET * 3 / 4 - MILLISECOND));
}

static void while_it_stands_who_has_given_up_is_not_served(void **state)
{
    struct queue queue = standing_queue();
    struct queue_look look = {.depth = depth_of, .context = &queue, .tells = true};
    struct queue_client gone = {.waited_ns = MILLISECOND, .closed = true};
    (void)state;
    assert_true(queue_delay_sheds(&queue.state, gone, TARGET, look, queue.now));
    queue.now += INTERVAL + MILLISECOND;
    assert_false(queue_delay_sheds(&queue.state, gone, TARGET, look, queue.now));
}

static void it_stands_no_longer_when_nobody_was_late_for_an_interval(void **state)
{
    struct queue queue = standing_queue();
    (void)state;
    for (uint64_t end = queue.now + INTERVAL; queue.now < end; queue.now += MILLISECOND)
        assert_false(sheds(&queue, MILLISECOND));
    assert_int_equal(shed_while_late(&queue, 100 * MILLISECOND), 0);
}

/* Each millisecond `begun` begin and `turned_away` are turned away, for `ns`. */
static void come(struct queue *queue, unsigned begun, unsigned turned_away, uint64_t ns)
{
    for (uint64_t end = queue->now + ns; queue->now < end; queue->now += MILLISECOND) {
        for (unsigned i = 0; i < begun; i++)
            queue_delay_counts(&queue->state, false, TARGET, queue->now);
        for (unsigned i = 0; i < turned_away; i++)
            queue_delay_counts(&queue->state, true, TARGET, queue->now);
    }
}

static bool stands(const struct queue *queue)
{
    return atomic_load(&queue->state.standing_until_ns) > queue->now;
}

static void it_goes_on_standing_while_many_are_turned_away(void **state)
{
    struct queue queue = calm_queue(100);
    (void)state;
    shed_while_late(&queue, 3 * INTERVAL);
    assert_true(stands(&queue));
    come(&queue, 1, 9, 20 * INTERVAL);
    assert_true(stands(&queue));
    come(&queue, 9, 1, 2 * INTERVAL);
    assert_false(stands(&queue));
}

static void who_is_turned_away_does_not_make_it_stand(void **state)
{
    struct queue queue = calm_queue(100);
    (void)state;
    come(&queue, 1, 9, 20 * INTERVAL);
    assert_false(stands(&queue));
}

/* --- patience --- */

static void while_nobody_gives_up_everybody_is_fresh(void **state)
{
    struct segment_patience patience = {0};
    (void)state;
    assert_true(patience_fresh(&patience, START) == UINT64_MAX);
}

static void fresh_is_three_quarters_of_what_others_waited(void **state)
{
    struct segment_patience patience = {0};
    (void)state;
    for (int i = 0; i < 100; i++)
        patience_gave_up(&patience, 1000 * MILLISECOND, START);
    assert_true(patience_fresh(&patience, START) == 750 * MILLISECOND);
    for (int i = 0; i < 100; i++)
        patience_gave_up(&patience, 200 * MILLISECOND, START);
    uint64_t fresh = patience_fresh(&patience, START);
    assert_true(fresh >= 150 * MILLISECOND && fresh < 151 * MILLISECOND);
}

static void impatience_is_forgotten_after_ten_seconds(void **state)
{
    struct segment_patience patience = {0};
    (void)state;
    patience_gave_up(&patience, 1000 * MILLISECOND, START);
    assert_true(patience_fresh(&patience, START + 9999 * MILLISECOND) < UINT64_MAX);
    assert_true(patience_fresh(&patience, START + 10000 * MILLISECOND) == UINT64_MAX);
}

static void one_place_in_eight_is_the_eldests(void **state)
{
    struct segment_patience patience = {0};
    unsigned eldest = 0;
    (void)state;
    for (int i = 0; i < 800; i++)
        eldest += patience_of_eldest(&patience);
    assert_int_equal(eldest, 100);
}

/* --- the ceiling that finds itself --- */

/* A server that answers `workers` requests at once, in `service_ns` each; whoever is inside beyond
 * that waits for the others. Its clients fill whatever room there is, up to `clients`. */
struct server {
    struct segment_concurrency found;
    uint64_t limit, workers, service_ns, clients, now;
    uint64_t least_seen, most_seen;
};

static struct server server_with(uint64_t workers, uint64_t limit)
{
    return (struct server){.limit = limit,
                           .workers = workers,
                           .service_ns = 4 * MILLISECOND,
                           .clients = 100000,
                           .now = START,
                           .least_seen = UINT64_MAX};
}

static uint64_t ceiling_of(struct server *server)
{
    return segment_ceiling(server->limit, &server->found);
}

static void run_for(struct server *server, uint64_t ns)
{
    for (uint64_t end = server->now + ns; server->now < end;) {
        uint64_t ceiling = ceiling_of(server);
        uint64_t inside = ceiling < server->clients ? ceiling : server->clients;
        uint64_t at_work = inside < server->workers ? inside : server->workers;
        server->least_seen = ceiling < server->least_seen ? ceiling : server->least_seen;
        server->most_seen = ceiling > server->most_seen ? ceiling : server->most_seen;
        server->now += server->service_ns / at_work;
        auto_limit_answered(&server->found, server->limit,
                            (struct auto_limit_answer){
                                .inside = (uint32_t)inside,
                                .sojourn_ns = server->service_ns * inside / at_work,
                            },
                            server->now);
    }
}

/* Where it stays outside of probes, over the next minute. */
static uint64_t settled(struct server *server)
{
    uint64_t sum = 0;
    for (int i = 0; i < 60; i++) {
        run_for(server, SECOND);
        sum += server->found.probing ? server->found.ceiling_before : ceiling_of(server);
    }
    return sum / 60;
}

static void the_ceiling_comes_near_what_the_server_does_at_once(void **state)
{
    static const uint64_t workers[] = {1, 4, 32, 200};
    (void)state;
    for (size_t i = 0; i < sizeof workers / sizeof *workers; i++) {
        struct server server = server_with(workers[i], LIMIT_AUTO(2, 60000));
        run_for(&server, 60 * SECOND);
        uint64_t ceiling = settled(&server);
        assert_in_range(ceiling, workers[i], workers[i] * 2 + 8);
    }
}

static void it_follows_a_server_that_becomes_slower_and_faster(void **state)
{
    struct server server = server_with(32, LIMIT_AUTO(2, 60000));
    (void)state;
    run_for(&server, 60 * SECOND);
    server.workers = 4;
    run_for(&server, 60 * SECOND);
    assert_in_range(settled(&server), 4, 16);
    server.workers = 32;
    run_for(&server, 60 * SECOND);
    assert_in_range(settled(&server), 32, 72);
}

static void it_stays_within_its_bounds(void **state)
{
    static const uint64_t bounds[][2] = {{2, 6}, {50, 100}, {7, 7}};
    (void)state;
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++) {
        struct server server = server_with(20, LIMIT_AUTO(bounds[i][0], bounds[i][1]));
        run_for(&server, 120 * SECOND);
        assert_true(server.least_seen >= bounds[i][0]);
        assert_true(server.most_seen <= bounds[i][1]);
    }
}

static void while_it_is_not_reached_it_stays(void **state)
{
    struct server server = server_with(32, LIMIT_AUTO(2, 60000));
    (void)state;
    server.clients = 3;
    run_for(&server, 60 * SECOND);
    assert_int_equal(ceiling_of(&server), CONCURRENCY_FIRST);
    assert_int_equal(server.found.verdict, CONCURRENCY_UNUSED);
}

static void answers_that_nobody_measured_move_nothing(void **state)
{
    struct segment_concurrency found = {0};
    (void)state;
    for (int i = 0; i < 10000; i++) {
        struct auto_limit_change change =
            auto_limit_answered(&found, LIMIT_AUTO(2, 60000), (struct auto_limit_answer){16, 0},
                                START + (uint64_t)i * MILLISECOND);
        assert_false(change.raised || change.worth_telling);
    }
    assert_int_equal(found.ceiling, 0);
}

/* --- trying again --- */

static uint64_t draw_all(uint64_t most)
{
    return most;
}

static uint64_t draw_nothing(uint64_t most)
{
    (void)most;
    return 0;
}

static void waits_double_up_to_the_cap(void **state)
{
    static const struct {
        uint64_t base, cap;
        uint32_t retry;
        uint64_t wait;
    } cases[] = {
        {100, 10000, 0, 100},    {100, 10000, 1, 200},
        {100, 10000, 6, 6400},   {100, 10000, 7, 10000},
        {100, 10000, 63, 10000}, {100, 10000, UINT32_MAX, 10000},
        {100, 100, 5, 100},      {1, UINT32_MAX, 31, UINT64_C(1) << 31},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(retry_longest(cases[i].base, cases[i].cap, cases[i].retry), cases[i].wait);
}

static void jitter_draws_from_where_it_says(void **state)
{
    (void)state;
    assert_int_equal(retry_jittered(1001, JITTER_NONE, draw_nothing), 1001);
    assert_int_equal(retry_jittered(1001, JITTER_EQUAL, draw_nothing), 500);
    assert_int_equal(retry_jittered(1001, JITTER_EQUAL, draw_all), 1001);
    assert_int_equal(retry_jittered(1001, JITTER_FULL, draw_nothing), 0);
    assert_int_equal(retry_jittered(1001, JITTER_FULL, draw_all), 1001);
}

static unsigned retries_left(struct retry_budget *budget, uint64_t second, uint64_t thousandths,
                             uint64_t each)
{
    unsigned count = 0;
    while (count < 1000 && retry_budget_take(budget, second, thousandths, each))
        count++;
    return count;
}

static void a_budget_is_ten_or_what_one_connect_may_and_a_share_of_connects(void **state)
{
    static const struct {
        unsigned connects;
        uint64_t thousandths, each;
        unsigned retries;
    } cases[] = {
        {0, 100, 3, 10}, {0, 100, LIMIT_OFF, 10}, {0, 100, 25, 25},        {50, 100, 3, 15},
        {50, 0, 3, 10},  {50, 1000, 3, 60},       {0, LIMIT_OFF, 3, 1000},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct retry_budget budget = {0};
        for (unsigned j = 0; j < cases[i].connects; j++)
            retry_budget_connects(&budget, 500);
        assert_int_equal(retries_left(&budget, 500, cases[i].thousandths, cases[i].each),
                         cases[i].retries);
    }
}

static void what_is_ten_seconds_old_is_forgotten(void **state)
{
    struct retry_budget budget = {0};
    (void)state;
    assert_int_equal(retries_left(&budget, 500, 100, 3), 10);
    assert_int_equal(retries_left(&budget, 509, 100, 3), 0);
    assert_int_equal(retries_left(&budget, 510, 100, 3), 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_token_is_waited_for_as_long_as_the_burst_leaves),
        cmocka_unit_test(tokens_come_at_the_rate_and_at_most_a_burst_at_once),
        cmocka_unit_test(a_token_given_back_can_be_taken_again),
        cmocka_unit_test(a_bill_adds_up_and_is_paid_by_time),
        cmocka_unit_test(short_waits_are_served_and_nobody_is_asked),
        cmocka_unit_test(a_burst_is_served_late),
        cmocka_unit_test(a_queue_stands_after_two_intervals),
        cmocka_unit_test(a_queue_that_is_worked_off_has_another_two_intervals),
        cmocka_unit_test(a_queue_that_goes_on_growing_is_a_flood),
        cmocka_unit_test(growth_that_falls_back_is_none),
        cmocka_unit_test(a_queue_that_doubled_or_is_full_stands),
        cmocka_unit_test(while_it_stands_a_quarter_of_the_time_is_the_programs),
        cmocka_unit_test(while_it_stands_who_has_given_up_is_not_served),
        cmocka_unit_test(it_stands_no_longer_when_nobody_was_late_for_an_interval),
        cmocka_unit_test(it_goes_on_standing_while_many_are_turned_away),
        cmocka_unit_test(who_is_turned_away_does_not_make_it_stand),
        cmocka_unit_test(while_nobody_gives_up_everybody_is_fresh),
        cmocka_unit_test(fresh_is_three_quarters_of_what_others_waited),
        cmocka_unit_test(impatience_is_forgotten_after_ten_seconds),
        cmocka_unit_test(one_place_in_eight_is_the_eldests),
        cmocka_unit_test(the_ceiling_comes_near_what_the_server_does_at_once),
        cmocka_unit_test(it_follows_a_server_that_becomes_slower_and_faster),
        cmocka_unit_test(it_stays_within_its_bounds),
        cmocka_unit_test(while_it_is_not_reached_it_stays),
        cmocka_unit_test(answers_that_nobody_measured_move_nothing),
        cmocka_unit_test(waits_double_up_to_the_cap),
        cmocka_unit_test(jitter_draws_from_where_it_says),
        cmocka_unit_test(a_budget_is_ten_or_what_one_connect_may_and_a_share_of_connects),
        cmocka_unit_test(what_is_ten_seconds_old_is_forgotten),
    };
    return cmocka_run_group_tests_name("policies", tests, NULL, NULL);
}
