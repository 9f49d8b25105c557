/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The control segment: joining and leaving it, and what many threads do to it at once.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "process/joining.h"
#include "process/liveness.h"
#include "segment/finding.h"
#include "segment/growth.h"

static char directory[] = "/dev/shm/backpressure-unit-XXXXXX";
static struct limits limits;

static int set_up(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(directory));
    setenv("BACKPRESSURE_DIR", directory, 1);
    limits_defaults(&limits);
    return 0;
}

static int tear_down(void **state)
{
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command);
}

static enum segment_result join(const char *name, struct segment **segment, bool *created)
{
    char why[512];
    struct joined joined;
    enum segment_result result = segment_join(name, &limits, &joined, why, sizeof why);
    *segment = joined.segment;
    *created = joined.created;
    if (result == SEGMENT_OK)
        close(joined.fd);
    return result;
}

/* A process entry of this test's own, so that the service counts as alive. */
static void live_in(struct segment *segment)
{
    atomic_store(&segment->process[1].identity,
                 process_identity(0, PROCESS_LIVE, (uint32_t)getpid()));
    atomic_store(&segment->process[1].pid_namespace, liveness_own_namespace());
    atomic_store(&segment->processes_used, 2);
}

/* Whether that process still runs, as it is seen from here. */
static enum liveness liveness(const struct segment *segment)
{
    struct onlooker onlooker = {liveness_own_namespace(), -1};
    return liveness_of_entry(segment, 1, &onlooker);
}

static void drop(struct segment *segment)
{
    munmap(segment, sizeof *segment);
}

static void second_joins_what_the_first_created(void **state)
{
    struct segment *first, *second;
    bool created;
    (void)state;
    limits.value[LIMIT_CONNS] = 11;
    assert_int_equal(join("joined", &first, &created), SEGMENT_OK);
    assert_true(created);
    live_in(first);
    limits.value[LIMIT_CONNS] = 22;
    assert_int_equal(join("joined", &second, &created), SEGMENT_OK);
    assert_false(created);
    assert_int_equal(segment_limit(second, LIMIT_CONNS), 11);
    atomic_store(&first->room, 99);
    assert_int_equal(atomic_load(&second->room), 99);
    drop(first);
    drop(second);
    limits_defaults(&limits);
}

static void service_of_the_dead_starts_afresh(void **state)
{
    struct segment *segment;
    bool created;
    (void)state;
    assert_int_equal(join("dead", &segment, &created), SEGMENT_OK);
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    live_in(segment);
    atomic_store(&segment->process[1].identity, process_identity(0, PROCESS_LIVE, (uint32_t)child));
    assert_int_equal(waitid(P_PID, (id_t)child, NULL, WEXITED | WNOWAIT), 0);
    assert_int_equal(liveness(segment), LIVENESS_GONE); /* a zombie holds nothing */
    waitpid(child, NULL, 0);
    assert_int_equal(liveness(segment), LIVENESS_GONE);
    drop(segment);
    assert_int_equal(join("dead", &segment, &created), SEGMENT_OK);
    assert_true(created);
    drop(segment);
}

/* Entry 1 as a process of this test's own choosing. */
static void name_entry(struct segment *segment, pid_t pid, uint64_t pid_namespace, uint64_t started,
                       uint32_t flags)
{
    atomic_store(&segment->process[1].identity, process_identity(0, PROCESS_LIVE, (uint32_t)pid));
    atomic_store(&segment->process[1].pid_namespace, pid_namespace);
    atomic_store(&segment->process[1].started, started);
    atomic_store(&segment->process[1].flags, flags);
    atomic_store(&segment->processes_used, 2);
}

static void another_that_got_the_pid_is_not_it(void **state)
{
    struct segment *segment;
    bool created;
    uint64_t here = liveness_own_namespace(), started = liveness_own_start();
    (void)state;
    assert_int_equal(join("reused", &segment, &created), SEGMENT_OK);
    assert_true(here != 0 && started != 0);
    name_entry(segment, getpid(), here, started, 0);
    assert_int_equal(liveness(segment), LIVENESS_RUNS);
    name_entry(segment, getpid(), here, started - 1, 0);
    assert_int_equal(liveness(segment), LIVENESS_GONE);
    /* The same pid in another namespace, of which nothing is known: it may run. */
    name_entry(segment, getpid(), here + 1, started, 0);
    assert_int_equal(liveness(segment), LIVENESS_UNKNOWN);
    name_entry(segment, 1, 0, 0, 0);
    assert_int_equal(liveness(segment), LIVENESS_UNKNOWN);
    drop(segment);
}

static int open_segment(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

/* Takes the lock of entry 1 in a child of its own, which closes all it can and waits to be killed.
 */
static pid_t start_holder(int fd)
{
    int told[2];
    char byte;
    assert_int_equal(pipe(told), 0);
    pid_t child = fork();
    if (child == 0) {
        bool held = liveness_hold(fd, 1);
        for (int other = 3; other < 64; other++)
            if (other != told[1])
                close(other);
        /* A child that outlives it does not keep the lock. */
        if (fork() == 0) {
            close(told[1]);
            close(0);
            sleep(60);
            _exit(0);
        }
        if (write(told[1], held ? "y" : "n", 1) != 1)
            _exit(1);
        pause();
    }
    close(fd);
    close(told[1]);
    assert_int_equal(read(told[0], &byte, 1), 1);
    assert_int_equal(byte, 'y');
    close(told[0]);
    return child;
}

/* From a pid namespace that is not its own, by the lock alone. */
static void lock_lasts_as_long_as_the_memory(void **state)
{
    struct segment *segment;
    bool created;
    (void)state;
    assert_int_equal(join("locked", &segment, &created), SEGMENT_OK);
    pid_t child = start_holder(open_segment("locked"));
    struct onlooker onlooker = {1, open_segment("locked")};
    name_entry(segment, child, 2, 0, PROCESS_LOCKED);
    assert_int_equal(liveness_of_entry(segment, 1, &onlooker), LIVENESS_RUNS);
    assert_false(liveness_hold(open_segment("locked"), 1));
    assert_true(liveness_hold(open_segment("locked"), 5)); /* another's is another's */
    kill(child, SIGKILL);
    assert_int_equal(waitid(P_PID, (id_t)child, NULL, WEXITED | WNOWAIT), 0);
    /* A zombie's memory is gone; unless it may be executing another program. */
    atomic_store(&segment->process[1].flags, PROCESS_LOCKED | PROCESS_EXECUTING);
    atomic_store(&segment->process[1].since_ns, monotonic_ns());
    assert_int_equal(liveness_of_entry(segment, 1, &onlooker), LIVENESS_UNKNOWN);
    atomic_store(&segment->process[1].flags, PROCESS_LOCKED);
    assert_int_equal(liveness_of_entry(segment, 1, &onlooker), LIVENESS_GONE);
    onlooker.fd = -1;
    assert_int_equal(liveness_of_entry(segment, 1, &onlooker), LIVENESS_UNKNOWN);
    waitpid(child, NULL, 0);
    drop(segment);
}

static bool is_named(int fd, void *context)
{
    char path[SEGMENT_PATH_MAX];
    return finding_read_path(fd, path) && strcmp(path, context) == 0 && (close(fd), true);
}

static void file_without_a_name_is_found(void **state)
{
    struct segment *segment, *again;
    char path[256];
    bool created;
    (void)state;
    snprintf(path, sizeof path, "%s/lost", directory);
    assert_int_equal(join("lost", &segment, &created), SEGMENT_OK);
    assert_true(created);
    live_in(segment);
    int kept = open_segment("lost");
    assert_int_equal(unlink(path), 0);
    assert_true(finding_each(is_named, path));
    assert_true(finding_inherited(is_named, path));
    assert_int_equal(join("lost", &again, &created), SEGMENT_OK);
    assert_false(created);
    atomic_store(&segment->room, 77);
    assert_int_equal(atomic_load(&again->room), 77);
    drop(again);
    drop(segment);
    close(kept);
    assert_false(finding_each(is_named, path));
}

/* The pages of a file as the file system has them. */
static bool has_page(const struct segment *segment, const void *at)
{
    static unsigned char resident[sizeof(struct segment) / 4096 + 2];
    assert_int_equal(mincore((void *)(uintptr_t)segment, sizeof *segment, resident), 0);
    return resident[((uintptr_t)at - (uintptr_t)segment) / 4096] & 1;
}

static void tables_exist_as_far_as_they_are_used(void **state)
{
    struct segment *segment;
    bool created;
    (void)state;
    assert_int_equal(join("growing", &segment, &created), SEGMENT_OK);
    assert_false(has_page(segment, &segment->conn[2000]));
    assert_true(growth_reach(segment, GROWING_CONNS, 0));
    assert_true(has_page(segment, &segment->conn[500]));
    assert_true(has_page(segment, &segment->conn_state[500]));
    assert_false(has_page(segment, &segment->conn[2000]));
    assert_true(growth_reach(segment, GROWING_CONNS, SEGMENT_CONNS - 1));
    assert_true(has_page(segment, &segment->conn[SEGMENT_CONNS - 1]));
    assert_false(growth_reach(segment, GROWING_CONNS, SEGMENT_CONNS));
    assert_false(growth_has_peer(segment, 300));
    assert_true(growth_reach_peers(segment, SEGMENT_PEERS - 1, SEGMENT_PEERS_STEP));
    assert_true(growth_has_peer(segment, 0));
    assert_true(growth_has_peer(segment, SEGMENT_PEERS - 1));
    assert_false(growth_has_peer(segment, 300));
    drop(segment);
}

static void write_file(const char *name, const void *bytes, size_t length)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(fd, bytes, length), length);
    close(fd);
}

static void what_is_no_segment_is_refused(void **state)
{
    static _Alignas(struct segment) char bytes[sizeof(struct segment)];
    struct segment *segment, *image = (void *)bytes;
    bool created;
    (void)state;
    write_file("empty", "", 0);
    assert_int_equal(join("empty", &segment, &created), SEGMENT_DAMAGED);
    write_file("text", "hello", 5);
    assert_int_equal(join("text", &segment, &created), SEGMENT_DAMAGED);
    write_file("zeroes", bytes, sizeof bytes);
    assert_int_equal(join("zeroes", &segment, &created), SEGMENT_DAMAGED);
    image->magic = SEGMENT_MAGIC;
    image->version = SEGMENT_VERSION;
    image->size = sizeof bytes;
    write_file("short", bytes, 4096);
    assert_int_equal(join("short", &segment, &created), SEGMENT_DAMAGED);
    image->version = SEGMENT_VERSION + 1;
    write_file("newer", bytes, sizeof bytes);
    assert_int_equal(join("newer", &segment, &created), SEGMENT_OTHER_VERSION);
    char path[256];
    snprintf(path, sizeof path, "%s/link", directory);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    assert_int_equal(join("link", &segment, &created), SEGMENT_FAILED);
}

static void directory_that_others_can_write_is_refused(void **state)
{
    struct segment *segment;
    bool created;
    (void)state;
    assert_int_equal(chmod(directory, 0777), 0);
    assert_int_equal(join("open", &segment, &created), SEGMENT_DENIED);
    assert_int_equal(chmod(directory, 0700), 0);
    assert_int_equal(join("open", &segment, &created), SEGMENT_OK);
    drop(segment);
}

static struct gauge gauge;
static _Atomic int most, now;

static void *take_and_give(void *argument)
{
    (void)argument;
    for (int i = 0; i < 50000; i++) {
        if (!gauge_take(&gauge, 3))
            continue;
        int inside = atomic_fetch_add(&now, 1) + 1, seen = atomic_load(&most);
        while (seen < inside && !atomic_compare_exchange_weak(&most, &seen, inside))
            ;
        atomic_fetch_sub(&now, 1);
        gauge_give(&gauge);
    }
    return NULL;
}

static void gauge_never_passes_its_ceiling(void **state)
{
    pthread_t threads[6];
    (void)state;
    for (size_t i = 0; i < 6; i++)
        pthread_create(&threads[i], NULL, take_and_give, NULL);
    for (size_t i = 0; i < 6; i++)
        pthread_join(threads[i], NULL);
    assert_true(atomic_load(&most) <= 3);
    assert_int_equal(gauge_count(&gauge), 0);
    gauge_give(&gauge);
    assert_int_equal(gauge_count(&gauge), 0); /* one too many does not wrap */
}

static void gauge_is_mended_only_when_nothing_moved(void **state)
{
    (void)state;
    assert_true(gauge_take(&gauge, 10));
    assert_true(gauge_take(&gauge, 10));
    uint64_t seen = atomic_load(&gauge.word);
    gauge_give(&gauge);
    assert_true(gauge_take(&gauge, 10));
    assert_false(gauge_mend(&gauge, seen, 0)); /* the same count, but not the same moment */
    seen = atomic_load(&gauge.word);
    assert_true(gauge_mend(&gauge, seen, 0));
    assert_int_equal(gauge_count(&gauge), 0);
}

static struct segment *shared;

static void *write_limits(void *argument)
{
    struct limits mine;
    limits_defaults(&mine);
    for (uint64_t i = 0; i < 20000; i++) {
        for (unsigned key = 0; key < LIMIT_EXEMPT; key++)
            mine.value[key] = i;
        segment_write_limits(shared, &mine);
    }
    (void)argument;
    return NULL;
}

static void limits_are_read_whole(void **state)
{
    pthread_t writer;
    struct limits read;
    bool created;
    (void)state;
    assert_int_equal(join("whole", &shared, &created), SEGMENT_OK);
    pthread_create(&writer, NULL, write_limits, NULL);
    unsigned torn = 0;
    for (int i = 0; i < 20000; i++) {
        segment_read_limits(shared, &read);
        for (unsigned key = 1; key < LIMIT_EXEMPT; key++)
            torn +=
                read.value[key] != read.value[0] && read.value[0] != LIMIT_OFF && read.value[0] > 0;
    }
    pthread_join(writer, NULL);
    assert_int_equal(torn, 0);
    drop(shared);
}

/* A writer killed half way: what it had not finished does not count, and the next one ends it. */
static void half_written_limits_do_not_count(void **state)
{
    struct limits mine, read;
    bool created;
    (void)state;
    assert_int_equal(join("half", &shared, &created), SEGMENT_OK);
    limits_defaults(&mine);
    mine.value[LIMIT_CONNS] = 1;
    mine.value[LIMIT_TOTAL_CONNS] = 1;
    segment_write_limits(shared, &mine);
    mine.value[LIMIT_CONNS] = 2;
    mine.value[LIMIT_TOTAL_CONNS] = 2;
    segment_write_limits(shared, &mine);

    memcpy((void *)shared->limit_before, (void *)shared->limit, sizeof shared->limit);
    atomic_fetch_add(&shared->limits_sequence, 1);
    atomic_store(&shared->limit[offsetof(struct limits, value) / 8 + LIMIT_CONNS], 3);
    segment_read_limits(shared, &read);
    assert_int_equal(read.value[LIMIT_CONNS], 2);
    assert_int_equal(read.value[LIMIT_TOTAL_CONNS], 2);

    mine.value[LIMIT_CONNS] = 4;
    mine.value[LIMIT_TOTAL_CONNS] = 4;
    segment_write_limits(shared, &mine);
    segment_read_limits(shared, &read);
    assert_int_equal(read.value[LIMIT_CONNS], 4);
    assert_int_equal(read.value[LIMIT_TOTAL_CONNS], 4);
    assert_int_equal(atomic_load(&shared->limits_sequence) & 1, 0);
    drop(shared);
}

static void events_are_a_ring(void **state)
{
    struct segment *segment;
    bool created;
    char text[300];
    (void)state;
    assert_int_equal(join("ring", &segment, &created), SEGMENT_OK);
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    for (uint64_t i = 0; i < SEGMENT_EVENTS + 5; i++)
        segment_event(segment, EVENT_SET, 1, i, text);
    assert_int_equal(atomic_load(&segment->events_next), SEGMENT_EVENTS + 5);
    assert_int_equal(atomic_load(&segment->event[4].amount), SEGMENT_EVENTS + 4);
    assert_int_equal(atomic_load(&segment->event[5].amount), 5);
    char cut[SEGMENT_EVENT_TEXT];
    words_load(cut, segment->event[5].text, sizeof cut);
    assert_int_equal(strnlen(cut, sizeof cut), SEGMENT_EVENT_TEXT - 1);
    drop(segment);
}

/* A number without its name would be a null pointer in everything that prints one. */
static void every_number_has_a_name_of_its_own(void **state)
{
#define COUNTER(id, name, kind) name,
#define EVENT(id, name, text) name,
    static const char *const counters[] = {
#include "segment/counters.def"
    };
    static const char *const events[] = {
#include "segment/events.def"
    };
    (void)state;
    assert_int_equal(sizeof counters / sizeof *counters, COUNTERS);
    assert_int_equal(sizeof events / sizeof *events, EVENT_KINDS);
    for (size_t i = 0; i < COUNTERS; i++)
        for (size_t j = 0; j <= i; j++)
            assert_int_equal(strlen(counters[i]) > 0 && strcmp(counters[i], counters[j]) == 0,
                             i == j);
    for (size_t i = 0; i < EVENT_KINDS; i++)
        for (size_t j = 0; j <= i; j++)
            assert_int_equal(strlen(events[i]) > 0 && strcmp(events[i], events[j]) == 0, i == j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_number_has_a_name_of_its_own),
        cmocka_unit_test(second_joins_what_the_first_created),
        cmocka_unit_test(service_of_the_dead_starts_afresh),
        cmocka_unit_test(another_that_got_the_pid_is_not_it),
        cmocka_unit_test(lock_lasts_as_long_as_the_memory),
        cmocka_unit_test(file_without_a_name_is_found),
        cmocka_unit_test(tables_exist_as_far_as_they_are_used),
        cmocka_unit_test(what_is_no_segment_is_refused),
        cmocka_unit_test(directory_that_others_can_write_is_refused),
        cmocka_unit_test(gauge_never_passes_its_ceiling),
        cmocka_unit_test(gauge_is_mended_only_when_nothing_moved),
        cmocka_unit_test(limits_are_read_whole),
        cmocka_unit_test(half_written_limits_do_not_count),
        cmocka_unit_test(events_are_a_ring),
    };
    return cmocka_run_group_tests_name("segment", tests, set_up, tear_down);
}
