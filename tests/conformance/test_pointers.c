/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Calls whose arguments point to what is not there, or may not be written to, end as the kernel
 * ends them: with EFAULT, never with a signal, whatever descriptors they concern. (What libc reads
 * itself, such as the times of ppoll and select, ends in a signal without the shim, too.)
 *
 * The same tests run bare and under the shim, below its ceilings and at them.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define PAGE 4096
#define SIGNALLED (-1) /* in place of an errno */

static int listener, conn = -1, peer, plain[2], set;
static sigjmp_buf before;

/* What a pointer may point to. Each is mapped anew, so that nobody knows it from the last time. */
static char *nothing, *edge, *constant;

static void renew(void)
{
    nothing = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    edge = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_int_equal(mprotect(edge + PAGE, PAGE, PROT_NONE), 0);
    edge += PAGE; /* what is before it can be read */
    constant = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

/* From here on it can only be read. */
static void *freeze(void)
{
    assert_int_equal(mprotect(constant, PAGE, PROT_READ), 0);
    return constant;
}

static void give_back(void)
{
    munmap(nothing, PAGE);
    munmap(edge - PAGE, 2 * PAGE);
    munmap(constant, PAGE);
}

static void caught(int signal_number)
{
    siglongjmp(before, signal_number);
}

static int outcome(long (*call)(int fd), int fd)
{
    struct sigaction action = {0};
    action.sa_handler = caught; /* in place of cmocka's */
    sigaction(SIGSEGV, &action, NULL);
    if (sigsetjmp(before, 1) != 0)
        return SIGNALLED;
    errno = 0;
    return call(fd) < 0 ? errno : 0;
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

static int set_up(void **state)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    (void)state;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(listener, 8), 0);
    peer = connect_to(listener);
    struct pollfd client = {.fd = listener, .events = POLLIN};
    assert_int_equal(poll(&client, 1, 10000), 1);
    conn = accept(listener, NULL, NULL);
    assert_true(conn >= 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, plain), 0);
    assert_int_equal(write(peer, "12345678", 8), 8);
    assert_int_equal(write(plain[1], "12345678", 8), 8);
    set = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN};
    assert_int_equal(epoll_ctl(set, EPOLL_CTL_ADD, listener, &event), 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    close(listener);
    close(conn);
    close(peer);
    close(plain[0]);
    close(plain[1]);
    close(set);
    return 0;
}

/* --- waiting --- */

static struct timespec at_once;

static long poll_nothing(int fd)
{
    (void)fd;
    return poll((struct pollfd *)nothing, 1, 0);
}

static long poll_null(int fd)
{
    static struct pollfd *volatile null;
    (void)fd;
    return poll(null, 2, 0);
}

static long poll_half(int fd)
{
    struct pollfd *fds = (struct pollfd *)edge - 1;
    *fds = (struct pollfd){.fd = fd, .events = POLLIN};
    return poll(fds, 2, 0);
}

static long poll_constant(int fd)
{
    *(struct pollfd *)constant = (struct pollfd){.fd = fd, .events = POLLIN};
    return poll(freeze(), 1, 0);
}

static long ppoll_nothing(int fd)
{
    (void)fd;
    return ppoll((struct pollfd *)nothing, 1, &at_once, NULL);
}

static long ppoll_mask(int fd)
{
    struct pollfd one = {.fd = fd, .events = POLLIN};
    return ppoll(&one, 1, &at_once, (sigset_t *)nothing);
}

static long select_nothing(int fd)
{
    struct timeval time = {0};
    return select(fd + 1, (fd_set *)nothing, NULL, NULL, &time);
}

static long select_nothing_to_write(int fd)
{
    fd_set reads;
    struct timeval time = {0};
    FD_ZERO(&reads);
    FD_SET(fd, &reads);
    return select(fd + 1, &reads, (fd_set *)nothing, NULL, &time);
}

static long select_nothing_else(int fd)
{
    fd_set reads;
    struct timeval time = {0};
    FD_ZERO(&reads);
    FD_SET(fd, &reads);
    return select(fd + 1, &reads, NULL, (fd_set *)nothing, &time);
}

static long select_constant(int fd)
{
    struct timeval time = {0};
    FD_SET(fd, (fd_set *)constant);
    return select(fd + 1, freeze(), NULL, NULL, &time);
}

static long pselect_nothing(int fd)
{
    return pselect(fd + 1, (fd_set *)nothing, NULL, NULL, &at_once, NULL);
}

static long pselect_mask(int fd)
{
    fd_set reads;
    FD_ZERO(&reads);
    FD_SET(fd, &reads);
    return pselect(fd + 1, &reads, NULL, NULL, &at_once, (sigset_t *)nothing);
}

static long epoll_ctl_add(int fd)
{
    return epoll_ctl(set, EPOLL_CTL_ADD, fd, (struct epoll_event *)nothing);
}

static long epoll_ctl_modify(int fd)
{
    struct epoll_event event = {.events = EPOLLIN};
    epoll_ctl(set, EPOLL_CTL_ADD, fd, &event);
    return epoll_ctl(set, EPOLL_CTL_MOD, fd, (struct epoll_event *)nothing);
}

static long epoll_ctl_null(int fd)
{
    return epoll_ctl(set, EPOLL_CTL_ADD, fd, NULL);
}

/* Ready in any case: a set in which a connection with input is. */
static long epoll_wait_nothing(int fd)
{
    struct epoll_event event = {.events = EPOLLIN};
    epoll_ctl(set, EPOLL_CTL_ADD, fd, &event);
    return epoll_wait(set, (struct epoll_event *)nothing, 1, 10000);
}

static long epoll_pwait_mask(int fd)
{
    struct epoll_event event;
    (void)fd;
    return epoll_pwait(set, &event, 1, 0, (sigset_t *)nothing);
}

static long epoll_pwait2_time(int fd)
{
    struct epoll_event event;
    (void)fd;
    return epoll_pwait2(set, &event, 1, (struct timespec *)nothing, NULL);
}

/* --- reading and writing --- */

static long read_nothing(int fd)
{
    return read(fd, nothing, 4);
}

static long recv_nothing(int fd)
{
    return recv(fd, nothing, 4, MSG_PEEK);
}

static long readv_nothing(int fd)
{
    return readv(fd, (struct iovec *)nothing, 1);
}

static long readv_half(int fd)
{
    struct iovec *vector = (struct iovec *)edge - 1;
    *vector = (struct iovec){constant, 4};
    return readv(fd, vector, 2);
}

static long readv_base(int fd)
{
    struct iovec vector = {nothing, 4};
    return readv(fd, &vector, 1);
}

static long preadv2_nothing(int fd)
{
    return preadv2(fd, (struct iovec *)nothing, 1, -1, 0);
}

static long recvfrom_nothing(int fd)
{
    return recvfrom(fd, nothing, 4, MSG_DONTWAIT, NULL, NULL);
}

static long recvmsg_nothing(int fd)
{
    return recvmsg(fd, (struct msghdr *)nothing, MSG_DONTWAIT);
}

static long recvmsg_half(int fd)
{
    return recvmsg(fd, (struct msghdr *)(edge - 16), MSG_DONTWAIT);
}

static long recvmsg_vector(int fd)
{
    struct msghdr message = {.msg_iov = (struct iovec *)nothing, .msg_iovlen = 1};
    return recvmsg(fd, &message, MSG_DONTWAIT);
}

static long recvmsg_constant(int fd)
{
    struct iovec vector = {edge - 8, 4};
    *(struct msghdr *)constant = (struct msghdr){.msg_iov = &vector, .msg_iovlen = 1};
    return recvmsg(fd, freeze(), MSG_DONTWAIT);
}

static long recvmmsg_nothing(int fd)
{
    return recvmmsg(fd, (struct mmsghdr *)nothing, 1, MSG_DONTWAIT, NULL);
}

static long write_nothing(int fd)
{
    return write(fd, nothing, 4);
}

static long send_nothing(int fd)
{
    return send(fd, nothing, 4, MSG_NOSIGNAL);
}

static long sendto_nothing(int fd)
{
    return sendto(fd, nothing, 4, MSG_NOSIGNAL, NULL, 0);
}

static long writev_nothing(int fd)
{
    return writev(fd, (struct iovec *)nothing, 1);
}

static long writev_half(int fd)
{
    struct iovec *vector = (struct iovec *)edge - 1;
    *vector = (struct iovec){constant, 4};
    return writev(fd, vector, 2);
}

static long pwritev2_nothing(int fd)
{
    return pwritev2(fd, (struct iovec *)nothing, 1, -1, 0);
}

static long sendmsg_nothing(int fd)
{
    return sendmsg(fd, (struct msghdr *)nothing, MSG_NOSIGNAL);
}

static long sendmsg_half(int fd)
{
    return sendmsg(fd, (struct msghdr *)(edge - 16), MSG_NOSIGNAL);
}

static long sendmsg_vector(int fd)
{
    struct msghdr message = {.msg_iov = (struct iovec *)nothing, .msg_iovlen = 1};
    return sendmsg(fd, &message, MSG_NOSIGNAL);
}

static long sendmsg_control(int fd)
{
    struct iovec vector = {constant, 4};
    struct msghdr message = {
        .msg_iov = &vector, .msg_iovlen = 1, .msg_control = nothing, .msg_controllen = 64};
    return sendmsg(fd, &message, MSG_NOSIGNAL);
}

static long sendmmsg_nothing(int fd)
{
    return sendmmsg(fd, (struct mmsghdr *)nothing, 1, MSG_NOSIGNAL);
}

static long sendfile_offset(int fd)
{
    int file = open("/proc/self/exe", O_RDONLY);
    long result = sendfile(fd, file, (off_t *)nothing, 4);
    int saved = errno;
    close(file);
    errno = saved;
    return result;
}

/* --- sockets --- */

static long getsockopt_length(int fd)
{
    int value;
    return getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &value, (socklen_t *)nothing);
}

static long getsockopt_constant(int fd)
{
    int value;
    *(socklen_t *)constant = sizeof value;
    return getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &value, freeze());
}

static long getsockopt_value(int fd)
{
    socklen_t length = sizeof(int);
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, nothing, &length);
}

static long setsockopt_value(int fd)
{
    return setsockopt(fd, SOL_SOCKET, SO_SNDBUF, nothing, sizeof(int));
}

static long connect_nothing(int fd)
{
    (void)fd;
    int unconnected = socket(AF_INET, SOCK_STREAM, 0);
    long result = connect(unconnected, (struct sockaddr *)nothing, sizeof(struct sockaddr_in));
    int saved = errno;
    close(unconnected);
    errno = saved;
    return result;
}

static const struct {
    const char *name;
    long (*call)(int fd);
    int error;
    bool streams_only; /* which makes no sense on a listener */
} cases[] = {
    {"poll of nothing", poll_nothing, EFAULT, false},
    {"poll of NULL", poll_null, EFAULT, false},
    {"poll over an edge", poll_half, EFAULT, false},
    {"poll of a constant", poll_constant, EFAULT, false},
    {"ppoll of nothing", ppoll_nothing, EFAULT, false},
    {"ppoll, its mask", ppoll_mask, EFAULT, false},
    {"select of nothing", select_nothing, EFAULT, false},
    {"select, its second set", select_nothing_to_write, EFAULT, false},
    {"select, its third set", select_nothing_else, EFAULT, false},
    {"select of a constant", select_constant, EFAULT, false},
    {"pselect of nothing", pselect_nothing, EFAULT, false},
    {"pselect, its mask", pselect_mask, EFAULT, false},
    {"epoll_ctl, ADD", epoll_ctl_add, EFAULT, false},
    {"epoll_ctl, MOD", epoll_ctl_modify, EFAULT, false},
    {"epoll_ctl, NULL", epoll_ctl_null, EFAULT, false},
    {"epoll_wait", epoll_wait_nothing, EFAULT, true},
    {"epoll_pwait, its mask", epoll_pwait_mask, EFAULT, false},
    {"epoll_pwait2, its time", epoll_pwait2_time, EFAULT, false},
    {"read", read_nothing, EFAULT, true},
    {"recv", recv_nothing, EFAULT, true},
    {"readv", readv_nothing, EFAULT, true},
    {"readv over an edge", readv_half, EFAULT, true},
    {"readv, its base", readv_base, EFAULT, true},
    {"preadv2", preadv2_nothing, EFAULT, true},
    {"recvfrom", recvfrom_nothing, EFAULT, true},
    {"recvmsg", recvmsg_nothing, EFAULT, true},
    {"recvmsg over an edge", recvmsg_half, EFAULT, true},
    {"recvmsg, its vector", recvmsg_vector, EFAULT, true},
    {"recvmmsg", recvmmsg_nothing, EFAULT, true},
    {"write", write_nothing, EFAULT, true},
    {"send", send_nothing, EFAULT, true},
    {"sendto", sendto_nothing, EFAULT, true},
    {"writev", writev_nothing, EFAULT, true},
    {"writev over an edge", writev_half, EFAULT, true},
    {"pwritev2", pwritev2_nothing, EFAULT, true},
    {"sendmsg", sendmsg_nothing, EFAULT, true},
    {"sendmsg over an edge", sendmsg_half, EFAULT, true},
    {"sendmsg, its vector", sendmsg_vector, EFAULT, true},
    {"sendmsg, its control data", sendmsg_control, EFAULT, true},
    {"sendmmsg", sendmmsg_nothing, EFAULT, true},
    {"sendfile, its offset", sendfile_offset, EFAULT, true},
    {"getsockopt, its length", getsockopt_length, EFAULT, false},
    {"getsockopt, a constant length", getsockopt_constant, EFAULT, false},
    {"getsockopt, its value", getsockopt_value, EFAULT, false},
    {"setsockopt", setsockopt_value, EFAULT, false},
    {"connect", connect_nothing, EFAULT, true},
    /* Last, as it takes what there is to read. */
    {"recvmsg of a constant", recvmsg_constant, EFAULT, true},
};

static void check_all(int fd, bool streams)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (cases[i].streams_only && !streams)
            continue;
        renew();
        int came = outcome(cases[i].call, fd);
        if (came != cases[i].error)
            print_message("%s: %d in place of %d\n", cases[i].name, came, cases[i].error);
        assert_int_equal(came, cases[i].error);
        give_back();
    }
}

static void test_what_is_not_tracked(void **state)
{
    (void)state;
    check_all(plain[0], true);
}

static void test_connections(void **state)
{
    (void)state;
    check_all(conn, true);
}

static void test_listeners(void **state)
{
    (void)state;
    check_all(listener, false);
}

static int wait_for_client(void)
{
    struct pollfd client = {.fd = listener, .events = POLLIN};
    return poll(&client, 1, 10000);
}

static long accept_length(int fd)
{
    struct sockaddr_in address;
    return accept(fd, (struct sockaddr *)&address, (socklen_t *)nothing);
}

static long accept_address(int fd)
{
    socklen_t length = sizeof(struct sockaddr_in);
    return accept4(fd, (struct sockaddr *)nothing, &length, 0);
}

static long accept_constant(int fd)
{
    socklen_t length = sizeof(struct sockaddr_in);
    return accept(fd, freeze(), &length);
}

static long accept_nobody(int fd)
{
    socklen_t *no_length = (socklen_t *)(nothing + sizeof(struct sockaddr_storage));
    return accept(fd, (struct sockaddr *)nothing, no_length);
}

/* accept(2): the client is gone all the same; and where there is none, EAGAIN comes first. */
static void test_accept(void **state)
{
    static long (*const calls[])(int fd) = {accept_length, accept_address, accept_constant};
    (void)state;
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        close(conn); /* makes room */
        int client = connect_to(listener);
        assert_int_equal(wait_for_client(), 1);
        renew();
        assert_int_equal(outcome(calls[i], listener), EFAULT);
        give_back();
        char byte;
        assert_true(recv(client, &byte, 1, 0) <= 0);
        close(client);
        client = connect_to(listener);
        assert_int_equal(wait_for_client(), 1);
        conn = accept(listener, NULL, NULL);
        assert_true(conn >= 0);
        close(client);
    }
    renew();
    assert_int_equal(outcome(accept_nobody, listener), EAGAIN);
    give_back();
}

static long wait4_status(int fd)
{
    (void)fd;
    return waitpid(-1, (int *)nothing, 0);
}

/* wait4(2): the child is reaped before the kernel finds that it cannot tell of it. */
static void test_wait(void **state)
{
    (void)state;
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    renew();
    assert_int_equal(outcome(wait4_status, -1), EFAULT);
    assert_int_equal(outcome(wait4_status, -1), ECHILD);
    give_back();
}

static long seccomp_nothing(int fd)
{
    (void)fd;
    return syscall(SYS_seccomp, 1 /* SECCOMP_SET_MODE_FILTER */, 0, nothing);
}

static void test_seccomp(void **state)
{
    (void)state;
    renew();
    assert_int_equal(outcome(seccomp_nothing, -1), EFAULT);
    give_back();
    assert_true(getppid() > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_is_not_tracked, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_connections, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_listeners, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_accept, set_up, tear_down),
        cmocka_unit_test(test_wait),
        cmocka_unit_test(test_seccomp),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
