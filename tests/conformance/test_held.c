/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Requests that wait for their turn, by every way a program waits for input: it is told of one
 * request at a time, in the order in which they arrived, of the next one as soon as it has
 * answered, and of errors, signals and the end of its time as without the library. Under the shim,
 * with total-requests=1.
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define CONNECTIONS 6
#define PATIENCE_MS 60000
#define A_MOMENT_MS 40 /* in which nothing is to happen */
#define ROUNDS 40
#define WORKERS 4

static const char request[] = "GET /x HTTP/1.1\r\nHost: held\r\n\r\n";
static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

static int client[CONNECTIONS], server[CONNECTIONS], set = -1;
static int watched = CONNECTIONS; /* so many of server[] */
static _Atomic int handled;

/* --- connections --- */

static int listening(struct sockaddr_in *address)
{
    socklen_t length = sizeof *address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    *address =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(bind(listener, (struct sockaddr *)address, sizeof *address), 0);
    assert_int_equal(listen(listener, CONNECTIONS), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)address, &length), 0);
    return listener;
}

static int connected(const struct sockaddr_in *address)
{
    struct timeval patience = {.tv_sec = PATIENCE_MS / 1000};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)address, sizeof *address), 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return fd;
}

static void note_signal(int number)
{
    (void)number;
    handled++;
}

static int set_up(void **state)
{
    struct sockaddr_in address;
    int listener = listening(&address);
    (void)state;
    alarm(PATIENCE_MS / 1000);
    signal(SIGPIPE, SIG_IGN);
    handled = 0;
    set = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < CONNECTIONS; i++) {
        client[i] = connected(&address);
        server[i] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        assert_true(server[i] >= 0);
    }
    return close(listener);
}

static int tear_down(void **state)
{
    (void)state;
    alarm(0);
    for (int i = 0; i < CONNECTIONS; i++) {
        close(client[i]);
        close(server[i]);
    }
    return close(set);
}

static void ask(int fd)
{
    assert_int_equal(send(fd, request, sizeof request - 1, 0), sizeof request - 1);
}

static void hear(int fd)
{
    char bytes[sizeof answer];
    assert_int_equal(recv(fd, bytes, sizeof answer - 1, MSG_WAITALL), sizeof answer - 1);
    assert_memory_equal(bytes, answer, sizeof answer - 1);
}

/* Whether a request was read. */
static bool take(int fd, int flags)
{
    char bytes[sizeof request];
    ssize_t length = recv(fd, bytes, sizeof request - 1, flags);
    return length == sizeof request - 1 && memcmp(bytes, request, sizeof request - 1) == 0;
}

static bool tell(int fd)
{
    return send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL) == sizeof answer - 1;
}

/* --- ways to wait --- */

struct style {
    const char *name;
    uint32_t events;                         /* of epoll; 0 where it is another call */
    int (*wait)(int timeout_ms, int *ready); /* how many are readable, or what the call says */
    int flags;                               /* of the reads */
};

static int by_epoll(int timeout_ms, int *ready)
{
    struct epoll_event events[2 * CONNECTIONS];
    int count = epoll_wait(set, events, 2 * CONNECTIONS, timeout_ms), readable = 0;
    for (int i = 0; i < count; i++)
        if (events[i].events & ~(uint32_t)(EPOLLOUT | EPOLLWRNORM))
            ready[readable++] = events[i].data.fd;
    return count < 0 ? count : readable;
}

static int by_poll(int timeout_ms, int *ready)
{
    struct pollfd fds[CONNECTIONS];
    int readable = 0;
    for (int i = 0; i < watched; i++)
        fds[i] = (struct pollfd){.fd = server[i], .events = POLLIN};
    int count = poll(fds, (nfds_t)watched, timeout_ms);
    for (int i = 0; count > 0 && i < watched; i++)
        if (fds[i].revents)
            ready[readable++] = server[i];
    assert_true(count < 0 || count == readable);
    return count;
}

static int by_select(int timeout_ms, int *ready)
{
    struct timeval time = {.tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000};
    fd_set reads;
    int end = 0, readable = 0;
    FD_ZERO(&reads);
    for (int i = 0; i < watched; i++) {
        FD_SET(server[i], &reads);
        end = server[i] < end ? end : server[i] + 1;
    }
    int count = select(end, &reads, NULL, NULL, timeout_ms < 0 ? NULL : &time);
    for (int i = 0; count > 0 && i < watched; i++)
        if (FD_ISSET(server[i], &reads))
            ready[readable++] = server[i];
    assert_true(count < 0 || count == readable);
    return count;
}

static const struct style styles[] = {
    {"epoll, level-triggered", EPOLLIN | EPOLLRDHUP, by_epoll, MSG_DONTWAIT},
    {"epoll, edge-triggered", EPOLLIN | EPOLLRDHUP | EPOLLET, by_epoll, MSG_DONTWAIT},
    {"epoll, edge-triggered for both", EPOLLIN | EPOLLOUT | EPOLLET, by_epoll, MSG_DONTWAIT},
    {"epoll, one shot", EPOLLIN | EPOLLONESHOT, by_epoll, MSG_DONTWAIT},
    {"epoll, one shot and edge", EPOLLIN | EPOLLONESHOT | EPOLLET, by_epoll, MSG_DONTWAIT},
    {"epoll, exclusive", EPOLLIN | EPOLLEXCLUSIVE, by_epoll, MSG_DONTWAIT},
    {"poll", 0, by_poll, MSG_DONTWAIT},
    {"poll before reads that block", 0, by_poll, 0},
    {"select", 0, by_select, MSG_DONTWAIT},
    {"select before reads that block", 0, by_select, 0},
};

static void watch(const struct style *style, int operation, int fd)
{
    struct epoll_event event = {.events = style->events, .data.fd = fd};
    if (style->events)
        assert_int_equal(epoll_ctl(set, operation, fd, &event), 0);
}

/* With EPOLLOUT and an edge the first report is of that. */
static void watch_all(const struct style *style)
{
    int ready[2 * CONNECTIONS];
    for (int i = 0; i < CONNECTIONS; i++)
        watch(style, EPOLL_CTL_ADD, server[i]);
    assert_int_equal(style->wait(0, ready), 0);
}

static void answered(const struct style *style, int fd)
{
    assert_true(tell(fd));
    if (style->events & EPOLLONESHOT)
        watch(style, EPOLL_CTL_MOD, fd);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* One asks, and is in the program; then the others ask, in an order of their own. */
static int first_of_all(const struct style *style)
{
    int ready[2 * CONNECTIONS];
    watch_all(style);
    ask(client[CONNECTIONS - 1]);
    assert_int_equal(style->wait(PATIENCE_MS, ready), 1);
    assert_true(take(ready[0], style->flags));
    for (int i = CONNECTIONS - 2; i >= 0; i--)
        ask(client[i]);
    return ready[0];
}

/* --- one thread --- */

static void told_of_one_at_a_time(void **state)
{
    const struct style *style = *state;
    int ready[2 * CONNECTIONS], fd = first_of_all(style);
    for (int i = CONNECTIONS - 1; i > 0; i--) {
        assert_int_equal(fd, server[i]);
        assert_int_equal(style->wait(A_MOMENT_MS, ready), 0);
        assert_int_equal(style->wait(0, ready), 0);
        answered(style, fd);
        assert_int_equal(style->wait(PATIENCE_MS, ready), 1);
        fd = ready[0];
        assert_true(take(fd, style->flags));
    }
    assert_int_equal(fd, server[0]);
    answered(style, fd);
    assert_int_equal(style->wait(0, ready), 0);
    for (int i = 0; i < CONNECTIONS; i++)
        hear(client[i]);
}

static void time_and_signals_as_ever(void **state)
{
    const struct style *style = *state;
    struct sigaction action = {.sa_handler = note_signal}, before;
    struct itimerval soon = {.it_value.tv_usec = 30000};
    int ready[2 * CONNECTIONS];
    first_of_all(style);
    assert_int_equal(style->wait(0, ready), 0); /* nor of room to write any more */
    double begun = now();
    assert_int_equal(style->wait(A_MOMENT_MS, ready), 0);
    assert_true(now() - begun >= A_MOMENT_MS / 1e3);
    alarm(0);
    sigaction(SIGALRM, &action, &before);
    setitimer(ITIMER_REAL, &soon, NULL);
    assert_int_equal(style->wait(PATIENCE_MS, ready), -1);
    assert_int_equal(errno, EINTR);
    assert_int_equal(handled, 1);
    sigaction(SIGALRM, &before, NULL);
}

/* Who waits for its turn and goes away for good is told of, and found to be gone. */
static void broken_is_told_of(void **state)
{
    const struct style *style = *state;
    struct linger at_once = {.l_onoff = 1};
    int ready[2 * CONNECTIONS];
    char bytes[256];
    first_of_all(style);
    assert_int_equal(style->wait(0, ready), 0);
    setsockopt(client[1], SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(client[1]);
    assert_int_equal(style->wait(PATIENCE_MS, ready), 1);
    assert_int_equal(ready[0], server[1]);
    while (recv(server[1], bytes, sizeof bytes, style->flags) > 0)
        ;
    assert_int_equal(errno, ECONNRESET);
    client[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

/* What comes on the same connection behind a request is told of, too. */
static void another_behind_it(void **state)
{
    const struct style *style = *state;
    int ready[2 * CONNECTIONS];
    watch_all(style);
    for (int i = 0; i < ROUNDS; i++) {
        ask(client[0]);
        assert_int_equal(style->wait(PATIENCE_MS, ready), 1);
        assert_true(take(ready[0], style->flags));
        answered(style, ready[0]);
        hear(client[0]);
    }
}

/* --- under when-full=busy --- */

/* What comes back is whole, and says that the server is busy. */
static void hear_busy(int fd)
{
    char bytes[1024] = "";
    size_t length = 0, whole = sizeof bytes;
    while (length < whole) {
        ssize_t more = recv(fd, bytes + length, sizeof bytes - 1 - length, 0);
        const char *end = strstr(bytes, "\r\n\r\n"), *size = strstr(bytes, "Content-Length: ");
        assert_true(more > 0);
        length += (size_t)more;
        if (end && size)
            whole = (size_t)(end + 4 - bytes) + strtoul(size + 16, NULL, 10);
    }
    assert_memory_equal(bytes, "HTTP/1.1 503 ", 13);
    assert_int_equal(length, whole);
}

/* The program is not told of who was refused, and of what the same clients ask later it is. */
static void refused_and_stays(void **state)
{
    const struct style *style = *state;
    int ready[2 * CONNECTIONS], fd = first_of_all(style);
    assert_int_equal(style->wait(A_MOMENT_MS, ready), 0);
    for (int i = 0; i < CONNECTIONS - 1; i++)
        hear_busy(client[i]);
    assert_int_equal(style->wait(0, ready), 0);
    answered(style, fd);
    hear(client[CONNECTIONS - 1]);
    for (int i = 0; i < CONNECTIONS; i++) {
        ask(client[i]);
        assert_int_equal(style->wait(PATIENCE_MS, ready), 1);
        assert_int_equal(ready[0], server[i]);
        assert_true(take(ready[0], style->flags));
        answered(style, ready[0]);
        hear(client[i]);
    }
}

/* --- several threads, or processes --- */

struct shared {
    _Atomic int inside, most, served;
};
static struct shared *shared;

static void enter(void)
{
    int inside = ++shared->inside, most = shared->most;
    while (inside > most && !atomic_compare_exchange_weak(&shared->most, &most, inside))
        ;
}

/* Serves whom it is told of; one that blocks, the connection that is its own. */
static bool serve(const struct style *style, int fd)
{
    if (!take(fd, style->flags))
        return false;
    enter();
    sched_yield();
    shared->inside--;
    shared->served++;
    answered(style, fd);
    return true;
}

static const struct style *chosen;

static void *work(void *argument)
{
    int ready[2 * CONNECTIONS];
    (void)argument;
    while (shared->served < CONNECTIONS * ROUNDS) {
        int count = chosen->wait(A_MOMENT_MS, ready);
        for (int i = 0; i < count; i++)
            serve(chosen, ready[i]);
    }
    return NULL;
}

static void *poll_one(void *argument)
{
    int *fd = argument;
    for (int i = 0; i < ROUNDS;) {
        struct pollfd readable = {.fd = *fd, .events = POLLIN};
        if (poll(&readable, 1, PATIENCE_MS) == 1 && serve(chosen, *fd))
            i++;
    }
    return NULL;
}

static void ask_all_rounds(void)
{
    for (int i = 0; i < ROUNDS; i++) {
        for (int j = 0; j < CONNECTIONS; j++)
            ask(client[j]);
        for (int j = 0; j < CONNECTIONS; j++)
            hear(client[j]);
    }
}

static void begin_counting(void)
{
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(shared, MAP_FAILED);
}

static void end_counting(void)
{
    assert_int_equal(shared->served, CONNECTIONS * ROUNDS);
    assert_int_equal(shared->most, 1);
    munmap(shared, sizeof *shared);
}

static void threads_share_a_set(void **state)
{
    pthread_t thread[WORKERS];
    chosen = *state;
    begin_counting();
    for (int i = 0; i < CONNECTIONS; i++)
        watch(chosen, EPOLL_CTL_ADD, server[i]);
    for (int i = 0; i < WORKERS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, work, NULL), 0);
    ask_all_rounds();
    for (int i = 0; i < WORKERS; i++)
        pthread_join(thread[i], NULL);
    end_counting();
}

static void a_thread_for_each(void **state)
{
    pthread_t thread[CONNECTIONS];
    chosen = *state;
    begin_counting();
    for (int i = 0; i < CONNECTIONS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, poll_one, &server[i]), 0);
    ask_all_rounds();
    for (int i = 0; i < CONNECTIONS; i++)
        pthread_join(thread[i], NULL);
    end_counting();
}

/* Each accepts for itself, and has a part of the connections. */
static void serve_as_process(int listener, int part)
{
    int ready[2 * CONNECTIONS];
    set = epoll_create1(EPOLL_CLOEXEC);
    watched = part;
    for (int i = 0; i < part; i++) {
        server[i] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        watch(chosen, EPOLL_CTL_ADD, server[i]);
    }
    shared->inside -= part;
    while (shared->inside < 0)
        poll(NULL, 0, 1);
    while (shared->served < CONNECTIONS * ROUNDS) {
        int count = chosen->wait(A_MOMENT_MS, ready);
        for (int i = 0; i < count; i++)
            serve(chosen, ready[i]);
    }
}

static void processes_take_turns(void **state)
{
    enum { PROCESSES = 3, PART = CONNECTIONS / PROCESSES };
    struct sockaddr_in address;
    pid_t process[PROCESSES];
    int listener = listening(&address);
    chosen = *state;
    begin_counting();
    for (int i = 0; i < CONNECTIONS; i++) {
        close(client[i]);
        client[i] = connected(&address);
    }
    for (int i = 0; i < PROCESSES; i++) {
        process[i] = fork();
        if (process[i] == 0) {
            serve_as_process(listener, PART);
            _exit(0);
        }
    }
    while (shared->inside > -CONNECTIONS)
        poll(NULL, 0, 1);
    shared->inside = 0;
    ask_all_rounds();
    for (int i = 0; i < PROCESSES; i++) {
        int status = -1;
        waitpid(process[i], &status, 0);
        assert_int_equal(status, 0);
    }
    close(listener);
    end_counting();
}

/* --- all of them --- */

#define TESTS_MOST 64
static struct CMUnitTest tests[TESTS_MOST];
static char names[TESTS_MOST][96];
static size_t count;

static void add(const char *what, CMUnitTestFunction test, const struct style *style)
{
    snprintf(names[count], sizeof names[count], "%s: %s", what, style->name);
    tests[count] = (struct CMUnitTest){names[count], test, set_up, tear_down, (void *)style};
    count++;
}

static void add_held(const struct style *style)
{
    add("told of one at a time", told_of_one_at_a_time, style);
    add("time and signals as ever", time_and_signals_as_ever, style);
    add("broken is told of", broken_is_told_of, style);
    add("another behind it", another_behind_it, style);
    if (style->events && !(style->events & EPOLLOUT))
        add("threads share a set", threads_share_a_set, style);
    if (style->wait == by_poll)
        add("a thread for each", a_thread_for_each, style);
    add("processes take turns", processes_take_turns, style);
}

/*
 * The kernel begins to put times on what it receives a moment after the first socket asked for
 * them, and stops when none does any more. Until then arrivals are known to a millisecond, and the
 * order in one is nobody's. So a socket asks all the time, and what it sends to itself shows when
 * that has begun.
 */
static void have_arrivals_timed(void)
{
    int on = 1, fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in self = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof self;
    bind(fd, (struct sockaddr *)&self, length);
    getsockname(fd, (struct sockaddr *)&self, &length);
    setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
    double begun = now() + PATIENCE_MS / 1000.0;
    for (double gap = 0; gap < 0.002 && now() < begun;) {
        /* Without a time of arrival the kernel fills in that of the read, which comes later. */
        char byte = 0, control[64];
        struct iovec part = {.iov_base = &byte, .iov_len = 1};
        struct msghdr message = {.msg_iov = &part,
                                 .msg_iovlen = 1,
                                 .msg_control = control,
                                 .msg_controllen = sizeof control};
        struct timespec pause = {.tv_nsec = 4000000}, arrived, here;
        sendto(fd, &byte, 1, 0, (struct sockaddr *)&self, sizeof self);
        nanosleep(&pause, NULL);
        clock_gettime(CLOCK_REALTIME, &here);
        if (recvmsg(fd, &message, 0) < 1 || !CMSG_FIRSTHDR(&message))
            continue;
        memcpy(&arrived, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof arrived);
        gap =
            (double)(here.tv_sec - arrived.tv_sec) + (double)(here.tv_nsec - arrived.tv_nsec) / 1e9;
    }
}

int main(void)
{
    const char *limits = getenv("BACKPRESSURE");
    if (!getenv("LD_PRELOAD") || !limits)
        return 0; /* nothing holds requests */
    have_arrivals_timed();
    for (size_t i = 0; i < sizeof styles / sizeof *styles; i++) {
        if (strstr(limits, "when-full=busy"))
            add("refused and stays", refused_and_stays, &styles[i]);
        else
            add_held(&styles[i]);
    }
    return _cmocka_run_group_tests("held", tests, count, NULL, NULL);
}
