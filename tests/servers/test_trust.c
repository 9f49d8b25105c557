/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Bad input and damage: one clear line, the right exit code, and a server that goes on.
 */
#include "../base/suite.h"
#include "crowd.h"
#include "recipes.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "../../shim/segment/segment.h"

#define WITHIN_MS 60000
#define LIMITS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define BPCTL(...) bpctl(&server, output, sizeof output, (const char *const[]){__VA_ARGS__, NULL})

static struct server server;
static struct crowd crowd;
static char output[65536], segment_path[SEGMENT_PATH_MAX];

/* What others left in the user's own directory is none of these tests' business. */
static char directory[] = "/dev/shm/backpressure-trust-XXXXXX";

static const char *library(void)
{
    static char path[4096];
    const char *build = getenv("BUILD");
    char relative[256];
    snprintf(relative, sizeof relative, "%s/libbackpressure.so", build ? build : "build");
    assert_non_null(realpath(relative, path));
    return path;
}

static unsigned lines(const char *text)
{
    unsigned count = 0;
    for (; *text; text++)
        count += *text == '\n';
    return count;
}

/* Runs `command` in a shell with LD_PRELOAD set; its exit code, and all that it says. */
static int preloaded(const char *backpressure, const char *command)
{
    char line[8192];
    /* A sanitizer's runtime must come before everything else. */
    const char *runtime = getenv("SANITIZER_RUNTIME");
    setenv("GIVEN", backpressure, 1);
    snprintf(line, sizeof line, "LD_PRELOAD='%s%s%s' BACKPRESSURE=\"$GIVEN\" %s 2>&1",
             runtime ? runtime : "", runtime ? ":" : "", library(), command);
    FILE *pipe = popen(line, "r");
    size_t length = fread(output, 1, sizeof output - 1, pipe);
    output[length] = '\0';
    int status = pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void path_of_segment(const char *name)
{
    snprintf(segment_path, sizeof segment_path, "%s/%s", directory, name);
}

static void start(const char *recipe)
{
    if (!recipe_available(recipe_named(recipe)))
        skip();
    assert_true(recipe_start(recipe_named(recipe), &server, LIMITS("total-conns=5")));
    assert_true(total_becomes(&server, "conns", 0, 60000));
    path_of_segment(server.name);
}

static void come(size_t count)
{
    const struct recipe *recipe = recipe_named(server.recipe);
    struct sockaddr_in to = loopback(server.port);
    crowd_start(&crowd, count, (struct sockaddr *)&to, sizeof to, NULL, 0, recipe->request,
                recipe->request_length);
}

static int tear_down(void **state)
{
    (void)state;
    crowd_end(&crowd);
    if (segment_path[0])
        unlink(segment_path);
    segment_path[0] = '\0';
    server_stop(&server);
    memset(&server, 0, sizeof server);
    return 0;
}

static int remove_directory(void **state)
{
    char command[sizeof directory + 16];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command);
}

static void bad_environment_is_one_line_and_the_program_runs(void **state)
{
    static const struct {
        const char *given, *told;
    } cases[] = {
        {"cons=5", "cons: unknown limit; allowed: name, conns,"},
        {"conns=many", "conns=many: bad value; allowed: "},
        {"conns=-1", "conns=-1: bad value"},
        {"conns=5 conns=6", "conns"},
        {"conns", "conns"},
        {"exempt=10.0.0.0/33", "exempt=10.0.0.0/33: bad value"},
        {"when-full=maybe", "when-full=maybe: bad value; allowed: hold, busy or reset"},
        {"retry-after=9..3", "retry-after=9..3: bad value"},
        {"accept-rate=5/0", "accept-rate=5/0: bad value"},
        {"name=../../etc/passwd", "not a service name"},
        {"conns=99999999999999999999", "bad value"},
        {"'conns=5", "quote"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(preloaded(cases[i].given, "/bin/echo works"), 0);
        assert_int_equal(lines(output), 2);
        if (!strstr(output, cases[i].told))
            printf("# %s\n", output);
        assert_non_null(strstr(output, "backpressure: "));
        assert_non_null(strstr(output, cases[i].told));
        assert_non_null(strstr(output, "works\n"));
    }
}

static void strict_refuses_to_start(void **state)
{
    (void)state;
    assert_int_equal(preloaded("strict=on cons=5", "/bin/echo works"), 2);
    assert_null(strstr(output, "works"));
    path_of_segment("strict-test");
    assert_int_equal(preloaded("name=strict-test strict=on conns=5", "/bin/echo works"), 0);
    assert_string_equal(output, "works\n");
}

static void service_that_is_not_there(void **state)
{
    static const char *const commands[][4] = {
        {"show", "no-such-service"},  {"set", "no-such-service", "conns=1"},
        {"pause", "no-such-service"}, {"resume", "no-such-service"},
        {"drain", "no-such-service"}, {"events", "no-such-service"}};
    (void)state;
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        assert_int_equal(bpctl(&server, output, sizeof output, commands[i]), 1);
        assert_int_equal(lines(output), 1);
        assert_non_null(strstr(output, "no-such-service: no such service"));
    }
}

static void bad_usage_exits_with_2(void **state)
{
    static const char *const commands[][6] = {
        {"no-such-command"},
        {"show"},
        {"show", "a", "b"},
        {"show", "--no-such-option", "a"},
        {"set", "a"},
        {"set", "a/b", "conns=1"},
        {"drain", "a", "--timeout", "soon"},
        {"run"},
        {"run", "--"},
        {"run", "conns=abc", "--", "true"},
        {"run", "cons=5", "--", "true"},
        {"run", "--name", "a/b", "--", "true"},
        {"run", "-f", "/no/such/file", "--", "true"},
        {"run", "conns=5", "true"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        assert_int_equal(bpctl(&server, output, sizeof output, commands[i]), 2);
        assert_int_equal(lines(output), 1);
    }
}

static void run_reports_what_it_cannot_start(void **state)
{
    (void)state;
    assert_int_equal(BPCTL("run", "--", "/no/such/program"), 1);
    assert_int_equal(lines(output), 1);
    assert_int_equal(BPCTL("run", "--name", "own-exit", "--", "sh", "-c", "exit 7"), 7);
    path_of_segment("own-exit");
}

static void configuration_file_names_its_line(void **state)
{
    (void)state;
    server_prepare(&server, "file");
    const char *path = server_file(&server, "limits", "# a comment\n\nconns=5\nqueue=lots\n");
    assert_int_equal(BPCTL("run", "-f", path, "--", "true"), 2);
    assert_non_null(strstr(output, "limits:4: queue=lots: bad value"));
    path = server_file(&server, "limits", "# a comment\n\n  conns=5\nname=from-file\n");
    assert_int_equal(BPCTL("run", "-f", path, "conns=6", "--", "sh", "-c", "echo $BACKPRESSURE"),
                     0);
    assert_string_equal(output, "name=from-file conns=6\n");
    path_of_segment("from-file");
}

static void set_changes_all_or_nothing(void **state)
{
    (void)state;
    start("python");
    assert_int_equal(BPCTL("set", server.name, "total-conns=9", "conns=oops"), 2);
    assert_int_equal(lines(output), 1);
    assert_int_equal(BPCTL("set", server.name, "total-conns=9", "total-conns=8"), 2);
    assert_int_equal(BPCTL("show", server.name, "--json"), 0);
    json_t *shown = json_loads(output, 0, NULL);
    const char *kept =
        json_string_value(json_object_get(json_object_get(shown, "limits"), "total-conns"));
    assert_non_null(kept);
    assert_string_equal(kept, "5");
    json_decref(shown);
    char target[128];
    snprintf(target, sizeof target, "%s/1", server.name);
    assert_int_equal(BPCTL("set", target, "conns=3"), 1);
    assert_int_equal(lines(output), 1);
}

static void name_that_is_taken(void **state)
{
    (void)state;
    start("python");
    assert_int_equal(BPCTL("run", "--name", server.name, "conns=1", "--", "true"), 1);
    assert_non_null(strstr(output, "runs already"));
}

static void damage(off_t at, const void *bytes, size_t length)
{
    int fd = open(segment_path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, length, at), length);
    close(fd);
}

/* Nobody is lost, whether they were inside, waiting or come later. */
static void assert_serves_without_limits(void)
{
    assert_true(crowd_until(&crowd, CLIENT_SERVED, 5, WITHIN_MS));
    crowd_leave(&crowd);
    assert_true(crowd_until(&crowd, CLIENT_SERVED, 15, WITHIN_MS));
    crowd_end(&crowd);
    come(30);
    assert_true(crowd_until(&crowd, CLIENT_SERVED, 30, WITHIN_MS));
}

/* On stderr, which nginx makes its error log. */
static void assert_log_says(const char *what)
{
    static const char *const names[] = {"log", "error.log"};
    size_t length = 0;
    for (size_t i = 0; i < 2; i++) {
        char path[PATH_LENGTH * 2];
        snprintf(path, sizeof path, "%s/%s", server.directory, names[i]);
        FILE *file = fopen(path, "re");
        if (!file)
            continue;
        length += fread(output + length, 1, sizeof output - 1 - length, file);
        fclose(file);
    }
    output[length] = '\0';
    assert_non_null(strstr(output, what));
}

static void truncated_segment_leaves_the_server_unharmed(void **state)
{
    const char *recipe = *state;
    start(recipe);
    come(20);
    assert_true(crowd_until(&crowd, CLIENT_SERVED, 5, WITHIN_MS));
    assert_int_equal(truncate(segment_path, 4096), 0);
    assert_serves_without_limits();
    assert_log_says("backpressure: its control segment was truncated");
    assert_int_equal(BPCTL("show", server.name), 1);
    assert_int_equal(lines(output), 1);
    assert_non_null(strstr(output, "truncated or overwritten"));
}

static void overwritten_segment_leaves_the_server_unharmed(void **state)
{
    static char noise[sizeof(struct segment)];
    const char *recipe = *state;
    start(recipe);
    come(20);
    assert_true(crowd_until(&crowd, CLIENT_SERVED, 5, WITHIN_MS));
    for (size_t i = 0; i < sizeof noise; i++)
        noise[i] = (char)(rand() >> 7);
    damage(0, noise, sizeof noise);
    assert_serves_without_limits();
    assert_int_equal(BPCTL("show", server.name), 1);
    assert_int_equal(lines(output), 1);
}

/* The header intact, all the rest noise: bpctl must read it within its bounds, and end. */
static void scribbled_segment_does_not_fool_bpctl(void **state)
{
    static char noise[sizeof(struct segment)];
    const char *recipe = *state;
    start(recipe);
    for (int round = 0; round < 5; round++) {
        size_t from = offsetof(struct segment, limits_sequence);
        for (size_t i = 0; i < sizeof noise; i++)
            noise[i] = round == 4 ? (char)-1 : (char)(rand() >> 7);
        damage((off_t)from, noise, sizeof noise - from);
        assert_int_equal(BPCTL("show", server.name), 0);
        assert_int_equal(BPCTL("show", server.name, "--json"), 0);
        assert_int_equal(BPCTL("events", server.name), 0);
    }
    assert_int_equal(BPCTL("ls"), 0); /* nobody in its table lives: it is cleared away */
    assert_int_equal(access(segment_path, F_OK), -1);
}

/* A server that sleeps in accept, and a segment that denies the gate which keeps everybody out. */
static void gate_that_the_segment_denies_is_opened(void **state)
{
    const char *recipe = *state;
    uint32_t open = 0;
    start(recipe);
    assert_int_equal(BPCTL("pause", server.name), 0);
    for (unsigned i = 0; i < SEGMENT_LISTENERS; i++)
        damage((off_t)(offsetof(struct segment, listener) + i * sizeof(struct segment_listener) +
                       offsetof(struct segment_listener, gated)),
               &open, sizeof open);
    assert_int_equal(BPCTL("resume", server.name), 0);
    come(5);
    assert_true(crowd_until(&crowd, CLIENT_SERVED, 5, WITHIN_MS));
}

/* What a process killed in the middle of accept or close leaves: see tests/model/slots.pml. */
static void places_left_half_way_are_found_again(void **state)
{
    const char *recipe = *state;
    uint32_t half_way[5] = {CONN_OPENING, CONN_CLOSING, CONN_OPENING, CONN_CLOSING, CONN_OPENING};
    uint32_t used = 64;
    uint64_t count = 5;
    start(recipe);
    damage(offsetof(struct segment, conn_state) + 16 * sizeof half_way[0], half_way,
           sizeof half_way);
    damage(offsetof(struct segment, conns_used), &used, sizeof used);
    damage(offsetof(struct segment, conns), &count, sizeof count);
    come(5);
    assert_true(crowd_until(&crowd, CLIENT_SERVED, 5, WITHIN_MS));
    assert_true(total_becomes(&server, "conns", 5, WITHIN_MS));
    assert_int_equal(BPCTL("events", server.name), 0);
    assert_non_null(strstr(output, "left half way"));
}

static struct segment *mapped(void)
{
    int fd = open(segment_path, O_RDWR | O_CLOEXEC);
    struct segment *segment =
        mmap(NULL, sizeof *segment, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(segment, MAP_FAILED);
    close(fd);
    return segment;
}

/* What a process leaves that was stopped, or killed, while it freed the entry of a dead one. */
static void only_a_dead_reapers_work_is_taken_over(void **state)
{
    const char *recipe = *state;
    start(recipe);
    struct segment *segment = mapped();
    uint32_t used = atomic_load(&segment->processes_used), reaper = 1;
    while (process_phase(atomic_load(&segment->process[reaper].identity)) != PROCESS_LIVE)
        assert_true(++reaper < used);
    uint32_t mark =
        reaper << 20 | process_generation(atomic_load(&segment->process[reaper].identity));
    struct segment_process *stopped = &segment->process[used], *killed = stopped + 1;
    uint64_t identity = process_identity(0, PROCESS_REAPING, mark);
    atomic_store(&segment->processes_used, used + 2);
    for (unsigned i = 0; i < 2; i++) {
        atomic_store(&stopped[i].conns.word, 1);
        atomic_store(&stopped[i].since_ns, 1);
    }
    atomic_store(&stopped->identity, identity);
    atomic_store(&killed->identity, process_identity(0, PROCESS_REAPING, mark + 1));
    come(10);
    for (int i = 0; i < WITHIN_MS / 10; i++) {
        if (process_phase(atomic_load(&killed->identity)) == PROCESS_FREE)
            break;
        crowd_until(&crowd, CLIENT_SERVED, 10, 10);
    }
    assert_int_equal(process_phase(atomic_load(&killed->identity)), PROCESS_FREE);
    assert_true(atomic_load(&stopped->identity) == identity);
    munmap(segment, sizeof *segment);
}

/* What processes leave that were killed while they entered where they connect to. */
static void destinations_left_half_way_are_used_again(void **state)
{
    char given[128];
    (void)state;
    start("python");
    assert_int_equal(BPCTL("set", server.name, "connect-retries=1", "backoff=1s..1s"), 0);
    struct segment *segment = mapped();
    for (unsigned i = 0; i < SEGMENT_DESTINATIONS; i++) /* by the ninth that had the 100th entry */
        atomic_store(&segment->destination[i].state, UINT64_C(100) << PROCESS_REFERENCE_SHIFT | 9);
    munmap(segment, sizeof *segment);
    snprintf(given, sizeof given, "name=%s total-conns=5", server.name);
    preloaded(given, "/usr/bin/python3 -c 'import socket\ntry: "
                     "socket.create_connection((\"127.0.0.1\", 1))\nexcept OSError: pass'");
    assert_int_equal(BPCTL("show", server.name, "--json"), 0);
    assert_non_null(strstr(output, "127.0.0.1:1\""));
}

static void segment_of_another_version(void **state)
{
    uint32_t version = SEGMENT_VERSION + 1;
    (void)state;
    start("python");
    damage(offsetof(struct segment, version), &version, sizeof version);
    assert_int_equal(BPCTL("show", server.name), 1);
    assert_int_equal(lines(output), 1);
    assert_non_null(strstr(output, "another version"));
    /* It lives, and others of its version may list it: this listing is whole without it. */
    assert_int_equal(BPCTL("ls"), 0);
    assert_non_null(strstr(output, "another version"));
    char given[128];
    snprintf(given, sizeof given, "name=%s conns=3", server.name);
    assert_int_equal(preloaded(given, "/bin/echo works"), 0);
    assert_int_equal(lines(output), 2);
    assert_non_null(strstr(output, "made by another version"));
    come(5);
    assert_true(crowd_until(&crowd, CLIENT_SERVED, 5, WITHIN_MS));
}

static void static_program_is_named(void **state)
{
    (void)state;
    if (access("/sbin/ldconfig", X_OK) < 0)
        skip();
    /* Debian's ldconfig is linked statically: it must not depend on what it repairs. */
    assert_int_equal(BPCTL("run", "--name", "static", "--", "/sbin/ldconfig", "-V"), 0);
    assert_non_null(strstr(output, "statically linked"));
    assert_int_equal(BPCTL("run", "--name", "static", "strict=on", "--", "/sbin/ldconfig", "-V"),
                     1);
}

#define TEST(function) cmocka_unit_test_teardown(function, tear_down)
#define TEST_ON(function, recipe)                                                                  \
    {                                                                                              \
#function ", " recipe, function, NULL, tear_down, (void *)recipe                           \
    }

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(bad_environment_is_one_line_and_the_program_runs),
        TEST(strict_refuses_to_start),
        TEST(service_that_is_not_there),
        TEST(bad_usage_exits_with_2),
        TEST(run_reports_what_it_cannot_start),
        TEST(configuration_file_names_its_line),
        TEST(set_changes_all_or_nothing),
        TEST(name_that_is_taken),
        TEST_ON(truncated_segment_leaves_the_server_unharmed, "nginx"),
        TEST_ON(truncated_segment_leaves_the_server_unharmed, "python"),
        TEST_ON(truncated_segment_leaves_the_server_unharmed, "mariadb"),
        TEST_ON(overwritten_segment_leaves_the_server_unharmed, "nginx"),
        TEST_ON(overwritten_segment_leaves_the_server_unharmed, "python"),
        TEST_ON(scribbled_segment_does_not_fool_bpctl, "nginx"),
        TEST_ON(gate_that_the_segment_denies_is_opened, "nginx"),
        TEST_ON(gate_that_the_segment_denies_is_opened, "apache-prefork"),
        TEST_ON(places_left_half_way_are_found_again, "nginx"),
        TEST_ON(places_left_half_way_are_found_again, "vsftpd"),
        TEST_ON(only_a_dead_reapers_work_is_taken_over, "nginx"),
        TEST(destinations_left_half_way_are_used_again),
        TEST(segment_of_another_version),
        TEST(static_program_is_named),
    };
    suite_choose(argc, argv);
    if (!mkdtemp(directory) || setenv("BACKPRESSURE_DIR", directory, 1) < 0)
        return EXIT_FAILURE;
    return cmocka_run_group_tests_name("trust", tests, NULL, remove_directory);
}
