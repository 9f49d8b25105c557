/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What belongs together on a stream stays together: a read may be cut and a write split where that
 * is all the same to the program, and nowhere else. The same tests run bare and under the shim,
 * with ceilings so low that every read and write could meet them, and with some so high that none
 * should.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#define MUCH (4U << 20)
#define LONG_MESSAGE 60000
#define DESCRIPTOR_MOST 36000 /* above, the kernel cuts such a message itself */
#define PATIENCE_MS 60000

static int server = -1, client = -1; /* the two ends of one connection; `server` was accepted */
static uint8_t data[MUCH], back[MUCH];

static void connect_pair(const struct sockaddr *any, socklen_t length, int type)
{
    struct sockaddr_storage address;
    socklen_t got = sizeof address;
    int listener = socket(any->sa_family, type, 0);
    assert_int_equal(bind(listener, any, length), 0);
    assert_int_equal(listen(listener, 8), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &got), 0);
    client = socket(any->sa_family, type, 0);
    assert_int_equal(connect(client, (struct sockaddr *)&address, got), 0);
    server = accept(listener, NULL, NULL);
    assert_true(server >= 0);
    close(listener);
}

static void connect_unix(int type)
{
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    /* unix(7), autobind: the kernel finds a name that is free */
    connect_pair((struct sockaddr *)&local, sizeof(sa_family_t), type);
}

static int set_up_tcp(void **state)
{
    struct sockaddr_in tcp = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    (void)state;
    connect_pair((struct sockaddr *)&tcp, sizeof tcp, SOCK_STREAM);
    return 0;
}

static int set_up_unix(void **state)
{
    (void)state;
    connect_unix(SOCK_STREAM);
    return 0;
}

static int set_up_packets(void **state)
{
    (void)state;
    connect_unix(SOCK_SEQPACKET);
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

static void send_all(int fd, size_t length)
{
    for (size_t sent = 0; sent < length;) {
        ssize_t result = send(fd, data + sent, length - sent, 0);
        assert_true(result > 0);
        sent += (size_t)result;
    }
}

/* Until so many bytes can be read at once. */
static void wait_for_input(int fd, int length)
{
    for (int waited = 0; waited < PATIENCE_MS; waited++) {
        socklen_t size = sizeof(int);
        int before, there;
        struct pollfd input = {.fd = fd, .events = POLLIN};
        /* By the low-water mark, so that the program is told of no number. */
        assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &before, &size), 0);
        assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &length, sizeof length), 0);
        there = poll(&input, 1, 1);
        assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &before, sizeof before), 0);
        if (there > 0)
            return;
    }
    fail_msg("%d bytes did not come", length);
}

/* A wait for readiness, as programs make before they read: a new turn of what they may have. */
static void wait_as_programs_do(int fd)
{
    struct pollfd input = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&input, 1, PATIENCE_MS), 1);
}

static bool credit_is_short(void)
{
    const char *limits = getenv("BACKPRESSURE");
    return limits && (strstr(limits, "buffer=4K") || strstr(limits, "buffer=64K"));
}

static void first_read_is_whole(void **state)
{
    (void)state;
    if (credit_is_short())
        return; /* reads are cut there, as they should be */
    set_nonblocking(server);
    send_all(client, LONG_MESSAGE);
    wait_for_input(server, LONG_MESSAGE);
    assert_int_equal(recv(server, back, sizeof back, 0), LONG_MESSAGE);
}

/* An answer that was short says nothing of what the next request may have. */
static void later_reads_are_whole(void **state)
{
    (void)state;
    if (credit_is_short())
        return; /* reads are cut there, as they should be */
    set_nonblocking(server);
    for (int length = 10; length <= 10000; length *= 10) {
        send_all(client, (size_t)length);
        wait_for_input(server, length);
        wait_as_programs_do(server);
        assert_int_equal(recv(server, back, sizeof back, 0), length);
        assert_int_equal(send(server, data, 20, 0), 20);
        assert_int_equal(recv(client, back, 20, MSG_WAITALL), 20);
    }
}

static void low_water_mark_is_kept(void **state)
{
    int mark = 20000;
    (void)state;
    set_nonblocking(server);
    assert_int_equal(setsockopt(server, SOL_SOCKET, SO_RCVLOWAT, &mark, sizeof mark), 0);
    send_all(client, LONG_MESSAGE);
    wait_for_input(server, LONG_MESSAGE);
    ssize_t got = recv(server, back, sizeof back, 0);
    assert_true(got >= mark);
    assert_memory_equal(back, data, (size_t)got);
}

static void what_was_counted_is_read(void **state)
{
    int there = 0;
    (void)state;
    set_nonblocking(server);
    send_all(client, 5000);
    wait_for_input(server, 5000);
    assert_int_equal(ioctl(server, FIONREAD, &there), 0);
    assert_int_equal(there, 5000);
    assert_int_equal(read(server, back, 5000), 5000);
    assert_memory_equal(back, data, 5000);
}

static void what_was_peeked_at_is_read(void **state)
{
    (void)state;
    set_nonblocking(server);
    send_all(client, 5000);
    wait_for_input(server, 5000);
    assert_int_equal(recv(server, back, 4000, MSG_PEEK), 4000);
    assert_int_equal(recv(server, back, 4000, 0), 4000);
    assert_memory_equal(back, data, 4000);
}

static void several_messages_are_waited_for(void **state)
{
    struct iovec parts[2] = {{back, 100}, {back + 100, 100}};
    struct mmsghdr messages[2] = {{.msg_hdr = {.msg_iov = &parts[0], .msg_iovlen = 1}},
                                  {.msg_hdr = {.msg_iov = &parts[1], .msg_iovlen = 1}}};
    (void)state;
    send_all(client, 200);
    wait_for_input(server, 200);
    assert_int_equal(recvmmsg(server, messages, 2, 0, NULL), 2);
    assert_int_equal(messages[1].msg_len, 100);
    assert_memory_equal(back, data, 200);
}

/* After a message that was taken in part none follows: its rest would come behind it. */
static void no_message_overtakes_a_rest(void **state)
{
    enum { MESSAGES = 64 };
    struct iovec parts[MESSAGES];
    struct mmsghdr messages[MESSAGES];
    size_t each = MUCH / MESSAGES, taken = 0;
    (void)state;
    set_nonblocking(server);
    memset(messages, 0, sizeof messages);
    for (size_t i = 0; i < MESSAGES; i++) {
        parts[i] = (struct iovec){data + i * each, each};
        messages[i].msg_hdr.msg_iov = &parts[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    int sent = sendmmsg(server, messages, MESSAGES, 0);
    assert_in_range(sent, 1, MESSAGES);
    for (int i = 0; i < sent; i++) {
        assert_true(i == sent - 1 || messages[i].msg_len == each);
        taken += messages[i].msg_len;
    }
    shutdown(server, SHUT_WR);
    for (size_t got = 0; got < taken;) {
        ssize_t result = recv(client, back + got, sizeof back - got, 0);
        assert_true(result > 0);
        got += (size_t)result;
    }
    assert_memory_equal(back, data, taken);
    assert_int_equal(recv(client, back, 1, 0), 0);
}

/* --- messages with a descriptor --- */

static void send_with_descriptor(int fd, size_t length)
{
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec part = {data, length};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    int passed = STDERR_FILENO;
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof passed);
    memcpy(CMSG_DATA(header), &passed, sizeof passed);
    assert_int_equal(sendmsg(fd, &message, 0), length);
}

static void assert_received_with_descriptor(int fd, size_t length)
{
    char control[CMSG_SPACE(sizeof(int))];
    struct iovec part = {back, sizeof back};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    int passed = -1;
    assert_int_equal(recvmsg(fd, &message, 0), length);
    assert_false(message.msg_flags & MSG_CTRUNC);
    assert_int_equal(part.iov_len, sizeof back);
    const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    assert_non_null(header);
    assert_int_equal(header->cmsg_type, SCM_RIGHTS);
    memcpy(&passed, CMSG_DATA(header), sizeof passed);
    assert_true(passed >= 0);
    close(passed);
    assert_memory_equal(back, data, length);
}

static void message_with_descriptor_is_sent_whole(void **state)
{
    (void)state;
    for (size_t length = 10; length < DESCRIPTOR_MOST; length *= 8) {
        send_with_descriptor(server, length);
        assert_received_with_descriptor(client, length);
    }
}

static void message_with_descriptor_is_read_whole(void **state)
{
    (void)state;
    set_nonblocking(server);
    for (size_t length = 10; length < DESCRIPTOR_MOST; length *= 8) {
        send_with_descriptor(client, length);
        wait_as_programs_do(server);
        assert_received_with_descriptor(server, length);
    }
}

static void packets_are_whole(void **state)
{
    (void)state;
    set_nonblocking(server);
    for (size_t length = 10; length < 100000; length *= 8) {
        assert_int_equal(send(client, data, length, 0), length);
        wait_as_programs_do(server);
        assert_int_equal(recv(server, back, sizeof back, 0), length);
        assert_memory_equal(back, data, length);
        assert_int_equal(send(server, data, length, MSG_EOR), length);
        assert_int_equal(recv(client, back, sizeof back, 0), length);
    }
}

#define OVER(kind, function)                                                                       \
    {                                                                                              \
#function " over " #kind, function, set_up_##kind, tear_down, NULL                         \
    }

int main(void)
{
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)((i * 2654435761U) >> 13);
    const struct CMUnitTest tests[] = {
        OVER(tcp, first_read_is_whole),
        OVER(unix, first_read_is_whole),
        OVER(tcp, later_reads_are_whole),
        OVER(unix, later_reads_are_whole),
        OVER(tcp, low_water_mark_is_kept),
        OVER(tcp, what_was_counted_is_read),
        OVER(unix, what_was_counted_is_read),
        OVER(tcp, what_was_peeked_at_is_read),
        OVER(unix, what_was_peeked_at_is_read),
        OVER(tcp, several_messages_are_waited_for),
        OVER(unix, several_messages_are_waited_for),
        OVER(tcp, no_message_overtakes_a_rest),
        OVER(unix, no_message_overtakes_a_rest),
        OVER(unix, message_with_descriptor_is_sent_whole),
        OVER(unix, message_with_descriptor_is_read_whole),
        OVER(packets, packets_are_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
