/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the shim does in its own way, because libcs differ in it, comes to what this libc's own way
 * comes to. Built for glibc and for musl.
 */
#include "base/libc.h"
#include "base/lookup.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* Some of what is interposed; what has several versions in glibc; what only one libc has; nothing.
 */
static const char *const names[] = {
    "accept",
    "accept4",
    "close",
    "read",
    "write",
    "poll",
    "__poll_chk",
    "epoll_pwait2",
    "sendfile64",
    "fcntl64",
    "close_range",
    "fork",
    "posix_spawn",
    "regexec",
    "sched_setaffinity",
    "pthread_cond_wait",
    "wait4",
    "syscall",
    "preadv64v2",
    "there_is_no_such_function",
};
#define NAMES (sizeof names / sizeof *names)

static void lookup_finds_what_dlsym_finds(void **state)
{
    struct lookup lookups[NAMES] = {{NULL, NULL, 0}};
    (void)state;
    for (size_t i = 0; i < NAMES; i++)
        lookups[i].name = names[i];
    lookup_next(lookups, NAMES);
    for (size_t i = 0; i < NAMES; i++) {
        void *expected = dlsym(RTLD_NEXT, names[i]);
        if (lookups[i].found != expected)
            print_error("%s: %p, not %p\n", names[i], lookups[i].found, expected);
        assert_ptr_equal(lookups[i].found, expected);
    }
    assert_non_null(lookups[0].found);
    assert_null(lookups[NAMES - 1].found);
}

static void lookup_keeps_what_is_found(void **state)
{
    char mine;
    struct lookup lookups[] = {{"accept", &mine, 0}, {"close", NULL, 0}};
    (void)state;
    lookup_next(lookups, 2);
    assert_ptr_equal(lookups[0].found, &mine);
    assert_ptr_equal(lookups[1].found, dlsym(RTLD_NEXT, "close"));
}

static _Atomic int cleaned;

static void clean(void *amount)
{
    cleaned += *(int *)amount;
}

static void popped_handlers_run_when_asked(void **state)
{
    struct libc_cleanup outer, inner;
    int one = 1, ten = 10;
    (void)state;
    cleaned = 0;
    libc_cleanup_push(&outer, clean, &one);
    libc_cleanup_push(&inner, clean, &ten);
    libc_cleanup_pop(&inner, false);
    assert_int_equal(cleaned, 0);
    libc_cleanup_pop(&outer, true);
    assert_int_equal(cleaned, 1);
}

static _Atomic int waits;

static void *wait_for_ever(void *argument)
{
    struct libc_cleanup outer, inner, popped;
    int one = 1, ten = 10, hundred = 100;
    libc_cleanup_push(&outer, clean, &one);
    libc_cleanup_push(&popped, clean, &hundred);
    libc_cleanup_pop(&popped, false);
    libc_cleanup_push(&inner, clean, &ten);
    atomic_store(&waits, 1);
    for (;;)
        libc_test_cancel();
    return argument;
}

static void a_cancelled_thread_runs_what_was_pushed(void **state)
{
    pthread_t thread;
    void *result;
    (void)state;
    cleaned = 0;
    assert_int_equal(pthread_create(&thread, NULL, wait_for_ever, NULL), 0);
    while (!atomic_load(&waits))
        sched_yield();
    pthread_cancel(thread);
    pthread_join(thread, &result);
    assert_ptr_equal(result, PTHREAD_CANCELED);
    assert_int_equal(cleaned, 11);
}

static int forks_seen;

static void before_fork(void)
{
    forks_seen += 1;
}

static void in_child(void)
{
    forks_seen += 10;
}

static void fork_handlers_run(void **state)
{
    int status;
    (void)state;
    libc_at_fork(before_fork, in_child);
    pid_t child = fork();
    if (child == 0)
        _exit(forks_seen);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(WEXITSTATUS(status), 11);
    assert_int_equal(forks_seen, 1);
}

static void assert_same(const struct stat *ours, const struct stat *theirs)
{
    assert_int_equal(ours->st_dev, theirs->st_dev);
    assert_int_equal(ours->st_ino, theirs->st_ino);
    assert_int_equal(ours->st_mode, theirs->st_mode);
    assert_int_equal(ours->st_uid, theirs->st_uid);
    assert_int_equal(ours->st_size, theirs->st_size);
}

static void stat_is_what_it_was(void **state)
{
    struct stat ours, theirs;
    (void)state;
    assert_int_equal(libc_stat("/proc/self/exe", &ours), 0);
    assert_int_equal(stat("/proc/self/exe", &theirs), 0);
    assert_same(&ours, &theirs);
    assert_int_equal(libc_lstat("/dev/stdin", &ours), 0);
    assert_int_equal(lstat("/dev/stdin", &theirs), 0);
    assert_same(&ours, &theirs);
    FILE *file = tmpfile();
    assert_non_null(file);
    assert_int_equal(libc_fstat(fileno(file), &ours), 0);
    assert_int_equal(fstat(fileno(file), &theirs), 0);
    assert_same(&ours, &theirs);
    fclose(file);
    assert_int_equal(libc_stat("/there/is/nothing", &ours), -1);
}

static void lengths_of_messages_are_libcs(void **state)
{
    (void)state;
#ifdef __GLIBC__
    assert_false(libc_is_musl());
    assert_int_equal(libc_message_length(SIZE_MAX), SIZE_MAX);
#else
    assert_true(libc_is_musl());
    assert_int_equal(libc_message_length(SIZE_MAX), UINT32_MAX);
#endif
    assert_int_equal(libc_message_length(3), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lookup_finds_what_dlsym_finds),
        cmocka_unit_test(lookup_keeps_what_is_found),
        cmocka_unit_test(popped_handlers_run_when_asked),
        cmocka_unit_test(a_cancelled_thread_runs_what_was_pushed),
        cmocka_unit_test(fork_handlers_run),
        cmocka_unit_test(stat_is_what_it_was),
        cmocka_unit_test(lengths_of_messages_are_libcs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
