/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The eBPF probe: depths agree with `ss`, waits and drops are what happened, and however it ends,
 * nothing is left. Where the probe cannot be loaded (no root, no BTF) that is said, and what
 * sock_diag tells is tested alone.
 */
#include "../base/suite.h"
#include "crowd.h"
#include "readers.h"
#include "recipes.h"

#include <fcntl.h>
#include <jansson.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define COMMAND(...) ((const char *const[]){__VA_ARGS__, NULL})
/* The probe takes a two-hundredth of a core at most, so a slow machine is looked at seldom. */
#define WITHIN_SECONDS 90
#define STOPPED_MS 300
#define PINS "/sys/fs/bpf/backpressure"

static struct server server;
static struct readers readers;
static char output[1 << 20];
static bool loaded;

static int run_bpctl(const char *const *words)
{
    struct server nobody = {.user = NULL};
    return bpctl(&nobody, output, sizeof output, words);
}

static void nap_ms(unsigned milliseconds)
{
    struct timespec pause = {.tv_sec = milliseconds / 1000,
                             .tv_nsec = (long)(milliseconds % 1000) * 1000000};
    nanosleep(&pause, NULL);
}

/* The sum of a figure over all processes (or the most of any) whose address ends in the port. */
static long figure(uint16_t port, const char *name, bool most)
{
    char end[16];
    long result = -1;
    snprintf(end, sizeof end, ":%u", port);
    assert_int_equal(run_bpctl(COMMAND("depth", "--json")), 0);
    json_t *report = json_loads(output, 0, NULL), *queue;
    size_t i;
    assert_non_null(report);
    assert_string_equal(json_string_value(json_object_get(report, "source")),
                        loaded ? "probe" : "sock_diag");
    json_array_foreach(json_object_get(report, "queues"), i, queue)
    {
        const char *address = json_string_value(json_object_get(queue, "address"));
        size_t length = strlen(address), tail = strlen(end);
        if (length < tail || strcmp(address + length - tail, end) != 0)
            continue;
        long value = (long)json_integer_value(json_object_get(queue, name));
        result = result < 0 ? value : most ? (value > result ? value : result) : result + value;
    }
    json_decref(report);
    return result;
}

static void assert_figure_becomes(uint16_t port, const char *name, bool most, long wanted)
{
    double deadline = seconds_now() + WITHIN_SECONDS;
    while (figure(port, name, most) != wanted && seconds_now() < deadline)
        nap_ms(20);
    if (figure(port, name, most) != wanted)
        fprintf(stderr, "%s: %s\n", name, output);
    assert_int_equal(figure(port, name, most), wanted);
}

static void assert_figure_reaches(uint16_t port, const char *name, bool most, long least)
{
    double deadline = seconds_now() + WITHIN_SECONDS;
    while (figure(port, name, most) < least && seconds_now() < deadline)
        nap_ms(20);
    assert_true(figure(port, name, most) >= least);
}

static void needs_the_probe(void)
{
    if (!loaded)
        skip();
}

/* --- depths --- */

static int listen_at(int backlog, uint16_t *port)
{
    struct sockaddr_in address = loopback(0);
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, backlog), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    *port = ntohs(address.sin_port);
    return fd;
}

static void full_queue_and_drops_are_counted(void **state)
{
    enum { BACKLOG = 5, FIT = BACKLOG + 1, BEYOND = 7 };
    int client[FIT + BEYOND];
    uint16_t port;
    (void)state;
    int listener = listen_at(BACKLOG, &port);
    assert_figure_becomes(port, "accept_queue_limit", true, BACKLOG);
    struct sockaddr_in address = loopback(port);
    for (int i = 0; i < FIT + BEYOND; i++) {
        client[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        connect(client[i], (struct sockaddr *)&address, sizeof address);
    }
    assert_figure_becomes(port, "accept_queue", true, FIT);
    if (loaded) /* TCP tries again after a second, and is dropped again */
        assert_figure_reaches(port, "dropped_queue_full", true, BEYOND);
    if (loaded)
        assert_figure_becomes(port, "accept_queue_peak", true, FIT);
    for (int i = 0; i < FIT + BEYOND; i++)
        close(client[i]);
    close(listener);
    if (loaded)
        assert_figure_becomes(port, "accept_queue", true, -1); /* the entry went with it */
}

static void connections_and_send_queues_agree_with_ss(void **state)
{
    static uint8_t object[4 << 20];
    struct expected expected = {object, sizeof object, 1, true};
    unsigned sockets;
    (void)state;
    if (!recipe_available(recipe_named("lighttpd")))
        skip();
    assert_true(recipe_start(recipe_named("lighttpd"), &server, NULL));
    char path[PATH_LENGTH * 2];
    snprintf(path, sizeof path, "%s/big", server.directory);
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    pattern_fill(object, sizeof object);
    assert_int_equal(fwrite(object, 1, sizeof object, file), sizeof object);
    fclose(file);
    readers_start(&readers, 10, server.port, "GET /big HTTP/1.1\r\nHost: a\r\n\r\n", 1, &expected);
    uint64_t before = 1, now = 0;
    for (double deadline = seconds_now() + WITHIN_SECONDS;
         (before != now || now == 0) && seconds_now() < deadline; nap_ms(200)) {
        readers_step(&readers, false, 20);
        before = now;
        now = queued_by_ss(server.port, &sockets);
    }
    assert_figure_becomes(server.port, "connections", false, sockets);
    assert_figure_becomes(server.port, "send_queue_bytes", false, (long)now);
    if (loaded)
        assert_true(figure(server.port, "send_queue_peak", false) >= (long)now);
    assert_true(readers_read_all(&readers, 30));
    assert_figure_becomes(server.port, "send_queue_bytes", false, 0);
}

static void wait_of_a_stopped_server_is_measured(void **state)
{
    struct crowd crowd;
    const struct recipe *redis = recipe_named("redis");
    (void)state;
    needs_the_probe();
    if (!recipe_available(redis))
        skip();
    assert_true(recipe_start(redis, &server, COMMAND("conns=1000")));
    assert_figure_becomes(server.port, "accept_queue_limit", true, 511);
    kill(server.pid, SIGSTOP);
    struct sockaddr_in address = loopback(server.port);
    crowd_start(&crowd, 20, (struct sockaddr *)&address, sizeof address, NULL, 0, redis->request,
                redis->request_length);
    double started = seconds_now();
    crowd_until(&crowd, CLIENT_WAITING, 20, STOPPED_MS);
    while (seconds_now() < started + STOPPED_MS / 1000.0)
        crowd_step(&crowd, 10);
    assert_figure_becomes(server.port, "accept_queue", true, 20);
    kill(server.pid, SIGCONT);
    assert_true(crowd_until(&crowd, CLIENT_SERVED, 20, WITHIN_SECONDS * 1000));
    double stood = seconds_now() - started;
    assert_figure_becomes(server.port, "accept_queue", true, 0);
    long longest = figure(server.port, "accept_wait_max_us", true);
    long p50 = figure(server.port, "accept_wait_p50_us", true);
    printf("# stopped for %.0f ms: the probe has p50 %ld us, at most %ld us\n", stood * 1000, p50,
           longest);
    assert_true(longest >= STOPPED_MS * 1000 * 9 / 10);
    assert_true(p50 >= STOPPED_MS * 1000 * 8 / 10 && p50 <= (long)(stood * 1.3e6));
    assert_true(figure(server.port, "accept_queue_peak", true) >= 20);
    /* And the segment has it, for bpctl show without privilege. */
    assert_int_equal(run_bpctl(COMMAND("show", server.name, "--json")), 0);
    assert_non_null(strstr(output, "accept_wait_p99_us"));
    crowd_end(&crowd);
}

static void gate_is_told_apart_from_a_full_queue(void **state)
{
    int client[5];
    (void)state;
    needs_the_probe();
    if (!recipe_available(recipe_named("redis")))
        skip();
    assert_true(recipe_start(recipe_named("redis"), &server, COMMAND("conns=1000")));
    assert_figure_becomes(server.port, "accept_queue_limit", true, 511);
    nap_ms(250); /* two walks: the programs know the listener from the first */
    assert_int_equal(run_bpctl(COMMAND("pause", server.name)), 0);
    struct sockaddr_in address = loopback(server.port);
    for (int i = 0; i < 5; i++) {
        client[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        connect(client[i], (struct sockaddr *)&address, sizeof address);
    }
    assert_figure_becomes(server.port, "refused_by_gate", true, 5);
    assert_int_equal(figure(server.port, "dropped_queue_full", true), 0);
    assert_int_equal(run_bpctl(COMMAND("resume", server.name)), 0);
    for (int i = 0; i < 5; i++)
        close(client[i]);
}

static void depth_of_one_service_leaves_others_out(void **state)
{
    uint16_t other;
    char end[16];
    (void)state;
    if (!recipe_available(recipe_named("redis")))
        skip();
    int listener = listen_at(5, &other);
    assert_true(recipe_start(recipe_named("redis"), &server, COMMAND("conns=1000")));
    assert_figure_becomes(server.port, "accept_queue", true, 0);
    assert_int_equal(run_bpctl(COMMAND("depth", server.name)), 0);
    snprintf(end, sizeof end, ":%u ", server.port);
    assert_non_null(strstr(output, end));
    snprintf(end, sizeof end, ":%u ", other);
    assert_null(strstr(output, end));
    assert_int_equal(run_bpctl(COMMAND("depth", "no-such-service")), 1);
    close(listener);
}

/* --- its life --- */

static void bpftool_reads_it_like_a_report(void **state)
{
    static char text[1 << 20];
    uint16_t port;
    (void)state;
    needs_the_probe();
    int listener = listen_at(7, &port);
    assert_figure_becomes(port, "accept_queue_limit", true, 7);
    FILE *pipe = popen("bpftool map dump pinned " PINS "/depth", "re");
    assert_non_null(pipe);
    text[fread(text, 1, sizeof text - 1, pipe)] = '\0';
    pclose(pipe);
    assert_non_null(strstr(text, "\"accept_queue_limit\": 7"));
    assert_non_null(strstr(text, "\"address\": \"127.0.0.1\""));
    assert_null(strstr(text, "pad"));
    FILE *table = fopen(PINS "/sockets", "re");
    assert_non_null(table);
    assert_non_null(fgets(text, sizeof text, table));
    assert_non_null(strstr(text, "PROCESS COMMAND"));
    size_t width = strlen(text);
    for (bool found = false; !found;) {
        char number[16];
        snprintf(number, sizeof number, " %u ", port);
        assert_non_null(fgets(text, sizeof text, table));
        assert_true(strlen(text) >= width);
        found = strstr(text, number) != NULL;
    }
    fclose(table);
    close(listener);
}

static void loading_twice_is_refused_in_one_line(void **state)
{
    (void)state;
    needs_the_probe();
    assert_int_equal(run_bpctl(COMMAND("probe", "start")), 1);
    assert_non_null(strstr(output, "runs already"));
    assert_ptr_equal(strchr(output, '\n'), output + strlen(output) - 1);
    assert_int_equal(run_bpctl(COMMAND("probe", "status")), 0);
    assert_int_equal(run_bpctl(COMMAND("probe")), 2);
    assert_int_equal(run_bpctl(COMMAND("probe", "dance")), 2);
}

static void assert_pins_go(void)
{
    double deadline = seconds_now() + WITHIN_SECONDS;
    while (access(PINS, F_OK) == 0 && seconds_now() < deadline)
        nap_ms(10);
    assert_int_not_equal(access(PINS, F_OK), 0);
}

static void killed_feeder_leaves_nothing(void **state)
{
    int feeder = 0;
    (void)state;
    needs_the_probe();
    assert_int_equal(run_bpctl(COMMAND("probe", "status")), 0);
    const char *number = strstr(output, "process ");
    assert_non_null(number);
    assert_int_equal(sscanf(number, "process %d", &feeder), 1);
    kill(feeder, SIGKILL);
    assert_pins_go();
    assert_int_equal(run_bpctl(COMMAND("probe", "status")), 1);
    assert_int_equal(run_bpctl(COMMAND("probe", "start")), 0);
}

static void stale_pin_is_replaced(void **state)
{
    (void)state;
    needs_the_probe();
    assert_int_equal(run_bpctl(COMMAND("probe", "stop")), 0);
    assert_int_equal(system("mkdir -p " PINS " && bpftool map create " PINS
                            "/depth type hash key 4 value 8 entries 4 name depth"),
                     0);
    assert_int_equal(run_bpctl(COMMAND("depth", "--json")), 0);
    assert_non_null(strstr(output, "sock_diag")); /* another version's map is none of ours */
    assert_int_equal(run_bpctl(COMMAND("probe", "start")), 0);
    assert_non_null(strstr(output, "replaced"));
    assert_int_equal(run_bpctl(COMMAND("depth", "--json")), 0);
    json_t *report = json_loads(output, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(report, "source")), "probe");
    json_decref(report);
}

/* A mount namespace of its own, in which something is not there. */
static int in_namespace(const char *script)
{
    char command[2048];
    const char *build = getenv("BUILD");
    snprintf(command, sizeof command, "unshare -m sh -c '%s' 2>&1", script);
    char program[PATH_LENGTH];
    snprintf(program, sizeof program, "%s/bpctl", build ? build : "build");
    setenv("BPCTL", program, 1);
    FILE *pipe = popen(command, "re");
    assert_non_null(pipe);
    output[fread(output, 1, sizeof output - 1, pipe)] = '\0';
    int status = pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void kernel_without_btf_is_told_in_a_line(void **state)
{
    (void)state;
    needs_the_probe();
    assert_int_equal(run_bpctl(COMMAND("probe", "stop")), 0);
    assert_int_equal(in_namespace("mount -t tmpfs none /sys/kernel/btf && $BPCTL probe start"), 1);
    assert_non_null(strstr(output, "BTF"));
    assert_ptr_equal(strchr(output, '\n'), output + strlen(output) - 1);
    assert_int_not_equal(access(PINS, F_OK), 0);
    assert_int_equal(run_bpctl(COMMAND("probe", "start")), 0);
}

/* Root without its capabilities stands for a kernel that refuses; setarch makes it an old one. */
static void kernel_that_refuses_is_told_in_a_line(void **state)
{
    static const char without[] =
        "setpriv --bounding-set=-bpf,-perfmon,-sys_admin $BPCTL probe start";
    char command[256];
    (void)state;
    needs_the_probe();
    assert_int_equal(run_bpctl(COMMAND("probe", "stop")), 0);
    assert_int_equal(in_namespace(without), 1);
    assert_non_null(strstr(output, "CAP_BPF"));
    assert_ptr_equal(strchr(output, '\n'), output + strlen(output) - 1);
    snprintf(command, sizeof command, "setarch --uname-2.6 %s", without);
    assert_int_equal(in_namespace(command), 1);
    assert_non_null(strstr(output, "needs Linux 5.15 or later, and this is Linux 2.6"));
    assert_ptr_equal(strchr(output, '\n'), output + strlen(output) - 1);
    assert_int_equal(run_bpctl(COMMAND("probe", "start")), 0);
}

static void bpffs_is_mounted_if_it_is_not(void **state)
{
    (void)state;
    needs_the_probe();
    assert_int_equal(run_bpctl(COMMAND("probe", "stop")), 0);
    assert_int_equal(in_namespace("umount -l /sys/fs/bpf; $BPCTL probe start && "
                                  "test -e " PINS "/depth && $BPCTL probe stop && "
                                  "test ! -e " PINS),
                     0);
    assert_int_equal(run_bpctl(COMMAND("probe", "start")), 0);
}

static void unloads_while_traffic_runs(void **state)
{
    struct crowd crowd;
    const struct recipe *redis = recipe_named("redis");
    (void)state;
    needs_the_probe();
    if (!recipe_available(redis))
        skip();
    assert_true(recipe_start(redis, &server, COMMAND("conns=1000")));
    struct sockaddr_in address = loopback(server.port);
    for (int turn = 0; turn < 6; turn++) {
        crowd_start(&crowd, 100, (struct sockaddr *)&address, sizeof address, NULL, 0,
                    redis->request, redis->request_length);
        crowd_step(&crowd, 1);
        assert_int_equal(run_bpctl(COMMAND("probe", turn % 2 ? "start" : "stop")), 0);
        assert_true(crowd_until(&crowd, CLIENT_SERVED, 100, WITHIN_SECONDS * 1000));
        crowd_end(&crowd);
    }
    assert_figure_becomes(server.port, "connections", false, 0);
    kill(server.pid, SIGTERM);
    waitpid(server.pid, NULL, 0);
}

/* Storms of short connections, and processes that come and go: what they leave goes with them. */
static void nothing_outlives_its_process(void **state)
{
    struct crowd crowd;
    const struct recipe *redis = recipe_named("redis");
    (void)state;
    needs_the_probe();
    if (!recipe_available(redis))
        skip();
    assert_true(recipe_start(redis, &server, NULL));
    uint16_t port = server.port;
    struct sockaddr_in address = loopback(port);
    assert_figure_becomes(port, "accept_queue_limit", true, 511);
    for (int turn = 0; turn < 20; turn++) {
        crowd_start(&crowd, 100, (struct sockaddr *)&address, sizeof address, NULL, 0,
                    redis->request, redis->request_length);
        assert_true(crowd_until(&crowd, CLIENT_SERVED, 100, WITHIN_SECONDS * 1000));
        crowd_end(&crowd);
    }
    double arrives = seconds_now() + WITHIN_SECONDS;
    while (figure(port, "arrived", false) < 2000 && seconds_now() < arrives)
        nap_ms(20);
    /* And one that looked whether the server was up. */
    assert_in_range(figure(port, "arrived", false), 2000, 2001);
    assert_in_range(figure(port, "accept_waits", false), 1, 2001);
    server_stop(&server);
    assert_figure_becomes(port, "connections", false, -1);
    char command[256];
    snprintf(command, sizeof command,
             "test $(bpftool map dump pinned " PINS "/accept_wait | grep -c '\"port\": %u,') = 0",
             port);
    double deadline = seconds_now() + WITHIN_SECONDS;
    int left = -1;
    while (seconds_now() < deadline && (left = system(command)) != 0)
        nap_ms(50);
    assert_int_equal(left, 0);
}

static void unix_listeners_are_seen(void **state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char wanted[160];
    int client[3];
    (void)state;
    needs_the_probe();
    snprintf(address.sun_path, sizeof address.sun_path, "/tmp/depth-%d", (int)getpid());
    unlink(address.sun_path);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(listener, 9), 0);
    for (int i = 0; i < 3; i++) {
        client[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(client[i], (struct sockaddr *)&address, sizeof address), 0);
    }
    snprintf(wanted, sizeof wanted, "unix:%s", address.sun_path);
    double deadline = seconds_now() + WITHIN_SECONDS;
    const char *found = NULL;
    unsigned queue = 0, peak = 0, limit = 0;
    while (queue != 3 && seconds_now() < deadline) {
        assert_int_equal(run_bpctl(COMMAND("depth")), 0);
        if ((found = strstr(output, wanted)))
            sscanf(found + strlen(wanted), "%u %u %u", &queue, &peak, &limit);
    }
    assert_int_equal(queue, 3);
    assert_int_equal(limit, 9);
    for (int i = 0; i < 3; i++)
        close(client[i]);
    close(listener);
    unlink(address.sun_path);
}

static void without_root_there_is_a_line_and_sock_diag(void **state)
{
    struct server nobody = {.user = "daemon"}; /* who has a group of that name */
    (void)state;
    if (geteuid() != 0)
        skip();
    assert_int_equal(bpctl(&nobody, output, sizeof output, COMMAND("probe", "start")), 1);
    assert_non_null(strstr(output, "needs root"));
    assert_int_equal(bpctl(&nobody, output, sizeof output, COMMAND("depth")), 0);
    assert_non_null(strstr(output, "(from sock_diag"));
}

static int clean_up(void **state)
{
    (void)state;
    if (readers.reader)
        readers_end(&readers);
    server_stop(&server);
    memset(&server, 0, sizeof server);
    return 0;
}

static int stop_probe(void **state)
{
    (void)state;
    if (!loaded)
        return 0;
    int status = run_bpctl(COMMAND("probe", "stop"));
    return status || access(PINS, F_OK) == 0;
}

int main(int argc, char **argv)
{
#define TEST(function) cmocka_unit_test_teardown(function, clean_up)
    const struct CMUnitTest tests[] = {
        TEST(full_queue_and_drops_are_counted),
        TEST(connections_and_send_queues_agree_with_ss),
        TEST(wait_of_a_stopped_server_is_measured),
        TEST(gate_is_told_apart_from_a_full_queue),
        TEST(depth_of_one_service_leaves_others_out),
        TEST(unix_listeners_are_seen),
        TEST(nothing_outlives_its_process),
        TEST(bpftool_reads_it_like_a_report),
        TEST(loading_twice_is_refused_in_one_line),
        /* server_stop ends every descendant: the probe must not be one. */
        cmocka_unit_test(killed_feeder_leaves_nothing),
        cmocka_unit_test(stale_pin_is_replaced),
        cmocka_unit_test(kernel_without_btf_is_told_in_a_line),
        cmocka_unit_test(kernel_that_refuses_is_told_in_a_line),
        cmocka_unit_test(bpffs_is_mounted_if_it_is_not),
        cmocka_unit_test(unloads_while_traffic_runs),
        cmocka_unit_test(without_root_there_is_a_line_and_sock_diag),
    };
    signal(SIGPIPE, SIG_IGN);
    suite_choose(argc, argv);
    loaded = run_bpctl(COMMAND("probe", "start")) == 0;
    printf("# %s", output);
    /* What a bpctl without the probe leaves untried is no fault of the kernel. */
    if (!loaded && strstr(output, "this kernel"))
        puts("# the kernel lacks what the eBPF probe needs");
    else if (!loaded && geteuid() == 0 && !strstr(output, "built without"))
        return EXIT_FAILURE; /* another probe runs, or this one ended: nothing to be skipped */
    return cmocka_run_group_tests_name("depth", tests, NULL, stop_probe);
}
