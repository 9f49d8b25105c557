/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A server of HTTP/1.1 over connections that stay, in any way a program can be written.
 *
 *   answerer PORT STYLE [KEY=VALUE]...
 *
 * It answers with how many requests it has inside and the most it ever had, counted by itself from
 * a request that is whole to the answer that begins, so that a test needs no trust in the shim's
 * own counts; and with the order in which they began.
 */
#include "answerer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct shared *shared;
int self;
int listener;
bool nonblocking_conns;
struct conn *_Atomic conns[CONNS_MOST];
struct options options = {.processes = 1, .threads = 4, .reading = "read", .family = "4"};

void die(const char *what)
{
    perror(what);
    _exit(1);
}

uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* Cancelled while it waits for a request, and not while it works: a place in the counts would be
 * lost. */
void sleep_us(unsigned us)
{
    struct timespec left = {us / 1000000, us % 1000000 * 1000L};
    int before;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    while (nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
    pthread_setcancelstate(before, NULL);
}

void work(const struct exchange *exchange)
{
    sleep_us(exchange->work_us);
    while (!exchange_released(exchange))
        sleep_us(1000);
}

void start_thread(pthread_t *thread, void *(*routine)(void *), void *argument)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 1 << 17);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (pthread_create(thread, &attributes, routine, argument) != 0)
        die("pthread_create");
}

/* --- reading --- */

static ssize_t by_read(int fd, struct iovec *part)
{
    return read(fd, part->iov_base, part->iov_len);
}

static ssize_t by_recv(int fd, struct iovec *part)
{
    return recv(fd, part->iov_base, part->iov_len, 0);
}

static ssize_t by_recvfrom(int fd, struct iovec *part)
{
    struct sockaddr_storage from;
    socklen_t length = sizeof from;
    return recvfrom(fd, part->iov_base, part->iov_len, 0, (struct sockaddr *)&from, &length);
}

/* Into a small part and the rest, so that heads and bodies fall into both. */
static ssize_t by_readv(int fd, struct iovec *part)
{
    size_t first = part->iov_len > 7 ? 7 : 0;
    struct iovec parts[] = {{part->iov_base, first},
                            {(char *)part->iov_base + first, part->iov_len - first}};
    return readv(fd, parts, 2);
}

static ssize_t by_recvmsg(int fd, struct iovec *part)
{
    char control[128];
    struct msghdr message = {
        .msg_iov = part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(fd, &message, 0);
    if (got >= 0 && message.msg_controllen)
        die("control data that nobody asked for");
    return got;
}

/* As some programs do before they decide who is to read. */
static ssize_t after_peek(int fd, struct iovec *part)
{
    char byte;
    ssize_t got = recv(fd, &byte, 1, MSG_PEEK);
    return got <= 0 ? got : recv(fd, part->iov_base, part->iov_len, 0);
}

ssize_t read_once(int fd, void *buffer, size_t size)
{
    static const struct {
        const char *name;
        ssize_t (*read)(int fd, struct iovec *part);
    } ways[] = {{"read", by_read},   {"recv", by_recv},       {"recvfrom", by_recvfrom},
                {"readv", by_readv}, {"recvmsg", by_recvmsg}, {"peek", after_peek}};
    struct iovec part = {buffer, size};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        if (strcmp(ways[i].name, options.reading) == 0)
            return ways[i].read(fd, &part);
    die("no such way to read");
}

/* --- connections --- */

static pthread_mutex_t coming = PTHREAD_MUTEX_INITIALIZER;

struct conn *conn_begin(int fd)
{
    if (fd >= CONNS_MOST)
        die("a descriptor too high");
    pthread_mutex_lock(&coming);
    struct conn *conn = conns[fd];
    if (!conn) {
        conn = calloc(1, sizeof *conn);
        if (!conn || !(conn->exchange = calloc(1, sizeof *conn->exchange)))
            die("calloc");
        pthread_mutex_init(&conn->lock, NULL);
        conns[fd] = conn;
    }
    pthread_mutex_unlock(&coming);
    pthread_mutex_lock(&conn->lock);
    conn->fd = fd;
    conn->set = -1;
    conn->open = true;
    conn->readable = conn->working = conn->ended = conn->has_thread = false;
    conn->watched = 0;
    conn->out_length = conn->out_at = 0;
    conn->tag[0] = '\0';
    conn->exchange->length = 0;
    conn->exchange->part = PART_HEAD;
    pthread_mutex_unlock(&conn->lock);
    return conn;
}

/* Its lock is held. */
void conn_end(struct conn *conn)
{
    if (conn->working && conn->exchange->counted) {
        atomic_fetch_sub(&shared->inside, 1);
        atomic_fetch_sub(&shared->process[self].inside, 1);
    }
    conn->open = conn->working = false;
    close(conn->fd);
}

int take(void)
{
    int on = 1;
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | (nonblocking_conns ? SOCK_NONBLOCK : 0));
    if (fd < 0)
        return -1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct timeval timeout = {options.timeout_ms / 1000, options.timeout_ms % 1000 * 1000};
    if (options.timeout_ms)
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    return fd;
}

/* --- what requests ask for besides --- */

static void drop_conn(struct conn *conn)
{
    conn_end(conn);
}

static void leave_set(struct conn *conn)
{
    epoll_ctl(conn->set, EPOLL_CTL_DEL, conn->fd, NULL);
}

static void join_set(struct conn *conn)
{
    struct epoll_event event = {.events = conn->watched, .data.fd = conn->fd};
    if (epoll_ctl(conn->set, EPOLL_CTL_ADD, conn->fd, &event) < 0)
        die("EPOLL_CTL_ADD");
}

static void watch_anew(struct conn *conn)
{
    struct epoll_event event = {.events = conn->watched, .data.fd = conn->fd};
    if (epoll_ctl(conn->set, EPOLL_CTL_MOD, conn->fd, &event) < 0)
        die("EPOLL_CTL_MOD");
}

static void cancel(struct conn *conn)
{
    if (conn->has_thread)
        pthread_cancel(conn->thread);
}

static void send_signal(struct conn *conn)
{
    if (conn->has_thread)
        pthread_kill(conn->thread, SIGUSR1);
}

static const struct {
    const char *name;
    void (*act)(struct conn *conn);
} actions[] = {{"drop", drop_conn}, {"off", leave_set}, {"on", join_set},
               {"mod", watch_anew}, {"cancel", cancel}, {"signal", send_signal}};

/* A child that has all of the parent's connections, and ends when it has slept. */
static void fork_child(unsigned ms)
{
    pid_t child = fork();
    if (child == 0) {
        sleep_us(ms * 1000);
        _exit(0);
    }
    if (child > 0)
        atomic_fetch_add(&shared->children, 1);
}

void act(const struct exchange *exchange)
{
    if (strcmp(exchange->action, "fork") == 0)
        fork_child((unsigned)atoi(exchange->argument));
    for (size_t i = 0; i < sizeof actions / sizeof *actions; i++) {
        if (strcmp(actions[i].name, exchange->action) != 0)
            continue;
        for (int fd = 0; fd < CONNS_MOST; fd++) {
            struct conn *conn = conns[fd];
            if (!conn || pthread_mutex_trylock(&conn->lock) != 0)
                continue;
            if (conn->open && strcmp(conn->tag, exchange->argument) == 0)
                actions[i].act(conn);
            pthread_mutex_unlock(&conn->lock);
        }
    }
}

/* --- starting --- */

static const struct style styles[] = {
    {"blocking", run_blocking, false, false},     {"prefork", run_prefork, false, false},
    {"forking", run_forking, false, false},       {"poll", run_poll, true, true},
    {"poll-blocking", run_poll, true, false},     {"select", run_select, true, true},
    {"select-blocking", run_select, true, false}, {"level", run_level, true, true},
    {"level-blocking", run_level, true, false},   {"edge", run_edge, true, true},
    {"edge-both", run_edge_both, true, true},     {"oneshot", run_oneshot, true, true},
    {"workers", run_workers, true, true},
};

static void on_signal(int number)
{
    (void)number;
    atomic_fetch_add(&shared->handled, 1);
}

static void on_child(int number)
{
    int saved = errno;
    (void)number;
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
    errno = saved;
}

static void handle(int number, void (*handler)(int), int flags)
{
    struct sigaction action = {.sa_flags = flags};
    action.sa_handler = handler;
    sigaction(number, &action, NULL);
}

static void listen_there(bool nonblocking)
{
    int one = 1;
    bool named = options.family[0] == 'u';
    struct sockaddr_in in = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)options.port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    int length = snprintf(un.sun_path + 1, sizeof un.sun_path - 1, "answerer-%d", options.port);
    listener =
        socket(named ? AF_UNIX : AF_INET, SOCK_STREAM | (nonblocking ? SOCK_NONBLOCK : 0), 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    int bound = named ? bind(listener, (struct sockaddr *)&un,
                             (socklen_t)(sizeof(sa_family_t) + 1 + (size_t)length))
                      : bind(listener, (struct sockaddr *)&in, sizeof in);
    if (bound < 0 || listen(listener, 1024) < 0)
        die("listen");
}

/* Children serve, and this process looks after them: it takes what one that was killed had inside
 * out of the count. */
static void supervise(void)
{
    for (;;) {
        int status;
        pid_t child = wait(&status);
        if (child < 0 && errno == ECHILD)
            _exit(0);
        for (int i = 0; child > 0 && i < options.processes; i++)
            if (atomic_load(&shared->process[i].pid) == child)
                atomic_fetch_sub(&shared->inside, atomic_exchange(&shared->process[i].inside, 0));
    }
}

static void start_processes(void)
{
    for (int i = 0; i < options.processes; i++) {
        pid_t child = fork();
        if (child == 0) {
            self = i;
            return;
        }
        atomic_store(&shared->process[i].pid, child);
    }
    supervise();
}

static void share(void)
{
    int fd = options.gate ? open(options.gate, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (options.gate && (fd < 0 || ftruncate(fd, sizeof *shared) < 0))
        die(options.gate);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE,
                  MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
    if (shared == MAP_FAILED)
        die("mmap");
    if (fd >= 0)
        close(fd);
}

static void parse(const char *word)
{
    const char *value = strchr(word, '=');
    const struct {
        const char *key;
        int *number;
    } numbers[] = {{"processes", &options.processes},
                   {"threads", &options.threads},
                   {"timeout", &options.timeout_ms}};
    options.eager |= strcmp(word, "eager") == 0;
    options.restarting |= strcmp(word, "restarting") == 0;
    if (!value)
        return;
    size_t length = (size_t)(value - word);
    if (strncmp(word, "reading", length) == 0)
        options.reading = value + 1;
    if (strncmp(word, "gate", length) == 0)
        options.gate = value + 1;
    if (strncmp(word, "family", length) == 0)
        options.family = value + 1;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (strlen(numbers[i].key) == length && strncmp(word, numbers[i].key, length) == 0)
            *numbers[i].number = atoi(value + 1);
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    options.port = atoi(argv[1]);
    options.style = argv[2];
    for (int i = 3; i < argc; i++)
        parse(argv[i]);
    signal(SIGPIPE, SIG_IGN);
    handle(SIGUSR1, on_signal, options.restarting ? SA_RESTART : 0);
    share();
    for (size_t i = 0; i < sizeof styles / sizeof *styles; i++) {
        if (strcmp(styles[i].name, options.style) != 0)
            continue;
        nonblocking_conns = styles[i].nonblocking_conns;
        listen_there(styles[i].nonblocking_listener);
        if (options.processes > 1)
            start_processes();
        handle(SIGCHLD, on_child, SA_RESTART);
        styles[i].run();
    }
    fprintf(stderr, "no such style: %s\n", options.style);
    return 2;
}
