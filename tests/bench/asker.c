/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Asks the same thing on many connections, one question at a time on each, and prints answers a
 * second: `asker PORT CONNECTIONS SECONDS QUESTION ANSWER`.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS_MAX 1024

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

__attribute__((noreturn)) static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void say(int fd, const char *question)
{
    if (send(fd, question, strlen(question), MSG_NOSIGNAL) != (ssize_t)strlen(question))
        die("asker: send");
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event events[64];
    static size_t got[CONNECTIONS_MAX + 64];
    char answer[4096];
    unsigned long answers = 0;

    if (argc != 6 || atoi(argv[2]) < 1 || atoi(argv[2]) > CONNECTIONS_MAX) {
        fprintf(stderr, "usage: asker PORT CONNECTIONS SECONDS QUESTION ANSWER\n");
        return 2;
    }
    size_t wanted = strlen(argv[5]);
    int set = epoll_create1(EPOLL_CLOEXEC);
    address.sin_port = htons((uint16_t)atoi(argv[1]));
    for (int i = 0; i < atoi(argv[2]); i++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (fd < 0 || fd >= CONNECTIONS_MAX + 64 ||
            connect(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
            epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) < 0)
            die("asker: connect");
        say(fd, argv[4]);
    }
    double began = now(), ends = began + atof(argv[3]);
    while (now() < ends) {
        int count = epoll_wait(set, events, 64, 100);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            ssize_t length = recv(fd, answer, sizeof answer, 0);
            if (length <= 0)
                die("asker: recv");
            got[fd] += (size_t)length;
            if (got[fd] < wanted)
                continue;
            got[fd] = 0;
            answers++;
            say(fd, argv[4]);
        }
    }
    printf("%.1f\n", (double)answers / (now() - began));
    return 0;
}
