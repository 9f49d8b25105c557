/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Reading and writing on an accepted connection: what comes back, when a call ends and with which
 * errno is as POSIX and Linux have it. The same tests run bare and under the shim, with ceilings so
 * low that every large write meets them.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/errqueue.h>
#include <netinet/tcp.h>
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
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "asleep.h"

#define MUCH (8U << 20)
#define SMALL_RECEIVE 16384
#define PATIENCE_MS 60000

static bool shimmed;
static int server = -1, client = -1; /* the two ends of one connection; `server` was accepted */
static uint8_t data[MUCH], back[MUCH];
static _Atomic int handled;
static char unix_path[64];

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void connect_pair(const struct sockaddr *any, socklen_t length)
{
    struct sockaddr_storage address;
    socklen_t got = sizeof address;
    int small = SMALL_RECEIVE, listener = socket(any->sa_family, SOCK_STREAM, 0);
    assert_int_equal(bind(listener, any, length), 0);
    assert_int_equal(listen(listener, 8), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &got), 0);
    client = socket(any->sa_family, SOCK_STREAM, 0);
    setsockopt(client, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    assert_int_equal(connect(client, (struct sockaddr *)&address, got), 0);
    server = accept(listener, NULL, NULL);
    assert_true(server >= 0);
    close(listener);
}

static int set_up(void **state)
{
    struct sockaddr_in tcp = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)((i * 2654435761U) >> 13);
    memset(back, 0, sizeof back);
    atomic_store(&handled, 0);
    if (*state == NULL) {
        connect_pair((struct sockaddr *)&tcp, sizeof tcp);
    } else {
        snprintf(unix_path, sizeof unix_path, "/tmp/backpressure-test-%d", (int)getpid());
        strcpy(local.sun_path, unix_path);
        unlink(unix_path);
        connect_pair((struct sockaddr *)&local, sizeof local);
        unlink(unix_path);
    }
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    close(server);
    close(client);
    return 0;
}

static void set_nonblocking(int fd)
{
    assert_int_equal(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK), 0);
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

/* --- the other end: a thread that waits for its time, then reads so much --- */

struct other_end {
    pthread_t thread;
    size_t wanted, got;
    unsigned delay_ms;
};

static void *read_on(void *argument)
{
    struct other_end *end = argument;
    struct timespec delay = {.tv_nsec = (long)end->delay_ms * 1000000};
    nanosleep(&delay, NULL); /* not for order: only so that the writer has to wait for a while */
    while (end->got < end->wanted) {
        ssize_t got = recv(client, back + end->got, end->wanted - end->got, 0);
        if (got <= 0)
            break;
        end->got += (size_t)got;
    }
    return NULL;
}

static void start_reading(struct other_end *end, size_t wanted, unsigned delay_ms)
{
    *end = (struct other_end){.wanted = wanted, .delay_ms = delay_ms};
    assert_int_equal(pthread_create(&end->thread, NULL, read_on, end), 0);
}

static void assert_arrived(struct other_end *end, size_t length)
{
    pthread_join(end->thread, NULL);
    assert_int_equal(end->got, length);
    assert_memory_equal(back, data, length);
}

/* Writes until nothing more goes; how much went. */
static size_t fill_up_from(size_t sent)
{
    for (ssize_t part; sent < MUCH; sent += (size_t)part) {
        part = send(server, data + sent, MUCH - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (part < 0) {
            assert_int_equal(errno, EAGAIN);
            break;
        }
    }
    assert_true(sent < MUCH);
    return sent;
}

static size_t fill_up(void)
{
    return fill_up_from(0);
}

static void drain(size_t length)
{
    struct other_end end;
    start_reading(&end, length, 0);
    assert_arrived(&end, length);
}

/* --- blocking writers --- */

static ssize_t by_write(void)
{
    return write(server, data, MUCH);
}

static ssize_t by_send(void)
{
    return send(server, data, MUCH, 0);
}

static ssize_t by_sendto(void)
{
    return sendto(server, data, MUCH, MSG_NOSIGNAL, NULL, 0);
}

static size_t split(struct iovec *parts, size_t count)
{
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        size_t length = i + 1 < count ? 7919 * (i + 1) % 60000 : MUCH - at;
        parts[i] = (struct iovec){data + at, length};
        at += length;
    }
    return count;
}

static ssize_t by_writev(void)
{
    struct iovec parts[40];
    return writev(server, parts, (int)split(parts, 40));
}

static ssize_t by_pwritev2(void)
{
    struct iovec parts[5];
    return pwritev2(server, parts, (int)split(parts, 5), -1, 0);
}

/* As programs make them on their stack: what is between the members is what was there before. */
static struct msghdr unclean_message(struct iovec *parts, size_t count)
{
    struct msghdr message;
    memset(&message, 0xa5, sizeof message);
    message.msg_name = message.msg_control = NULL;
    message.msg_namelen = 0;
    message.msg_controllen = 0;
    message.msg_iov = parts;
    message.msg_iovlen = count;
    message.msg_flags = 0;
    return message;
}

static ssize_t by_sendmsg(void)
{
    struct iovec parts[33];
    struct msghdr message = unclean_message(parts, split(parts, 33));
    return sendmsg(server, &message, 0);
}

static ssize_t by_sendmmsg(void)
{
    struct iovec halves[2] = {{data, MUCH / 2}, {data + MUCH / 2, MUCH - MUCH / 2}};
    struct mmsghdr messages[2] = {{.msg_hdr = unclean_message(&halves[0], 1)},
                                  {.msg_hdr = unclean_message(&halves[1], 1)}};
    assert_int_equal(sendmmsg(server, messages, 2, 0), 2);
    return (ssize_t)messages[0].msg_len + (ssize_t)messages[1].msg_len;
}

static ssize_t by_syscall(void)
{
    return syscall(SYS_write, server, data, MUCH);
}

static int data_file(void)
{
    FILE *file = tmpfile();
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, MUCH, file), MUCH);
    assert_int_equal(fflush(file), 0);
    int fd = dup(fileno(file));
    fclose(file);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    return fd;
}

static ssize_t by_sendfile(void)
{
    int fd = data_file();
    off_t offset = 0;
    ssize_t sent = sendfile(server, fd, &offset, MUCH * 2UL); /* more than there is */
    assert_int_equal(offset, sent);
    assert_int_equal(lseek(fd, 0, SEEK_CUR), 0);
    close(fd);
    return sent;
}

static ssize_t by_sendfile_in_place(void)
{
    int fd = data_file();
    ssize_t sent = sendfile64(server, fd, NULL, MUCH);
    assert_int_equal(lseek(fd, 0, SEEK_CUR), sent);
    close(fd);
    return sent;
}

static ssize_t by_splice(void)
{
    int pipe_ends[2];
    size_t sent = 0;
    assert_int_equal(pipe(pipe_ends), 0);
    while (sent < MUCH) {
        ssize_t into = write(pipe_ends[1], data + sent, MUCH - sent < 65536 ? MUCH - sent : 65536);
        assert_true(into > 0);
        for (ssize_t left = into, part; left > 0; left -= part) {
            part = splice(pipe_ends[0], NULL, server, NULL, (size_t)left, 0);
            assert_true(part > 0);
        }
        sent += (size_t)into;
    }
    close(pipe_ends[0]);
    close(pipe_ends[1]);
    return (ssize_t)sent;
}

static ssize_t by_odd_pieces(void)
{
    size_t sent = 0, part = 1;
    for (; sent < MUCH; part = part * 3 % 65521 + 1) {
        size_t length = part < MUCH - sent ? part : MUCH - sent;
        assert_int_equal(send(server, data + sent, length, MSG_MORE), length);
        sent += length;
    }
    assert_int_equal(send(server, "", 0, 0), 0);
    return (ssize_t)sent;
}

static const struct {
    const char *name;
    ssize_t (*send_all)(void);
} ways[] = {
    {"write", by_write},       {"send", by_send},
    {"sendto", by_sendto},     {"writev", by_writev},
    {"pwritev2", by_pwritev2}, {"sendmsg", by_sendmsg},
    {"sendmmsg", by_sendmmsg}, {"syscall(SYS_write)", by_syscall},
    {"sendfile", by_sendfile}, {"sendfile64, file position", by_sendfile_in_place},
    {"splice", by_splice},     {"MSG_MORE in odd pieces", by_odd_pieces},
};

static void blocking_write_takes_everything(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        struct other_end end;
        start_reading(&end, MUCH, 20);
        ssize_t sent = ways[i].send_all();
        if (sent != (ssize_t)MUCH)
            printf("# %s: %zd\n", ways[i].name, sent);
        assert_int_equal(sent, MUCH);
        assert_arrived(&end, MUCH);
    }
}

static void nonblocking_write_takes_a_part_then_nothing(void **state)
{
    (void)state;
    set_nonblocking(server);
    size_t sent = 0;
    ssize_t part = write(server, data, MUCH);
    assert_in_range(part, 1, MUCH - 1);
    for (sent = (size_t)part; (part = write(server, data + sent, MUCH - sent)) > 0;)
        sent += (size_t)part;
    assert_int_equal(part, -1);
    assert_int_equal(errno, EAGAIN);
    drain(sent);
    struct pollfd output = {.fd = server, .events = POLLOUT};
    assert_int_equal(poll(&output, 1, PATIENCE_MS), 1);
    assert_int_equal(write(server, data, 1), 1);
}

static void dontwait_leaves_the_descriptor_blocking(void **state)
{
    (void)state;
    size_t sent = fill_up();
    assert_int_equal(fcntl(server, F_GETFL) & O_NONBLOCK, 0);
    struct other_end end;
    start_reading(&end, MUCH, 20);
    assert_int_equal(write(server, data + sent, MUCH - sent), MUCH - sent);
    assert_arrived(&end, MUCH);
}

static void send_timeout_ends_a_write(void **state)
{
    struct timeval timeout = {.tv_usec = 150000};
    (void)state;
    assert_int_equal(setsockopt(server, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout), 0);
    double started = now();
    ssize_t sent = write(server, data, MUCH); /* a part goes; the time for the rest runs out */
    assert_in_range(sent, 1, MUCH - 1);
    assert_true(now() - started > 0.14);
    /* The kernel may still find some room; at last none. */
    for (ssize_t more = 0; more >= 0;) {
        started = now();
        more = write(server, data + sent, MUCH - (size_t)sent);
        sent += more > 0 ? more : 0;
        assert_true(sent < (ssize_t)MUCH);
    }
    assert_int_equal(errno, EAGAIN);
    assert_true(now() - started > 0.14);
    drain((size_t)sent);
}

/* --- signals and cancellation --- */

static void *interrupt(void *argument)
{
    pthread_t whom = *(pthread_t *)argument;
    for (int i = 0; i < 5000 && !atomic_load(&handled); i++) {
        struct timespec pause = {.tv_nsec = 2000000};
        nanosleep(&pause, NULL);
        pthread_kill(whom, SIGUSR1);
    }
    return NULL;
}

static void handler_without_restart_interrupts(void **state)
{
    pthread_t self = pthread_self(), thread;
    (void)state;
    size_t sent = fill_up();
    catch (SIGUSR1, 0);
    pthread_create(&thread, NULL, interrupt, &self);
    assert_int_equal(write(server, data, MUCH), -1);
    assert_int_equal(errno, EINTR);
    pthread_join(thread, NULL);
    drain(sent);
}

static void signal_ends_a_write_that_took_a_part(void **state)
{
    pthread_t self = pthread_self(), thread;
    (void)state;
    catch (SIGUSR1, SA_RESTART);
    pthread_create(&thread, NULL, interrupt, &self);
    ssize_t sent = write(server, data, MUCH);
    assert_in_range(sent, 1, MUCH - 1);
    pthread_join(thread, NULL);
    drain((size_t)sent);
}

static void *write_on(void *thread_id)
{
    atomic_store((_Atomic int *)thread_id, gettid());
    for (;;)
        if (write(server, data, MUCH) < 0)
            return NULL;
}

static void cancellation_ends_a_blocked_write(void **state)
{
    pthread_t thread;
    void *result;
    _Atomic int thread_id = 0;
    (void)state;
    fill_up();
    pthread_create(&thread, NULL, write_on, &thread_id);
    assert_true(falls_asleep(&thread_id));
    pthread_cancel(thread);
    pthread_join(thread, &result);
    assert_ptr_equal(result, PTHREAD_CANCELED);
}

/* --- ends --- */

static void writing_to_who_has_gone_is_epipe(void **state)
{
    (void)state;
    struct linger hard = {.l_onoff = 1};
    assert_int_equal(setsockopt(client, SOL_SOCKET, SO_LINGER, &hard, sizeof hard), 0);
    close(client);
    client = -1;
    struct pollfd output = {.fd = server, .events = POLLIN};
    assert_int_equal(poll(&output, 1, PATIENCE_MS), 1);
    assert_true(output.revents & (POLLERR | POLLHUP));
    signal(SIGPIPE, SIG_IGN);
    ssize_t sent = write(server, data, 100);
    assert_int_equal(sent, -1);
    assert_true(errno == ECONNRESET || errno == EPIPE);
    assert_int_equal(write(server, data, 100), -1);
    assert_int_equal(errno, EPIPE);
    catch (SIGPIPE, 0);
    assert_int_equal(send(server, data, 100, MSG_NOSIGNAL), -1);
    assert_int_equal(errno, EPIPE);
    assert_int_equal(atomic_load(&handled), 0);
    assert_int_equal(send(server, data, 100, 0), -1);
    assert_int_equal(atomic_load(&handled), 1);
}

static void *reset_soon(void *unused)
{
    struct linger hard = {.l_onoff = 1};
    struct timespec pause = {.tv_nsec = 30000000};
    (void)unused;
    nanosleep(&pause, NULL);
    setsockopt(client, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(client);
    client = -1;
    return NULL;
}

/* The error that ends a write half way is the next call's. */
static void reset_during_a_write_is_told_once(void **state)
{
    pthread_t thread;
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    pthread_create(&thread, NULL, reset_soon, NULL);
    ssize_t sent = write(server, data, MUCH);
    pthread_join(thread, NULL);
    if (sent < 0) {
        assert_int_equal(errno, ECONNRESET);
    } else {
        assert_in_range(sent, 1, MUCH - 1);
        assert_int_equal(write(server, data, 1), -1);
        assert_int_equal(errno, ECONNRESET);
    }
    assert_int_equal(write(server, data, 1), -1);
    assert_int_equal(errno, EPIPE);
}

static void errors_are_the_kernels(void **state)
{
    /* Volatile, so that the compiler does not see what it would warn of. */
    uint8_t *volatile nowhere = (uint8_t *)1;
    volatile int too_few = -1, too_many = 5000;
    struct iovec bad = {nowhere, 100};
    (void)state;
    assert_int_equal(write(server, nowhere, 100), -1);
    assert_int_equal(errno, EFAULT);
    assert_int_equal(writev(server, &bad, 1), -1);
    assert_int_equal(errno, EFAULT);
    assert_int_equal(writev(server, &bad, too_few), -1);
    assert_int_equal(errno, EINVAL);
    assert_int_equal(readv(server, &bad, too_many), -1);
    assert_int_equal(errno, EINVAL);
    assert_int_equal(send(server, data, 1, MSG_OOB), 1);
    assert_int_equal(pwrite(server, data, 1, 0), -1);
    assert_int_equal(errno, ESPIPE);
    assert_int_equal(write(server, data, 0), 0);
    assert_int_equal(shutdown(server, SHUT_WR), 0);
    assert_int_equal(send(server, data, 1, MSG_NOSIGNAL), -1);
    assert_int_equal(errno, EPIPE);
    close(server);
    assert_int_equal(write(server, data, 1), -1);
    assert_int_equal(errno, EBADF);
    assert_int_equal(read(server, back, 1), -1);
    assert_int_equal(errno, EBADF);
}

/* --- zero copy: each call has its own completion --- */

static void zero_copy_completions_are_counted_per_call(void **state)
{
    int on = 1;
    (void)state;
    if (setsockopt(server, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof on) < 0) {
        puts("# the kernel lacks SO_ZEROCOPY");
        skip();
    }
    struct other_end end;
    start_reading(&end, MUCH, 20);
    unsigned calls = 0;
    for (size_t sent = 0; sent < MUCH; calls++) {
        ssize_t part =
            send(server, data + sent, MUCH - sent < 500000 ? MUCH - sent : 500000, MSG_ZEROCOPY);
        assert_true(part > 0);
        sent += (size_t)part;
    }
    assert_arrived(&end, MUCH);
    unsigned completed = 0;
    double deadline = now() + PATIENCE_MS / 1000.0;
    while (completed < calls && now() < deadline) {
        char control[256];
        struct msghdr message = {.msg_control = control, .msg_controllen = sizeof control};
        struct pollfd errors = {.fd = server};
        poll(&errors, 1, 100);
        if (recvmsg(server, &message, MSG_ERRQUEUE) < 0)
            continue;
        const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        struct sock_extended_err note;
        memcpy(&note, CMSG_DATA(header), sizeof note);
        assert_int_equal(note.ee_origin, SO_EE_ORIGIN_ZEROCOPY);
        completed += note.ee_data - note.ee_info + 1;
    }
    assert_int_equal(completed, calls);
}

/* --- reading --- */

static size_t give(size_t length)
{
    size_t sent = 0;
    for (ssize_t part; sent < length; sent += (size_t)part)
        if ((part = send(client, data + sent, length - sent, MSG_DONTWAIT)) < 0)
            break;
    return sent;
}

/* A client that says all at once, and a program that reads in every way there is. */
static void every_way_to_read_finds_all_of_it(void **state)
{
    size_t given = give(MUCH), got = 0;
    unsigned way = 0;
    (void)state;
    set_nonblocking(server);
    while (got < given) {
        size_t room = MUCH - got < 30011 ? MUCH - got : 30011;
        struct iovec parts[3] = {{back + got, room / 5},
                                 {back + got + room / 5, room / 2},
                                 {back + got + room / 5 + room / 2, room - room / 5 - room / 2}};
        struct msghdr message = unclean_message(parts, 3);
        struct mmsghdr many = {.msg_hdr = message};
        struct pollfd input = {.fd = server, .events = POLLIN};
        ssize_t part = -1;
        switch (way++ % 7) {
        case 0:
            part = read(server, back + got, room);
            break;
        case 1:
            part = recv(server, back + got, room, 0);
            break;
        case 2:
            part = recvfrom(server, back + got, room, 0, NULL, NULL);
            break;
        case 3:
            part = readv(server, parts, 3);
            break;
        case 4:
            part = recvmsg(server, &message, 0);
            assert_int_equal(message.msg_iovlen, 3);
            assert_int_equal(parts[0].iov_len, room / 5);
            break;
        case 5:
            part = recvmmsg(server, &many, 1, 0, NULL) == 1 ? (ssize_t)many.msg_len : -1;
            break;
        default:
            part = preadv2(server, parts, 3, -1, 0);
        }
        if (part < 0) {
            assert_int_equal(errno, EAGAIN);
            assert_int_equal(poll(&input, 1, PATIENCE_MS), 1);
            continue;
        }
        assert_true(part > 0);
        got += (size_t)part;
    }
    assert_memory_equal(back, data, given);
    close(client);
    client = -1;
    struct pollfd input = {.fd = server, .events = POLLIN};
    assert_int_equal(poll(&input, 1, PATIENCE_MS), 1);
    assert_int_equal(read(server, back, 1), 0);
}

static void peeking_and_waiting_for_all(void **state)
{
    (void)state;
    assert_int_equal(send(client, data, 5000, 0), 5000);
    assert_int_equal(recv(server, back, 5000, MSG_WAITALL | MSG_PEEK), 5000);
    assert_memory_equal(back, data, 5000);
    memset(back, 0, 5000);
    assert_int_equal(recv(server, back, 5000, MSG_WAITALL), 5000);
    assert_memory_equal(back, data, 5000);
}

/* A blocking descriptor gets all that is there in one read, as naive programs expect. */
static void blocking_read_gets_a_whole_request(void **state)
{
    struct pollfd input = {.fd = server, .events = POLLIN};
    (void)state;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(send(client, data, 1400, 0), 1400);
        assert_int_equal(poll(&input, 1, PATIENCE_MS), 1);
        assert_int_equal(read(server, back, sizeof back), 1400);
        assert_int_equal(write(server, data, 100), 100);
        assert_int_equal(recv(client, back, 100, MSG_WAITALL), 100);
    }
}

/* --- readiness while output is pending --- */

static int watch(int set, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.u64 = UINT64_C(0x1234567890)};
    return epoll_ctl(set, operation, server, &event);
}

/* Waits for an event with one of `wanted`; all that came until then. */
static uint32_t wait_for(int set, uint32_t wanted, int timeout_ms)
{
    double deadline = now() + timeout_ms / 1000.0;
    uint32_t seen = 0;
    do {
        struct epoll_event event;
        if (epoll_wait(set, &event, 1, 10) == 1) {
            assert_int_equal(event.data.u64, UINT64_C(0x1234567890));
            seen |= event.events;
        }
    } while (!(seen & wanted) && now() < deadline);
    return seen;
}

static const uint32_t triggers[] = {0, EPOLLET, EPOLLONESHOT, EPOLLET | EPOLLONESHOT};

static void ends_are_reported_while_output_is_pending(void **state)
{
    uint32_t trigger = triggers[(uintptr_t)*state & 3];
    set_nonblocking(server);
    int set = epoll_create1(0);
    assert_int_equal(watch(set, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT | EPOLLRDHUP | trigger), 0);
    fill_up();
    assert_int_equal(watch(set, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT | EPOLLRDHUP | trigger), 0);
    assert_int_equal(send(client, "some input", 10, 0), 10);
    wait_for(set, 0, 30);
    assert_int_equal(watch(set, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT | EPOLLRDHUP | trigger), 0);
    assert_int_equal(shutdown(client, SHUT_WR), 0);
    assert_true(wait_for(set, EPOLLRDHUP, PATIENCE_MS) & EPOLLRDHUP);
    assert_int_equal(watch(set, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT | EPOLLRDHUP | trigger), 0);
    close(client); /* with unread data: a reset */
    client = -1;
    assert_true(wait_for(set, EPOLLHUP | EPOLLERR, PATIENCE_MS) & (EPOLLHUP | EPOLLERR));
    close(set);
}

/* The client's input comes once its output was read, at the latest. */
static void input_comes_when_output_went(void **state)
{
    uint32_t trigger = triggers[(uintptr_t)*state & 3], events = EPOLLIN | EPOLLOUT | trigger;
    set_nonblocking(server);
    int set = epoll_create1(0);
    assert_int_equal(watch(set, EPOLL_CTL_ADD, events), 0);
    size_t sent = fill_up(), left = 1000;
    assert_int_equal(watch(set, EPOLL_CTL_MOD, events), 0);
    assert_int_equal(send(client, "input", 5, 0), 5);
    /* Acknowledgements may still make room: a program that is told so uses it. */
    for (int i = 0; i < 5; i++)
        if (wait_for(set, EPOLLOUT, 10) & EPOLLOUT) {
            sent = fill_up_from(sent);
            assert_int_equal(watch(set, EPOLL_CTL_MOD, events), 0);
        }
    struct other_end end;
    start_reading(&end, sent + left, 0);
    /* The program finishes its output when it is told to, and reads what it is told to. */
    char input[16];
    double deadline = now() + PATIENCE_MS / 1000.0;
    ssize_t got = -1;
    while ((left || got < 0) && now() < deadline) {
        struct epoll_event event = {0};
        if (epoll_wait(set, &event, 1, 100) == 1 && event.events & EPOLLOUT && left &&
            send(server, data + sent, left, MSG_NOSIGNAL) == (ssize_t)left)
            left = 0;
        if (event.events & EPOLLIN && got < 0)
            got = read(server, input, sizeof input);
        if (trigger & EPOLLONESHOT || !left)
            assert_int_equal(
                watch(set, EPOLL_CTL_MOD, (left ? events : events & ~(uint32_t)EPOLLOUT)), 0);
    }
    assert_int_equal(left, 0);
    assert_true(got > 0);
    assert_memory_equal(input, "input", (size_t)got);
    assert_arrived(&end, sent + 1000);
    close(set);
}

/* A program that always asks for both, and has nothing to write, gets its input. */
static void asking_for_both_without_output_is_no_pause(void **state)
{
    uint32_t events = EPOLLIN | EPOLLOUT | triggers[(uintptr_t)*state & 3];
    set_nonblocking(server);
    int set = epoll_create1(0);
    assert_int_equal(watch(set, EPOLL_CTL_ADD, events), 0);
    assert_int_equal(send(client, "input", 5, 0), 5);
    double deadline = now() + PATIENCE_MS / 1000.0;
    uint32_t seen = 0;
    while (!(seen & EPOLLIN) && now() < deadline) {
        struct epoll_event event = {0};
        if (epoll_wait(set, &event, 1, 100) == 1)
            seen |= event.events;
        if (events & EPOLLONESHOT)
            assert_int_equal(watch(set, EPOLL_CTL_MOD, events), 0);
    }
    assert_true(seen & EPOLLIN);
    close(set);
    struct pollfd both = {.fd = server, .events = POLLIN | POLLOUT};
    for (both.revents = 0; !(both.revents & POLLIN) && now() < deadline;)
        assert_int_equal(poll(&both, 1, PATIENCE_MS), 1);
    assert_true(both.revents & POLLIN);
    fd_set readable, writable;
    do {
        FD_ZERO(&readable);
        FD_ZERO(&writable);
        FD_SET(server, &readable);
        FD_SET(server, &writable);
        assert_true(select(server + 1, &readable, &writable, NULL, NULL) > 0);
    } while (!FD_ISSET(server, &readable) && now() < deadline);
    assert_true(FD_ISSET(server, &readable));
}

/* --- options --- */

static int option(int fd, int level, int name)
{
    int value = -1;
    socklen_t length = sizeof value;
    assert_int_equal(getsockopt(fd, level, name, &value, &length), 0);
    assert_int_equal(length, sizeof value);
    return value;
}

static void set_option(int fd, int level, int name, int value)
{
    assert_int_equal(setsockopt(fd, level, name, &value, sizeof value), 0);
}

/* The client's end is not tracked: it tells what the kernel would. */
static void send_buffer_is_told_as_without_us(void **state)
{
    static const int sizes[] = {1, 2000, 8192, 50000, 200000, 10000000};
    (void)state;
    assert_int_equal(option(server, IPPROTO_TCP, TCP_NOTSENT_LOWAT),
                     option(client, IPPROTO_TCP, TCP_NOTSENT_LOWAT));
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        set_option(server, SOL_SOCKET, SO_SNDBUF, sizes[i]);
        set_option(client, SOL_SOCKET, SO_SNDBUF, sizes[i]);
        assert_int_equal(option(server, SOL_SOCKET, SO_SNDBUF),
                         option(client, SOL_SOCKET, SO_SNDBUF));
    }
    set_option(server, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 12345);
    assert_int_equal(option(server, IPPROTO_TCP, TCP_NOTSENT_LOWAT), 12345);
    int value = 5;
    assert_int_equal(setsockopt(server, SOL_SOCKET, SO_SNDBUF, &value, 1), -1);
    assert_int_equal(errno, EINVAL);
    char one;
    socklen_t length = 1;
    assert_int_equal(getsockopt(server, SOL_SOCKET, SO_SNDBUF, &one, &length), 0);
    assert_int_equal(length, 1);
}

/* What the program asked for bounds what is queued, as it would bare: by bytes and their overhead.
 */
static void small_send_buffer_is_kept(void **state)
{
    (void)state;
    set_option(server, SOL_SOCKET, SO_SNDBUF, 4096);
    size_t sent = fill_up();
    assert_true(sent <= 8192 + 65536 + 2 * SMALL_RECEIVE + 65536);
    drain(sent);
}

/* --- other processes --- */

static void forked_child_writes_as_well(void **state)
{
    struct other_end end;
    (void)state;
    start_reading(&end, MUCH, 0);
    pid_t child = fork();
    if (child == 0)
        _exit(write(server, data, MUCH) != (ssize_t)MUCH);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_arrived(&end, MUCH);
}

static void duplicate_writes_as_well(void **state)
{
    struct other_end end;
    (void)state;
    int other = dup(server);
    close(server);
    server = other;
    start_reading(&end, MUCH, 0);
    assert_int_equal(write(server, data, MUCH), MUCH);
    assert_arrived(&end, MUCH);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)
#define ON_UNIX(function)                                                                          \
    {                                                                                              \
#function ", AF_UNIX", function, set_up, tear_down, (void *)"unix"                         \
    }
/* set_up makes TCP of a state that is NULL: the kind is kept beside it. */
static int set_up_tcp(void **state)
{
    void *kind = *state;
    *state = NULL;
    int result = set_up(state);
    *state = kind;
    return result;
}
#define EACH_TRIGGER(function)                                                                     \
    {#function ", level", function, set_up_tcp, tear_down, (void *)4},                             \
        {#function ", edge", function, set_up_tcp, tear_down, (void *)5},                          \
        {#function ", one shot", function, set_up_tcp, tear_down, (void *)6},                      \
    {                                                                                              \
#function ", edge, one shot", function, set_up_tcp, tear_down, (void *)7                   \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(blocking_write_takes_everything),
        ON_UNIX(blocking_write_takes_everything),
        TEST(nonblocking_write_takes_a_part_then_nothing),
        ON_UNIX(nonblocking_write_takes_a_part_then_nothing),
        TEST(dontwait_leaves_the_descriptor_blocking),
        TEST(send_timeout_ends_a_write),
        ON_UNIX(send_timeout_ends_a_write),
        TEST(handler_without_restart_interrupts),
        TEST(signal_ends_a_write_that_took_a_part),
        TEST(cancellation_ends_a_blocked_write),
        TEST(writing_to_who_has_gone_is_epipe),
        TEST(reset_during_a_write_is_told_once),
        TEST(errors_are_the_kernels),
        TEST(zero_copy_completions_are_counted_per_call),
        TEST(every_way_to_read_finds_all_of_it),
        ON_UNIX(every_way_to_read_finds_all_of_it),
        TEST(peeking_and_waiting_for_all),
        TEST(blocking_read_gets_a_whole_request),
        EACH_TRIGGER(ends_are_reported_while_output_is_pending),
        EACH_TRIGGER(input_comes_when_output_went),
        EACH_TRIGGER(asking_for_both_without_output_is_no_pause),
        TEST(send_buffer_is_told_as_without_us),
        TEST(small_send_buffer_is_kept),
        TEST(forked_child_writes_as_well),
        TEST(duplicate_writes_as_well),
        ON_UNIX(duplicate_writes_as_well),
    };
    shimmed = getenv("BACKPRESSURE") != NULL;
    return cmocka_run_group_tests_name(shimmed ? "output under the shim" : "output, bare", tests,
                                       NULL, NULL);
}
