/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * An echo server that puts a seccomp filter around whoever talks to a client, as OpenSSH, vsftpd
 * and chrony do: a call too much, and the kernel kills it.
 *
 *     sandboxed FILTER fork PORT     a process for each client, which sandboxes itself first
 *     sandboxed FILTER alone PORT    one process, which waits and accepts in its sandbox, too
 *     sandboxed FILTER end           sandboxes itself and returns 7
 *
 * Prints a line for each child that did not end by itself.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CLIENTS_MAX 64
#define PROGRAM_MAX 32

/* What a child of `fork` calls; `alone` calls the rest, too. */
static const long talking[] = {SYS_read, SYS_write, SYS_exit, SYS_exit_group, SYS_rt_sigreturn};
static const long accepting[] = {SYS_accept, SYS_poll, SYS_close};
static const long ending[] = {SYS_exit_group};

static const struct filter {
    const char *name;
    uint32_t otherwise; /* what becomes of other calls */
    bool raw;           /* installed by number */
    bool twice;
    bool lists_what_is_forbidden;
} filters[] = {
    {"kill", SECCOMP_RET_KILL_PROCESS, false, false, false},
    {"trap", SECCOMP_RET_TRAP, false, false, false},
    {"errno", SECCOMP_RET_ERRNO | ENOSYS, false, false, false},
    {"raw", SECCOMP_RET_KILL_PROCESS, true, false, false},
    {"twice", SECCOMP_RET_KILL_THREAD, false, true, false},
    {"forbidding", SECCOMP_RET_KILL_PROCESS, false, false, true},
    {"strict", 0, false, false, false},
};

struct program {
    unsigned short length;
    struct sock_filter instruction[PROGRAM_MAX];
};

static void add(struct program *program, struct sock_filter instruction)
{
    program->instruction[program->length++] = instruction;
}

static void add_calls(struct program *program, const long *numbers, size_t count, uint32_t verdict)
{
    for (size_t i = 0; i < count; i++) {
        add(program,
            (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)numbers[i], 0, 1));
        add(program, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, verdict));
    }
}

#define ADD_CALLS(program, numbers, verdict)                                                       \
    add_calls(program, numbers, sizeof(numbers) / sizeof *(numbers), verdict)

static void make(const struct filter *filter, const char *style, struct program *program)
{
    static const long forbidden[] = {SYS_personality};
    add(program,
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)));
    if (filter->lists_what_is_forbidden) {
        ADD_CALLS(program, forbidden, filter->otherwise);
        add(program, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
        return;
    }
    if (strcmp(style, "end") == 0)
        ADD_CALLS(program, ending, SECCOMP_RET_ALLOW);
    else
        ADD_CALLS(program, talking, SECCOMP_RET_ALLOW);
    if (strcmp(style, "alone") == 0)
        ADD_CALLS(program, accepting, SECCOMP_RET_ALLOW);
    if (filter->twice) {
        static const long itself[] = {SYS_prctl};
        ADD_CALLS(program, itself, SECCOMP_RET_ALLOW);
    }
    add(program, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, filter->otherwise));
}

static void install(const struct filter *filter, const char *style)
{
    struct program program = {0};
    make(filter, style, &program);
    struct sock_fprog told = {program.length, program.instruction};
    long result = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    for (int i = 0; result == 0 && i < 1 + filter->twice; i++)
        result = filter->raw ? syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &told)
                             : prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &told);
    if (result != 0) {
        perror("seccomp");
        exit(2);
    }
}

static void enter_sandbox(const char *name, const char *style)
{
    if (strcmp(name, "strict") == 0) {
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
        return;
    }
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (strcmp(name, filters[i].name) == 0)
            install(&filters[i], style);
}

/* False at the end of the client's input. */
static bool echo(int fd)
{
    char bytes[4096];
    ssize_t got = read(fd, bytes, sizeof bytes);
    for (ssize_t sent = 0; got > 0 && sent < got;) {
        ssize_t result = write(fd, bytes + sent, (size_t)(got - sent));
        if (result < 0)
            return false;
        sent += result;
    }
    return got > 0;
}

static void reap(void)
{
    int status;
    pid_t child;
    while ((child = waitpid(-1, &status, WNOHANG)) > 0)
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            printf("child %d: status %x\n", (int)child, (unsigned)status);
    fflush(stdout);
}

static void serve_by_fork(int listener, const char *filter)
{
    struct pollfd waited_for = {.fd = listener, .events = POLLIN};
    for (;;) {
        reap();
        if (poll(&waited_for, 1, 20) <= 0)
            continue;
        int client = accept(listener, NULL, NULL);
        if (client >= 0 && fork() == 0) {
            close(listener);
            enter_sandbox(filter, "fork");
            while (echo(client))
                ;
            syscall(SYS_exit, 0); /* strict mode knows no exit_group */
        }
        if (client >= 0)
            close(client);
    }
}

static void serve_alone(int listener, const char *filter)
{
    struct pollfd fds[1 + CLIENTS_MAX] = {{.fd = listener, .events = POLLIN}};
    nfds_t count = 1;
    enter_sandbox(filter, "alone");
    for (;;) {
        if (poll(fds, count, -1) < 0)
            continue;
        for (nfds_t i = count - 1; i > 0; i--) {
            if (!fds[i].revents || echo(fds[i].fd))
                continue;
            close(fds[i].fd);
            fds[i] = fds[--count];
        }
        int client = fds[0].revents && count <= CLIENTS_MAX ? accept(listener, NULL, NULL) : -1;
        if (client >= 0)
            fds[count++] = (struct pollfd){.fd = client, .events = POLLIN};
    }
}

static int listen_at(const char *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                  .sin_port = htons((uint16_t)atoi(port))};
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(listener, 64) < 0) {
        perror("listen");
        exit(2);
    }
    return listener;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[2], "end") == 0) {
        enter_sandbox(argv[1], "end");
        return 7;
    }
    if (argc != 4)
        return 2;
    int listener = listen_at(argv[3]);
    if (strcmp(argv[2], "fork") == 0)
        serve_by_fork(listener, argv[1]);
    else
        serve_alone(listener, argv[1]);
}
