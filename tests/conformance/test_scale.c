/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What an accept and a close cost with ten thousand connections open, against a hundred: the same.
 * Processor time of this thread, compared within one run; run bare it shows the kernel's own share.
 */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define WANTED 10000
#define FEW 100
#define ROUNDS 9
#define PAIRS 300
#define MOST_GROWTH 2.0

static int listener;
static struct sockaddr_in address;
static int *clients, *servers;
static size_t opened;

static double processor_time(void)
{
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static void open_up_to(size_t count)
{
    for (; opened < count; opened++) {
        clients[opened] = socket(AF_INET, SOCK_STREAM, 0);
        assert_int_equal(connect(clients[opened], (struct sockaddr *)&address, sizeof address), 0);
        servers[opened] = accept(listener, NULL, NULL);
        assert_true(servers[opened] >= 0);
    }
}

static int compare(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

/* Microseconds for one accept and one close, the median of several rounds. */
static double cost(void)
{
    double rounds[ROUNDS];
    for (size_t round = 0; round < ROUNDS; round++) {
        double spent = 0;
        for (size_t pair = 0; pair < PAIRS; pair++) {
            int client = socket(AF_INET, SOCK_STREAM, 0);
            assert_int_equal(connect(client, (struct sockaddr *)&address, sizeof address), 0);
            double before = processor_time();
            int server = accept(listener, NULL, NULL);
            close(server);
            spent += processor_time() - before;
            assert_true(server >= 0);
            struct linger hard = {1, 0};
            setsockopt(client, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
            close(client);
        }
        rounds[round] = spent / PAIRS;
    }
    qsort(rounds, ROUNDS, sizeof *rounds, compare);
    return rounds[ROUNDS / 2];
}

static void cost_stays_flat(void **state)
{
    struct rlimit limit;
    socklen_t length = sizeof address;
    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    getrlimit(RLIMIT_NOFILE, &limit);
    size_t many = limit.rlim_cur > 2 * WANTED + 200 ? WANTED : (size_t)limit.rlim_cur / 2 - 100;
    clients = calloc(many, sizeof *clients);
    servers = calloc(many, sizeof *servers);
    address =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(listener, 128), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &length), 0);
    open_up_to(FEW);
    double with_few = cost();
    open_up_to(many);
    double with_many = cost();
    printf("# accept + close: %.2f us with %d open, %.2f us with %zu open: ratio %.2f\n", with_few,
           FEW, with_many, many, with_many / with_few);
    assert_true(with_many <= with_few * MOST_GROWTH);
    double before = processor_time();
    for (size_t i = 0; i < opened; i++)
        close(servers[i]);
    printf("# closing all %zu: %.2f us each\n", opened,
           (processor_time() - before) / (double)opened);
    for (size_t i = 0; i < opened; i++)
        close(clients[i]);
    close(listener);
    free(clients);
    free(servers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(cost_stays_flat)};
    return cmocka_run_group_tests_name(
        getenv("BACKPRESSURE") ? "scale under the shim" : "scale, bare", tests, NULL, NULL);
}
