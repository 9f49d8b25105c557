/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A server that accepts in any way a program can, and closes in any way it can.
 *
 *   acceptor PORT STYLE [KEY=VALUE]...
 *
 * It greets each client with how many it has inside and the most it ever had, counted by itself
 * between accept and close, so that a test needs no trust in the shim's own counts; and with how
 * often a listener that was reported ready had nobody to accept.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
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
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rearming.h"

#define CONNS_MAX 1000
#define LISTENERS_MAX 8
#define EVENTS 16

/* Shared by all processes. */
static struct shared {
    _Atomic int inside, peak, empty;
} * shared;

static struct options {
    uint16_t port;
    const char *style, *closing, *family;
    int processes, threads, listeners, backlog;
    bool reuseport, null_address;
    int timeout_ms;
} options = {.closing = "close",
             .family = "4",
             .processes = 1,
             .threads = 1,
             .listeners = 1,
             .backlog = 1024};

static int helper = -1; /* receives descriptors, with close=pass */

__attribute__((noreturn)) static void die(const char *what)
{
    perror(what);
    _exit(1);
}

/* --- closing --- */

/* A system call that no preloaded library can see. */
static long unseen_close(int fd)
{
#if defined __x86_64__
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"((long)SYS_close), "D"((long)fd)
                     : "rcx", "r11", "memory");
    return result;
#else
    return syscall(SYS_close, fd);
#endif
}

static void close_plain(int fd)
{
    close(fd);
}

static void close_unseen(int fd)
{
    unseen_close(fd);
}

static void close_by_number(int fd)
{
    syscall(SYS_close, fd);
}

static void close_by_range(int fd)
{
    close_range((unsigned)fd, (unsigned)fd, 0);
}

static void close_by_stdio(int fd)
{
    FILE *stream = fdopen(fd, "r+");
    if (!stream)
        die("fdopen");
    fclose(stream);
}

static void close_by_dup2(int fd)
{
    int other = open("/dev/null", O_RDONLY);
    dup2(other, fd);
    close(other);
    close(fd);
}

static void close_both(int fd)
{
    int second = dup(fd), third = fcntl(fd, F_DUPFD_CLOEXEC, 300);
    close(fd);
    close(second);
    close(third);
}

/* A child inherits it over exec, and is killed. */
static void close_in_killed_child(int fd)
{
    extern char **environ;
    pid_t child;
    char *const words[] = {"sleep", "1000", NULL};
    if (posix_spawn(&child, "/bin/sleep", NULL, NULL, words, environ) != 0)
        die("posix_spawn");
    close(fd);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

static void close_in_vforked_child(int fd)
{
    pid_t child = vfork();
    if (child == 0) {
        close(fd);
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    }
    waitpid(child, NULL, 0);
    close(fd);
}

/* What is between the members is what was there before, as on any stack. */
static void pass(int fd)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    char byte = 0;
    struct iovec data = {&byte, 1};
    struct msghdr message;
    memset(&control, 0xa5, sizeof control);
    memset(&message, 0xa5, sizeof message);
    message.msg_name = NULL;
    message.msg_namelen = 0;
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = &control;
    message.msg_controllen = sizeof control.space;
    message.msg_flags = 0;
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    if (sendmsg(helper, &message, 0) != 1)
        die("sendmsg");
    close(fd);
}

static int receive(int from)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    char byte;
    int fd = -1;
    struct iovec data = {&byte, 1};
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control.space};
    if (recvmsg(from, &message, 0) != 1)
        _exit(0);
    memcpy(&fd, CMSG_DATA(&control.header), sizeof fd);
    return fd;
}

static void start_helper(void)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0)
        die("socketpair");
    if (fork() == 0) {
        close(pair[0]);
        for (;;)
            close(receive(pair[1]));
    }
    close(pair[1]);
    helper = pair[0];
}

static const struct {
    const char *name;
    void (*close)(int fd);
} closings[] = {
    {"close", close_plain},
    {"unseen", close_unseen},
    {"number", close_by_number},
    {"range", close_by_range},
    {"stdio", close_by_stdio},
    {"dup2", close_by_dup2},
    {"dup", close_both},
    {"spawn", close_in_killed_child},
    {"vfork", close_in_vforked_child},
    {"pass", pass},
};

static void end(int fd)
{
    atomic_fetch_sub(&shared->inside, 1);
    for (size_t i = 0; i < sizeof closings / sizeof *closings; i++)
        if (strcmp(closings[i].name, options.closing) == 0)
            closings[i].close(fd);
}

/* --- accepting --- */

/* A wait of this thread just reported the listener that it takes from next. */
static _Thread_local bool told;

static int take(int listener)
{
    struct sockaddr_storage from;
    socklen_t length = sizeof from;
    int fd = options.null_address ? accept(listener, NULL, NULL)
                                  : accept4(listener, (struct sockaddr *)&from, &length, 0);
    if (fd < 0 && told && (errno == EAGAIN || errno == ECONNABORTED))
        atomic_fetch_add(&shared->empty, 1);
    told = false;
    if (fd < 0)
        return -1;
    int inside = atomic_fetch_add(&shared->inside, 1) + 1, peak = atomic_load(&shared->peak);
    while (peak < inside && !atomic_compare_exchange_weak(&shared->peak, &peak, inside))
        ;
    char greeting[64];
    int size = snprintf(greeting, sizeof greeting, "inside %d peak %d empty %d\n", inside,
                        atomic_load(&shared->peak), atomic_load(&shared->empty));
    if (write(fd, greeting, (size_t)size) != size)
        perror("write");
    return fd;
}

static bool ended(int fd)
{
    char byte;
    return recv(fd, &byte, 1, MSG_DONTWAIT) == 0 || (errno != EAGAIN && errno != EINTR);
}

static int listeners[LISTENERS_MAX];

static void listen_all(void)
{
    for (int i = 0; i < options.listeners; i++) {
        int one = 1, family = options.family[0] == 'u'   ? AF_UNIX
                              : options.family[0] == '6' ? AF_INET6
                                                         : AF_INET;
        struct sockaddr_in in = {.sin_family = AF_INET,
                                 .sin_port = htons(i ? 0 : options.port),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        struct sockaddr_in6 in6 = {.sin6_family = AF_INET6,
                                   .sin6_port = htons(i ? 0 : options.port),
                                   .sin6_addr = IN6ADDR_LOOPBACK_INIT};
        struct sockaddr_un un = {.sun_family = AF_UNIX};
        int length =
            snprintf(un.sun_path + 1, sizeof un.sun_path - 1, "acceptor-%d", options.port + i);
        struct timeval timeout = {options.timeout_ms / 1000, options.timeout_ms % 1000 * 1000};
        listeners[i] = socket(family, SOCK_STREAM, 0);
        setsockopt(listeners[i], SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (options.reuseport)
            setsockopt(listeners[i], SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
        int bound = family == AF_UNIX    ? bind(listeners[i], (struct sockaddr *)&un,
                                                (socklen_t)(sizeof(sa_family_t) + 1 + (size_t)length))
                    : family == AF_INET6 ? bind(listeners[i], (struct sockaddr *)&in6, sizeof in6)
                                         : bind(listeners[i], (struct sockaddr *)&in, sizeof in);
        if (bound < 0 || listen(listeners[i], options.backlog) < 0)
            die("listen");
        if (options.timeout_ms)
            setsockopt(listeners[i], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    }
}

static void set_nonblocking(void)
{
    for (int i = 0; i < options.listeners; i++)
        fcntl(listeners[i], F_SETFL, fcntl(listeners[i], F_GETFL) | O_NONBLOCK);
}

/* --- one loop for each style --- */

static void *serve_one(void *argument)
{
    int fd = (int)(intptr_t)argument;
    struct pollfd watched = {.fd = fd, .events = POLLIN};
    while (!ended(fd))
        poll(&watched, 1, -1);
    end(fd);
    return NULL;
}

static void start_thread(void *(*routine)(void *), void *argument)
{
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 1 << 17);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (pthread_create(&thread, &attributes, routine, argument) != 0)
        die("pthread_create");
}

static void loop_blocking(void)
{
    for (;;) {
        int fd = take(listeners[0]);
        if (fd >= 0)
            start_thread(serve_one, (void *)(intptr_t)fd);
        else if (errno != EINTR && errno != EAGAIN)
            die("accept");
    }
}

static void reap_children(int signal_number)
{
    int saved = errno;
    (void)signal_number;
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
    errno = saved;
}

/* A process for each connection, accepted in the parent; SIGCHLD interrupts accept all the time. */
static void loop_forking(void)
{
    struct sigaction action = {.sa_flags = SA_RESTART};
    action.sa_handler = reap_children;
    sigaction(SIGCHLD, &action, NULL);
    for (;;) {
        int fd = take(listeners[0]);
        if (fd < 0 && errno == EINTR)
            die("accept was interrupted in spite of SA_RESTART");
        if (fd < 0)
            continue;
        if (fork() == 0) {
            serve_one((void *)(intptr_t)fd);
            _exit(0);
        }
        close(fd);
    }
}

static void loop_poll(void)
{
    static _Thread_local struct pollfd fds[LISTENERS_MAX + CONNS_MAX];
    nfds_t count = (nfds_t)options.listeners;
    bool with_signals = strcmp(options.style, "ppoll") == 0;
    for (int i = 0; i < options.listeners; i++)
        fds[i] = (struct pollfd){.fd = listeners[i], .events = POLLIN};
    for (;;) {
        int ready = with_signals ? ppoll(fds, count, NULL, NULL) : poll(fds, count, -1);
        if (ready < 0)
            continue;
        for (nfds_t i = count; i-- > (nfds_t)options.listeners;) {
            if (!fds[i].revents || !ended(fds[i].fd))
                continue;
            end(fds[i].fd);
            fds[i] = fds[--count];
        }
        for (int i = 0; i < options.listeners; i++) {
            told = fds[i].revents & POLLIN;
            int fd = told ? take(listeners[i]) : -1;
            if (fd >= 0)
                fds[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
        }
    }
}

static void loop_select(void)
{
    static _Thread_local int conns[CONNS_MAX];
    int count = 0;
    bool with_signals = strcmp(options.style, "pselect") == 0;
    for (;;) {
        fd_set set;
        int highest = 0;
        FD_ZERO(&set);
        for (int i = 0; i < options.listeners + count; i++) {
            int fd = i < options.listeners ? listeners[i] : conns[i - options.listeners];
            FD_SET(fd, &set);
            highest = fd > highest ? fd : highest;
        }
        struct timeval long_time = {1000, 0};
        int ready = with_signals ? pselect(highest + 1, &set, NULL, NULL, NULL, NULL)
                                 : select(highest + 1, &set, NULL, NULL, &long_time);
        if (ready < 0)
            continue;
        for (int i = count; i-- > 0;) {
            if (!FD_ISSET(conns[i], &set) || !ended(conns[i]))
                continue;
            end(conns[i]);
            conns[i] = conns[--count];
        }
        for (int i = 0; i < options.listeners; i++) {
            told = FD_ISSET(listeners[i], &set);
            int fd = told ? take(listeners[i]) : -1;
            if (fd >= 0)
                conns[count++] = fd;
        }
    }
}

static int shared_set = -1; /* one for all threads, in the style `oneshot` */

static void watch(int set, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) < 0)
        die("epoll_ctl");
}

static uint32_t listener_events(void)
{
    if (strcmp(options.style, "edge") == 0)
        return EPOLLIN | EPOLLET;
    if (strcmp(options.style, "exclusive") == 0)
        return EPOLLIN | EPOLLEXCLUSIVE;
    if (strcmp(options.style, "oneshot") == 0)
        return EPOLLIN | EPOLLONESHOT;
    return EPOLLIN;
}

static int wait_epoll(int set, struct epoll_event *events)
{
    if (strcmp(options.style, "epoll_pwait2") == 0)
        return epoll_pwait2(set, events, EVENTS, NULL, NULL);
    if (strcmp(options.style, "epoll_pwait") == 0)
        return epoll_pwait(set, events, EVENTS, -1, NULL);
    return epoll_wait(set, events, EVENTS, -1);
}

static int make_set(void)
{
    int set = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < options.listeners; i++)
        watch(set, listeners[i], listener_events());
    return set;
}

static void accept_event(int set, int listener)
{
    bool oneshot = strcmp(options.style, "oneshot") == 0;
    told = true;
    for (int fd; (fd = take(listener)) >= 0;) {
        watch(set, fd, oneshot ? EPOLLIN | EPOLLONESHOT : EPOLLIN);
        if (strcmp(options.style, "edge") != 0)
            break;
    }
    struct epoll_event again = {.events = listener_events(), .data.fd = listener};
    if (oneshot && epoll_ctl(set, EPOLL_CTL_MOD, listener, &again) < 0)
        die("re-arming");
}

static void loop_epoll(void)
{
    struct epoll_event events[EVENTS];
    bool oneshot = strcmp(options.style, "oneshot") == 0;
    int set = oneshot ? shared_set : make_set();
    for (;;) {
        int ready = wait_epoll(set, events);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            bool listener = false;
            for (int j = 0; j < options.listeners; j++)
                listener |= fd == listeners[j];
            if (listener) {
                accept_event(set, fd);
            } else if (ended(fd)) {
                /* Somebody else may hold the socket: epoll(7) would go on reporting it. */
                rearming_begin();
                epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL);
                end(fd);
                rearming_end();
            } else if (oneshot) {
                struct epoll_event again = {.events = EPOLLIN | EPOLLONESHOT, .data.fd = fd};
                rearming_begin();
                epoll_ctl(set, EPOLL_CTL_MOD, fd, &again);
                rearming_end();
            }
        }
    }
}

static const struct {
    const char *name;
    void (*loop)(void);
    bool nonblocking;
} styles[] = {
    {"blocking", loop_blocking, false},
    {"forking", loop_forking, false},
    {"poll", loop_poll, true},
    {"ppoll", loop_poll, true},
    {"poll-blocking", loop_poll, false},
    {"select-blocking", loop_select, false},
    {"level-blocking", loop_epoll, false},
    {"select", loop_select, true},
    {"pselect", loop_select, true},
    {"level", loop_epoll, true},
    {"edge", loop_epoll, true},
    {"exclusive", loop_epoll, true},
    {"oneshot", loop_epoll, true},
    {"epoll_pwait", loop_epoll, true},
    {"epoll_pwait2", loop_epoll, true},
};

static void *run_loop(void *argument)
{
    void (*loop)(void);
    memcpy(&loop, argument, sizeof loop);
    loop();
    return NULL;
}

static void run(void)
{
    for (size_t i = 0; i < sizeof styles / sizeof *styles; i++) {
        if (strcmp(styles[i].name, options.style) != 0)
            continue;
        static void (*loop)(void);
        loop = styles[i].loop;
        if (styles[i].nonblocking)
            set_nonblocking();
        if (strcmp(options.style, "oneshot") == 0)
            shared_set = make_set();
        for (int thread = 1; thread < options.threads; thread++)
            start_thread(run_loop, &loop);
        loop();
    }
    fprintf(stderr, "no such style: %s\n", options.style);
    exit(2);
}

static void parse(const char *word)
{
    const char *value = strchr(word, '=');
    size_t length = value ? (size_t)(value - word) : 0;
    const struct {
        const char *key;
        int *number;
    } numbers[] = {{"processes", &options.processes},
                   {"threads", &options.threads},
                   {"listeners", &options.listeners},
                   {"timeout", &options.timeout_ms},
                   {"backlog", &options.backlog}};
    if (strcmp(word, "reuseport") == 0)
        options.reuseport = true;
    if (strcmp(word, "null") == 0)
        options.null_address = true;
    if (!value)
        return;
    if (strncmp(word, "close", length) == 0)
        options.closing = value + 1;
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
    options.port = (uint16_t)atoi(argv[1]);
    options.style = argv[2];
    for (int i = 3; i < argc; i++)
        parse(argv[i]);
    signal(SIGPIPE, SIG_IGN);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        die("mmap");
    if (strcmp(options.closing, "pass") == 0)
        start_helper();
    if (!options.reuseport)
        listen_all();
    for (int i = 1; i < options.processes; i++)
        if (fork() == 0)
            break;
    if (options.reuseport)
        listen_all();
    run();
}
