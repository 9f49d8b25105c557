/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Calls from where a preloaded library must not stumble: signal handlers, between fork and exec, a
 * vfork child, threads that are cancelled, small stacks, before constructors and after destructors.
 * Run bare and under the shim: both must behave alike.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define SMALL_STACK 65536
#define ROUNDS 300
#define THREADS 4
#define LONGEST_S 60

static int listener = -1;
static struct sockaddr_in address;

/* --- before constructors, after destructors --- */

static bool early_works;

static bool pair_works(void)
{
    int pair[2];
    char byte = 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return false;
    struct pollfd readable = {.fd = pair[1], .events = POLLIN};
    bool works = write(pair[0], "x", 1) == 1 && poll(&readable, 1, 1000) == 1 &&
                 read(pair[1], &byte, 1) == 1 && byte == 'x' && accept(pair[0], NULL, NULL) == -1 &&
                 dup2(pair[0], pair[1]) == pair[1];
    return close(pair[0]) == 0 && close(pair[1]) == 0 && works;
}

static void early(void)
{
    early_works = pair_works();
}

static void late(void)
{
    if (!pair_works())
        _exit(99);
}

#ifdef __GLIBC__
__attribute__((section(".preinit_array"), used)) static void (*const before_all)(void) = early;
#else /* musl has no earlier moment than a constructor */
__attribute__((constructor(101), used)) static void before_all(void)
{
    early();
}
#endif
__attribute__((destructor(101), used)) static void after_all(void)
{
    late();
}

static void calls_work_before_constructors(void **state)
{
    (void)state;
    assert_true(early_works);
}

/* --- a listener, and clients --- */

static int set_up(void **state)
{
    socklen_t length = sizeof address;
    (void)state;
    alarm(LONGEST_S);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    address =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(listener, 128), 0);
    return getsockname(listener, (struct sockaddr *)&address, &length);
}

static int tear_down(void **state)
{
    (void)state;
    alarm(0);
    return close(listener);
}

static int connected(void)
{
    int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (client >= 0 && connect(client, (struct sockaddr *)&address, sizeof address) < 0) {
        close(client);
        return -1;
    }
    return client;
}

/* Everything that a server does with a client, once. */
static bool serve_one(void)
{
    int client = connected(), server = -1;
    struct pollfd readable = {.fd = listener, .events = POLLIN};
    char bytes[16] = "";
    while (client >= 0 && server < 0) {
        if (poll(&readable, 1, 1000) < 0 && errno != EINTR)
            break;
        server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (server < 0 && errno != EAGAIN && errno != EINTR)
            break;
    }
    bool served = server >= 0 && send(client, "question", 8, MSG_NOSIGNAL) == 8;
    ssize_t length;
    while (served && (length = read(server, bytes, sizeof bytes)) < 0 && errno == EINTR)
        ;
    served = served && length == 8;
    int copy = dup(server);
    served = served && write(copy, "answer", 6) == 6 && recv(client, bytes, 16, 0) == 6;
    if (copy >= 0)
        close(copy);
    if (server >= 0)
        close(server);
    if (client >= 0)
        close(client);
    return served;
}

/* --- signal handlers --- */

static volatile sig_atomic_t handled;

static void handle(int signal_number)
{
    int saved = errno, server = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    int copy = server >= 0 ? dup(server) : -1;
    (void)signal_number;
    if (server >= 0 && send(server, "", 0, MSG_NOSIGNAL) == 0)
        handled++;
    if (copy >= 0)
        close(copy);
    if (server >= 0)
        close(server);
    handled++;
    errno = saved;
}

static void handlers_make_calls(void **state)
{
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
    struct itimerval often = {{0, 500}, {0, 500}}, never = {{0, 0}, {0, 0}};
    (void)state;
    sigaction(SIGVTALRM, &action, NULL);
    setitimer(ITIMER_VIRTUAL, &often, NULL);
    for (int i = 0; i < ROUNDS * 10 || handled < 20; i++) {
        int client = connected(), pair[2];
        assert_true(client >= 0);
        /* The handler may have taken the client: then accept says EAGAIN. */
        int server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        assert_true(server >= 0 || errno == EAGAIN);
        assert_int_equal(pipe(pair), 0);
        assert_int_equal(write(pair[1], "x", 1), 1);
        close(pair[0]);
        close(pair[1]);
        if (server >= 0)
            assert_int_equal(close(server), 0);
        assert_int_equal(close(client), 0);
    }
    setitimer(ITIMER_VIRTUAL, &never, NULL);
    signal(SIGVTALRM, SIG_DFL);
    while (accept4(listener, NULL, NULL, SOCK_CLOEXEC) >= 0)
        ;
}

/* --- fork and exec, with other threads at it --- */

static atomic_bool ends;
static atomic_uint failures;

static void *serve_on(void *unused)
{
    (void)unused;
    while (!atomic_load(&ends)) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0 ||
            write(pair[0], "x", 1) != 1 || close(pair[0]) < 0 || close(pair[1]) < 0)
            atomic_fetch_add(&failures, 1);
        int client = connected(), server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (server >= 0)
            close(server);
        if (client >= 0)
            close(client);
    }
    return NULL;
}

static void start_threads(pthread_t threads[THREADS])
{
    atomic_store(&ends, false);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, serve_on, NULL), 0);
}

static void end_threads(pthread_t threads[THREADS])
{
    atomic_store(&ends, true);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    while (accept4(listener, NULL, NULL, SOCK_CLOEXEC) >= 0)
        ;
    assert_int_equal(atomic_load(&failures), 0);
}

static void calls_between_fork_and_exec(void **state)
{
    pthread_t threads[THREADS];
    (void)state;
    start_threads(threads);
    for (int i = 0; i < ROUNDS / 5; i++) {
        int status;
        pid_t child = fork();
        if (child == 0) {
            /* What shells and servers do here; async-signal-safe functions only. */
            int null = open("/dev/null", O_RDWR);
            if (null < 0 || dup2(null, 0) != 0 || dup2(null, 1) != 1 || close(null) < 0 ||
                close_range(3, ~0U, 0) < 0 || write(1, "x", 1) != 1)
                _exit(98);
            execl("/bin/true", "true", (char *)NULL);
            _exit(97);
        }
        assert_true(child > 0);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(status, 0);
    }
    end_threads(threads);
    assert_true(serve_one());
}

static void calls_in_a_vfork_child(void **state)
{
    (void)state;
    int client = connected(), server;
    struct pollfd readable = {.fd = listener, .events = POLLIN};
    assert_int_equal(poll(&readable, 1, 5000), 1);
    server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(server >= 0);
    for (int i = 0; i < ROUNDS / 5; i++) {
        int status;
        pid_t child = vfork();
        if (child == 0) {
            close(server);
            dup2(2, 50);
            close(50);
            execl("/bin/true", "true", (char *)NULL);
            _exit(97);
        }
        assert_true(child > 0);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(status, 0);
    }
    /* What the child closed, it closed for itself. */
    assert_int_equal(write(server, "still", 5), 5);
    close(server);
    close(client);
}

/* --- cancellation --- */

static void *wait_in(void *style)
{
    int set = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN};
    struct pollfd readable = {.fd = listener, .events = POLLIN};
    epoll_ctl(set, EPOLL_CTL_ADD, listener, &event);
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
    for (;;) {
        fd_set readables;
        int server;
        switch ((int)(intptr_t)style) {
        case 0:
            poll(&readable, 1, -1);
            break;
        case 1:
            epoll_wait(set, &event, 1, -1);
            break;
        case 2:
            FD_ZERO(&readables);
            FD_SET(listener, &readables);
            select(listener + 1, &readables, NULL, NULL, NULL);
            break;
        default:
            break;
        }
        if ((server = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
            close(server);
    }
    return NULL;
}

static void cancelled_threads_leave_nothing_locked(void **state)
{
    (void)state;
    for (int i = 0; i < ROUNDS / 2; i++) {
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, wait_in, (void *)(intptr_t)(i % 4)), 0);
        int client = i % 3 ? connected() : -1;
        pthread_cancel(thread);
        assert_int_equal(pthread_join(thread, NULL), 0);
        if (client >= 0)
            close(client);
        /* A thread cancelled after accept keeps its client: that is POSIX, and the process' own. */
    }
    while (accept4(listener, NULL, NULL, SOCK_CLOEXEC) >= 0)
        ;
}

/* --- small stacks --- */

static void *serve_on_a_small_stack(void *result)
{
    *(bool *)result = serve_one();
    return NULL;
}

static void stacks_of_64_KB_suffice(void **state)
{
    pthread_attr_t attributes;
    pthread_t thread;
    bool served = false;
    (void)state;
    pthread_attr_init(&attributes);
    assert_int_equal(pthread_attr_setstacksize(&attributes, SMALL_STACK), 0);
    assert_int_equal(pthread_create(&thread, &attributes, serve_on_a_small_stack, &served), 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attributes);
    assert_true(served);
}

/* On an alternative stack, which is smaller still. */
static void handlers_on_a_stack_of_their_own(void **state)
{
    static char stack[32768];
    stack_t alternative = {.ss_sp = stack, .ss_size = sizeof stack},
            none = {.ss_flags = SS_DISABLE};
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART | SA_ONSTACK};
    (void)state;
    sigaltstack(&alternative, NULL);
    sigaction(SIGUSR1, &action, NULL);
    for (int i = 0; i < ROUNDS / 10; i++) {
        int client = connected(), before = handled;
        raise(SIGUSR1);
        assert_true(handled > before);
        close(client);
    }
    signal(SIGUSR1, SIG_DFL);
    sigaltstack(&none, NULL);
    while (accept4(listener, NULL, NULL, SOCK_CLOEXEC) >= 0)
        ;
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(calls_work_before_constructors),
        TEST(handlers_make_calls),
        TEST(calls_between_fork_and_exec),
        TEST(calls_in_a_vfork_child),
        TEST(stacks_of_64_KB_suffice),
        TEST(handlers_on_a_stack_of_their_own),
        TEST(cancelled_threads_leave_nothing_locked),
    };
    return cmocka_run_group_tests_name("stress", tests, NULL, NULL);
}
