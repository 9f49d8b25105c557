/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * accept, poll, select and epoll when nobody is to be accepted: errors, signals, timeouts and
 * cancellation are as POSIX and Linux have them.
 *
 * The same tests run bare, where nobody is to be accepted because nobody came, and under the shim
 * at conns=1, where somebody waits and there is no slot.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "asleep.h"

static bool shimmed;
static int listener, inside = -1, inside_client = -1, waiting_client = -1;
static _Atomic int handled;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int connect_to(int to)
{
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(getsockname(to, (struct sockaddr *)&address, &length), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, length), 0);
    return fd;
}

static int listen_anywhere(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 8), 0);
    return fd;
}

/* A listener that has nobody to hand out. */
static int set_up(void **state)
{
    (void)state;
    listener = listen_anywhere();
    if (shimmed) {
        inside_client = connect_to(listener);
        inside = accept(listener, NULL, NULL);
        assert_true(inside >= 0);
        waiting_client = connect_to(listener);
    }
    atomic_store(&handled, 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    close(listener);
    if (shimmed) {
        close(inside);
        close(inside_client);
        close(waiting_client);
    }
    return 0;
}

/* Lets somebody be accepted. */
static int make_room(void)
{
    if (!shimmed)
        return connect_to(listener);
    close(inside);
    inside = -1;
    return -1;
}

static void handle(int signal_number)
{
    (void)signal_number;
    atomic_fetch_add(&handled, 1);
}

static void catch (int signal_number, int flags)
{
    struct sigaction action = {.sa_flags = flags};
    action.sa_handler = handle;
    assert_int_equal(sigaction(signal_number, &action, NULL), 0);
}

static void ignore_again(int signal_number)
{
    signal(signal_number, SIG_DFL);
}

static void set_nonblocking(void)
{
    assert_int_equal(fcntl(listener, F_SETFL, O_NONBLOCK), 0);
}

struct call {
    pthread_t thread;
    _Atomic int thread_id; /* of the kernel, once it runs */
    _Atomic bool done;
    int result, error;
};

static void *blocked_accept(void *argument)
{
    struct call *call = argument;
    atomic_store(&call->thread_id, gettid());
    call->result = accept(listener, NULL, NULL);
    call->error = errno;
    atomic_store(&call->done, true);
    return NULL;
}

static void until_asleep(const struct call *call)
{
    assert_true(falls_asleep(&call->thread_id));
}

static void start(struct call *call)
{
    memset(call, 0, sizeof *call);
    assert_int_equal(pthread_create(&call->thread, NULL, blocked_accept, call), 0);
    until_asleep(call);
}

/* Joins the thread, which has to come to its end: a lost wake-up fails, it does not hang. */
static void finish(const struct call *call)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    assert_int_equal(pthread_timedjoin_np(call->thread, NULL, &until), 0);
}

static void until_handled(int times)
{
    for (int i = 0; i < 5000 && atomic_load(&handled) < times; i++)
        nap();
    assert_int_equal(atomic_load(&handled), times);
}

static void nonblocking_accept_says_eagain(void **state)
{
    (void)state;
    set_nonblocking();
    assert_int_equal(accept(listener, NULL, NULL), -1);
    assert_int_equal(errno, EAGAIN);
}

static void receive_timeout_ends_accept(void **state)
{
    struct timeval timeout = {0, 120000};
    (void)state;
    assert_int_equal(setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout), 0);
    double started = now();
    assert_int_equal(accept(listener, NULL, NULL), -1);
    assert_int_equal(errno, EAGAIN);
    assert_true(now() - started >= 0.119);
}

static void blocked_accept_gets_in_when_there_is_room(void **state)
{
    struct call call;
    (void)state;
    start(&call);
    int client = make_room();
    finish(&call);
    assert_true(call.result >= 0);
    close(call.result);
    close(client);
}

static void handler_without_restart_interrupts(void **state)
{
    struct call call;
    (void)state;
    catch (SIGUSR1, 0);
    start(&call);
    pthread_kill(call.thread, SIGUSR1);
    finish(&call);
    ignore_again(SIGUSR1);
    assert_int_equal(call.result, -1);
    assert_int_equal(call.error, EINTR);
    assert_int_equal(atomic_load(&handled), 1);
}

/* Somebody could be let in, and nobody comes: what a program waits for most of its time. */
static void empty_the_queue(void)
{
    if (!shimmed)
        return;
    close(inside);
    inside = accept(listener, NULL, NULL);
    assert_true(inside >= 0);
    close(inside);
    inside = -1;
}

/* No handler was there when the wait began, so that no signal had to be held back for it. */
static void interrupt_by_a_later_handler(void)
{
    struct call call;
    start(&call);
    catch (SIGUSR1, 0);
    pthread_kill(call.thread, SIGUSR1);
    finish(&call);
    ignore_again(SIGUSR1);
    assert_int_equal(call.result, -1);
    assert_int_equal(call.error, EINTR);
    assert_int_equal(atomic_load(&handled), 1);
}

static void handler_that_comes_later_interrupts(void **state)
{
    (void)state;
    interrupt_by_a_later_handler();
    empty_the_queue();
    atomic_store(&handled, 0);
    interrupt_by_a_later_handler();
}

static void handlers_have_their_way_where_nobody_comes(void **state)
{
    empty_the_queue();
    handler_without_restart_interrupts(state);
    atomic_store(&handled, 0);
    struct call call;
    catch (SIGUSR1, SA_RESTART);
    start(&call);
    pthread_kill(call.thread, SIGUSR1);
    until_handled(1);
    until_asleep(&call);
    int client = connect_to(listener);
    finish(&call);
    ignore_again(SIGUSR1);
    assert_true(call.result >= 0);
    close(call.result);
    close(client);
}

/* Nobody handles a signal: nothing is held back, and the thread's mask is nobody's but its own. */
static void cancellation_ends_an_accept_where_nobody_comes(void **state)
{
    struct call call;
    void *result;
    (void)state;
    empty_the_queue();
    start(&call);
    pthread_cancel(call.thread);
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    assert_int_equal(pthread_timedjoin_np(call.thread, &result, &until), 0);
    assert_ptr_equal(result, PTHREAD_CANCELED);
}

static void handler_with_restart_does_not(void **state)
{
    struct call call;
    (void)state;
    catch (SIGUSR1, SA_RESTART);
    start(&call);
    for (int i = 1; i <= 3; i++) {
        pthread_kill(call.thread, SIGUSR1);
        until_handled(i);
        until_asleep(&call);
        assert_false(atomic_load(&call.done));
    }
    int client = make_room();
    finish(&call);
    ignore_again(SIGUSR1);
    assert_true(call.result >= 0);
    close(call.result);
    close(client);
}

/* Each handler has its own way, when there are handlers of both kinds. */
static void restarting_and_interrupting_handlers_side_by_side(void **state)
{
    struct call call;
    (void)state;
    catch (SIGUSR1, SA_RESTART);
    catch (SIGUSR2, 0);
    start(&call);
    pthread_kill(call.thread, SIGUSR1);
    until_handled(1);
    until_asleep(&call);
    assert_false(atomic_load(&call.done));
    pthread_kill(call.thread, SIGUSR2);
    finish(&call);
    ignore_again(SIGUSR1);
    ignore_again(SIGUSR2);
    assert_int_equal(call.result, -1);
    assert_int_equal(call.error, EINTR);
    assert_int_equal(atomic_load(&handled), 2);
}

static void receive_timeout_makes_every_handler_interrupt(void **state)
{
    struct timeval timeout = {20, 0};
    struct call call;
    (void)state;
    assert_int_equal(setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout), 0);
    catch (SIGUSR1, SA_RESTART);
    start(&call);
    pthread_kill(call.thread, SIGUSR1);
    finish(&call);
    ignore_again(SIGUSR1);
    assert_int_equal(call.result, -1);
    assert_int_equal(call.error, EINTR); /* signal(7): timeouts are never restarted */
}

static void cancellation_ends_a_blocked_accept(void **state)
{
    struct call call;
    void *result;
    (void)state;
    start(&call);
    pthread_cancel(call.thread);
    pthread_join(call.thread, &result);
    assert_ptr_equal(result, PTHREAD_CANCELED);
    blocked_accept_gets_in_when_there_is_room(NULL); /* it took no slot along */
}

static void shutdown_ends_a_blocked_accept(void **state)
{
    struct call call;
    (void)state;
    start(&call);
    shutdown(listener, SHUT_RDWR);
    finish(&call);
    assert_int_equal(call.result, -1);
    assert_int_equal(call.error, EINVAL);
}

static void errors_are_the_kernels(void **state)
{
    int pipes[2], plain = socket(AF_INET, SOCK_STREAM, 0);
    (void)state;
    set_nonblocking();
    assert_int_equal(pipe(pipes), 0);
    assert_int_equal(accept(-1, NULL, NULL), -1);
    assert_int_equal(errno, EBADF);
    assert_int_equal(accept(pipes[0], NULL, NULL), -1);
    assert_int_equal(errno, ENOTSOCK);
    assert_int_equal(accept(plain, NULL, NULL), -1);
    assert_int_equal(errno, EINVAL);
    assert_int_equal(accept4(listener, NULL, NULL, 1 << 30), -1);
#ifdef __GLIBC__ /* musl 1.2.3's own tries accept then, and finds nobody */
    assert_int_equal(errno, EINVAL);
#endif
    close(pipes[0]);
    close(pipes[1]);
    close(plain);
}

static void poll_waits_out_its_time(void **state)
{
    struct pollfd fds = {.fd = listener, .events = POLLIN, .revents = 77};
    (void)state;
    double started = now();
    assert_int_equal(poll(&fds, 1, 0), 0);
    assert_int_equal(poll(&fds, 1, 60), 0);
    assert_true(now() - started >= 0.059);
    assert_int_equal(fds.revents, 0);
    assert_int_equal(fds.fd, listener);
}

static void poll_reports_room(void **state)
{
    struct pollfd fds = {.fd = listener, .events = POLLIN};
    (void)state;
    int client = make_room();
    assert_int_equal(poll(&fds, 1, 5000), 1);
    assert_int_equal(fds.revents, POLLIN);
    close(client);
}

static void poll_reports_what_else_is_ready(void **state)
{
    int pipes[2];
    (void)state;
    assert_int_equal(pipe(pipes), 0);
    struct pollfd fds[] = {{.fd = listener, .events = POLLIN},
                           {.fd = -1, .events = POLLIN},
                           {.fd = pipes[0], .events = POLLIN},
                           {.fd = pipes[1], .events = POLLOUT}};
    assert_int_equal(poll(fds, 4, 5000), 1);
    assert_int_equal(write(pipes[1], "x", 1), 1);
    assert_int_equal(poll(fds, 4, 5000), 2);
    assert_int_equal(fds[0].revents, 0);
    assert_int_equal(fds[1].revents, 0);
    assert_int_equal(fds[2].revents, POLLIN);
    assert_int_equal(fds[3].revents, POLLOUT);
    close(pipes[0]);
    close(pipes[1]);
}

/* poll never restarts, whatever the handler: signal(7). */
static void *poll_in_thread(void *argument)
{
    struct call *call = argument;
    struct pollfd fds = {.fd = listener, .events = POLLIN};
    atomic_store(&call->thread_id, gettid());
    call->result = poll(&fds, 1, -1);
    call->error = errno;
    return NULL;
}

static void signals_interrupt_poll(void **state)
{
    struct call call = {.result = 0};
    (void)state;
    catch (SIGUSR1, SA_RESTART);
    assert_int_equal(pthread_create(&call.thread, NULL, poll_in_thread, &call), 0);
    until_asleep(&call);
    pthread_kill(call.thread, SIGUSR1);
    finish(&call);
    ignore_again(SIGUSR1);
    assert_int_equal(call.result, -1);
    assert_int_equal(call.error, EINTR);
}

static int wait_with_accept(void)
{
    return accept(listener, NULL, NULL);
}

static int wait_with_poll(void)
{
    struct pollfd fds = {.fd = listener, .events = POLLIN};
    return poll(&fds, 1, -1);
}

static int wait_with_select(void)
{
    fd_set set;
    FD_ZERO(&set);
    FD_SET(listener, &set);
    return select(listener + 1, &set, NULL, NULL, NULL);
}

static int wait_with_epoll(void)
{
    struct epoll_event event = {.events = EPOLLIN};
    int set = epoll_create1(0);
    epoll_ctl(set, EPOLL_CTL_ADD, listener, &event);
    int result = epoll_wait(set, &event, 1, -1);
    int error = errno;
    close(set);
    errno = error;
    return result;
}

#define INTERRUPTIONS 100

struct interrupted {
    struct call call;
    int (*wait)(void);
    _Atomic int waits, wrong;
};

static void *wait_again_and_again(void *argument)
{
    struct interrupted *interrupted = argument;
    atomic_store(&interrupted->call.thread_id, gettid());
    for (int i = 0; i < INTERRUPTIONS; i++) {
        if (interrupted->wait() != -1 || errno != EINTR)
            atomic_fetch_add(&interrupted->wrong, 1);
        atomic_fetch_add(&interrupted->waits, 1);
    }
    return NULL;
}

/* Also the signal that comes while the shim looks for room, between two turns of its wait. */
static void every_signal_ends_a_wait(void **state)
{
    struct interrupted interrupted = {.wait = *(int (**)(void)) * state};
    catch (SIGUSR1, 0);
    assert_int_equal(
        pthread_create(&interrupted.call.thread, NULL, wait_again_and_again, &interrupted), 0);
    for (int i = 0; i < INTERRUPTIONS; i++) {
        for (int naps = 0; atomic_load(&interrupted.waits) < i && naps < 5000; naps++)
            nap();
        assert_int_equal(atomic_load(&interrupted.waits), i);
        until_asleep(&interrupted.call);
        /* At some moment of the sixteen milliseconds that follow. */
        for (double until = now() + (i * 7919 % 16000) / 1e6; now() < until;)
            ;
        pthread_kill(interrupted.call.thread, SIGUSR1);
    }
    finish(&interrupted.call);
    ignore_again(SIGUSR1);
    assert_int_equal(interrupted.wrong, 0);
}

static void *wait_once(void *argument)
{
    struct interrupted *waiter = argument;
    atomic_store(&waiter->call.thread_id, gettid());
    waiter->call.result = waiter->wait();
    atomic_store(&waiter->call.done, true);
    return NULL;
}

/* Somebody comes in at another listener, and takes the slot there was when the wait began. */
static void fill_up_elsewhere(int elsewhere)
{
    if (!shimmed)
        return;
    inside_client = connect_to(elsewhere);
    inside = accept(elsewhere, NULL, NULL);
    assert_true(inside >= 0);
    waiting_client = connect_to(listener);
}

static void a_wait_that_began_with_room_withholds_what_came_too_late(void **state)
{
    struct interrupted waiter = {.wait = *(int (**)(void)) * state};
    int elsewhere = listen_anywhere();
    if (shimmed) {
        close(inside);
        close(inside_client);
        assert_int_equal(shutdown(waiting_client, SHUT_RDWR), 0);
        close(accept(listener, NULL, NULL));
        close(waiting_client);
    }
    assert_int_equal(pthread_create(&waiter.call.thread, NULL, wait_once, &waiter), 0);
    until_asleep(&waiter.call);
    fill_up_elsewhere(elsewhere);
    for (int naps = 0; naps < 30; naps++, nap())
        assert_false(atomic_load(&waiter.call.done));
    int client = make_room();
    finish(&waiter.call);
    assert_int_equal(waiter.call.result, 1);
    close(client);
    close(elsewhere);
}

static void ppoll_opens_its_signal_mask(void **state)
{
    struct pollfd fds = {.fd = listener, .events = POLLIN};
    sigset_t blocked, open;
    (void)state;
    catch (SIGUSR1, SA_RESTART);
    sigemptyset(&open);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &blocked, NULL);
    pthread_kill(pthread_self(), SIGUSR1);
    assert_int_equal(atomic_load(&handled), 0);
    assert_int_equal(ppoll(&fds, 1, NULL, &open), -1);
    assert_int_equal(errno, EINTR);
    assert_int_equal(atomic_load(&handled), 1);
    pthread_sigmask(SIG_UNBLOCK, &blocked, NULL);
    ignore_again(SIGUSR1);
}

static void select_waits_and_tells_what_is_left(void **state)
{
    struct timeval timeout = {0, 60000};
    fd_set set;
    (void)state;
    FD_ZERO(&set);
    FD_SET(listener, &set);
    double started = now();
    assert_int_equal(select(listener + 1, &set, NULL, NULL, &timeout), 0);
    assert_true(now() - started >= 0.059);
    assert_false(FD_ISSET(listener, &set));
    assert_int_equal(timeout.tv_sec, 0);
#ifdef __GLIBC__
    assert_int_equal(timeout.tv_usec, 0);
#else
    assert_int_equal(timeout.tv_usec, 60000); /* musl gives the kernel a copy */
#endif
    int client = make_room();
    timeout.tv_sec = 5;
    FD_SET(listener, &set);
    assert_int_equal(select(listener + 1, &set, NULL, NULL, &timeout), 1);
    assert_true(FD_ISSET(listener, &set));
    assert_true(timeout.tv_sec >= 1);
    close(client);
}

static void select_leaves_the_other_sets_right(void **state)
{
    int pipes[2];
    fd_set read_set, write_set;
    (void)state;
    assert_int_equal(pipe(pipes), 0);
    FD_ZERO(&read_set);
    FD_ZERO(&write_set);
    FD_SET(listener, &read_set);
    FD_SET(pipes[0], &read_set);
    FD_SET(pipes[1], &write_set);
    assert_int_equal(select(pipes[1] + 1, &read_set, &write_set, NULL, NULL), 1);
    assert_false(FD_ISSET(listener, &read_set));
    assert_false(FD_ISSET(pipes[0], &read_set));
    assert_true(FD_ISSET(pipes[1], &write_set));
    close(pipes[0]);
    close(pipes[1]);
}

/* The old idiom select(getdtablesize(), ...): the kernel looks no further than its own table. */
static void select_reads_no_further_than_the_kernel(void **state)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct timeval timeout = {0, 20000};
    (void)state;
    assert_true(pages != MAP_FAILED);
    assert_int_equal(mprotect(pages + page, page, PROT_NONE), 0);
    fd_set *set = (fd_set *)(void *)(pages + page - sizeof *set);
    FD_SET(listener, set);
    assert_int_equal(select(1 << 20, set, NULL, NULL, &timeout), 0);
    assert_false(FD_ISSET(listener, set));
    int client = make_room();
    timeout.tv_sec = 5;
    FD_SET(listener, set);
    assert_int_equal(select(1 << 20, set, NULL, NULL, &timeout), 1);
    assert_true(FD_ISSET(listener, set));
    close(client);
    munmap(pages, 2 * page);
}

static int epoll_with(uint32_t events)
{
    struct epoll_event event = {.events = events, .data.u64 = 4711};
    int set = epoll_create1(0);
    assert_int_equal(epoll_ctl(set, EPOLL_CTL_ADD, listener, &event), 0);
    return set;
}

static void epoll_waits_then_reports_room(void **state)
{
    static const uint32_t kinds[] = {EPOLLIN, EPOLLIN | EPOLLET, EPOLLIN | EPOLLONESHOT,
                                     EPOLLIN | EPOLLEXCLUSIVE};
    uint32_t kind = kinds[(uintptr_t)*state];
    struct epoll_event event = {0};
    int set = epoll_with(kind);
    double started = now();
    assert_int_equal(epoll_wait(set, &event, 1, 0), 0);
    assert_int_equal(epoll_wait(set, &event, 1, 60), 0);
    assert_true(now() - started >= 0.059);
    int client = make_room();
    assert_int_equal(epoll_wait(set, &event, 1, 5000), 1);
    assert_int_equal(event.data.u64, 4711);
    assert_int_equal(event.events, EPOLLIN);
    int fd = accept(listener, NULL, NULL);
    assert_true(fd >= 0);
    close(fd);
    close(client);
    close(set);
}

/* What epoll_ctl says does not depend on whether the listener is out of sight just now. */
static void epoll_ctl_answers_as_ever(void **state)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 1};
    int set = epoll_with(EPOLLIN);
    (void)state;
    assert_int_equal(epoll_wait(set, &event, 1, 20), 0);
    event = (struct epoll_event){.events = EPOLLIN, .data.u64 = 1};
    assert_int_equal(epoll_ctl(set, EPOLL_CTL_ADD, listener, &event), -1);
    assert_int_equal(errno, EEXIST);
    event.data.u64 = 2;
    assert_int_equal(epoll_ctl(set, EPOLL_CTL_MOD, listener, &event), 0);
    int client = make_room();
    assert_int_equal(epoll_wait(set, &event, 1, 5000), 1);
    assert_int_equal(event.data.u64, 2);
    assert_int_equal(epoll_ctl(set, EPOLL_CTL_DEL, listener, NULL), 0);
    assert_int_equal(epoll_ctl(set, EPOLL_CTL_DEL, listener, NULL), -1);
    assert_int_equal(errno, ENOENT);
    assert_int_equal(epoll_wait(set, &event, 1, 20), 0);
    close(client);
    close(set);
}

/* An edge that was reported before, and used up by an accept that was told EAGAIN, comes again. */
static void edge_comes_again_after_eagain(void **state)
{
    struct epoll_event event = {0};
    (void)state;
    set_nonblocking();
    int set = epoll_with(EPOLLIN | EPOLLET);
    assert_int_equal(accept(listener, NULL, NULL), -1);
    assert_int_equal(epoll_wait(set, &event, 1, 20), 0);
    int client = make_room();
    assert_int_equal(epoll_wait(set, &event, 1, 5000), 1);
    int fd = accept(listener, NULL, NULL);
    assert_true(fd >= 0);
    assert_int_equal(accept(listener, NULL, NULL), -1);
    assert_int_equal(errno, EAGAIN);
    close(fd);
    close(client);
    close(set);
}

static void set_within_a_set(void **state)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 99};
    int inner = epoll_with(EPOLLIN), outer = epoll_create1(0);
    (void)state;
    assert_int_equal(epoll_ctl(outer, EPOLL_CTL_ADD, inner, &event), 0);
    assert_int_equal(epoll_wait(inner, &event, 1, 0), 0);
    assert_int_equal(epoll_wait(outer, &event, 1, 20), 0);
    int client = make_room();
    assert_int_equal(epoll_wait(outer, &event, 1, 5000), 1);
    assert_int_equal(event.data.u64, 99);
    assert_int_equal(epoll_wait(inner, &event, 1, 5000), 1);
    assert_int_equal(event.data.u64, 4711);
    close(client);
    close(inner);
    close(outer);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)
#define EPOLL_TEST(index, kind)                                                                    \
    {                                                                                              \
        "epoll_waits_then_reports_room, " kind, epoll_waits_then_reports_room, set_up, tear_down,  \
            (void *)(uintptr_t)(index)                                                             \
    }

#define SIGNAL_TEST(call)                                                                          \
    {                                                                                              \
        "every_signal_ends_a_wait, " #call, every_signal_ends_a_wait, set_up, tear_down,           \
            &waits_with_##call                                                                     \
    }

#define ROOM_TEST(call)                                                                            \
    {                                                                                              \
        "a_wait_that_began_with_room_withholds_what_came_too_late, " #call,                        \
            a_wait_that_began_with_room_withholds_what_came_too_late, set_up, tear_down,           \
            &waits_with_##call                                                                     \
    }

int main(void)
{
    static int (*waits_with_accept)(void) = wait_with_accept;
    static int (*waits_with_poll)(void) = wait_with_poll;
    static int (*waits_with_select)(void) = wait_with_select;
    static int (*waits_with_epoll)(void) = wait_with_epoll;
    const struct CMUnitTest tests[] = {
        TEST(nonblocking_accept_says_eagain),
        TEST(receive_timeout_ends_accept),
        TEST(blocked_accept_gets_in_when_there_is_room),
        TEST(handler_without_restart_interrupts),
        TEST(handler_that_comes_later_interrupts),
        TEST(handlers_have_their_way_where_nobody_comes),
        TEST(cancellation_ends_an_accept_where_nobody_comes),
        TEST(handler_with_restart_does_not),
        TEST(restarting_and_interrupting_handlers_side_by_side),
        TEST(receive_timeout_makes_every_handler_interrupt),
        TEST(cancellation_ends_a_blocked_accept),
        TEST(shutdown_ends_a_blocked_accept),
        TEST(errors_are_the_kernels),
        TEST(poll_waits_out_its_time),
        TEST(poll_reports_room),
        TEST(poll_reports_what_else_is_ready),
        TEST(signals_interrupt_poll),
        SIGNAL_TEST(accept),
        SIGNAL_TEST(poll),
        SIGNAL_TEST(select),
        SIGNAL_TEST(epoll),
        ROOM_TEST(poll),
        ROOM_TEST(select),
        ROOM_TEST(epoll),
        TEST(ppoll_opens_its_signal_mask),
        TEST(select_waits_and_tells_what_is_left),
        TEST(select_leaves_the_other_sets_right),
        TEST(select_reads_no_further_than_the_kernel),
        EPOLL_TEST(0, "level"),
        EPOLL_TEST(1, "edge"),
        EPOLL_TEST(2, "oneshot"),
        EPOLL_TEST(3, "exclusive"),
        TEST(epoll_ctl_answers_as_ever),
        TEST(edge_comes_again_after_eagain),
        TEST(set_within_a_set),
    };
    shimmed = getenv("BACKPRESSURE") != NULL;
    return cmocka_run_group_tests_name(shimmed ? "semantics under the shim" : "semantics, bare",
                                       tests, NULL, NULL);
}
