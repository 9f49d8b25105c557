/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "readers.h"

#include "crowd.h"
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define RECEIVE_BUFFER 32768
#define AT_ONCE 65536
#define TURNS 16

void pattern_fill(uint8_t *out, size_t length)
{
    uint64_t state = UINT64_C(0x9e3779b97f4a7c15);
    for (size_t i = 0; i < length; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out[i] = (uint8_t)(state >> 32);
    }
}

void readers_start(struct readers *readers, size_t count, uint16_t port, const char *request,
                   size_t times, const struct expected *expected)
{
    struct sockaddr_in address = loopback(port);
    size_t length = strlen(request);
    int small = RECEIVE_BUFFER;

    memset(readers, 0, sizeof *readers);
    readers->count = count;
    readers->expected = *expected;
    readers->reader = calloc(count, sizeof *readers->reader);
    readers->requests = malloc(length * times + 1);
    if (!readers->reader || !readers->requests)
        abort();
    for (size_t i = 0; i < times; i++)
        memcpy(readers->requests + i * length, request, length);
    for (size_t i = 0; i < count; i++) {
        struct reader *reader = &readers->reader[i];
        reader->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        setsockopt(reader->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
        if (connect(reader->fd, (struct sockaddr *)&address, sizeof address) < 0) {
            perror("connect");
            abort();
        }
        fcntl(reader->fd, F_SETFL, O_NONBLOCK);
        reader->request = readers->requests;
        reader->request_left = length * times;
        reader->in_header = expected->http;
    }
}

void readers_end(struct readers *readers)
{
    for (size_t i = 0; i < readers->count; i++)
        close(readers->reader[i].fd);
    free(readers->reader);
    free(readers->requests);
    memset(readers, 0, sizeof *readers);
}

static uint64_t wanted(const struct readers *readers)
{
    return (uint64_t)readers->expected.unit_length * readers->expected.times;
}

/* Skips the header; returns how many of `length` bytes belonged to it. */
static size_t skip_header(struct reader *reader, const uint8_t *bytes, size_t length)
{
    static const char end[] = "\r\n\r\n";
    size_t used = strlen(reader->status), i = 0;
    for (; i < length && reader->in_header; i++) {
        if (used + 1 < sizeof reader->status)
            reader->status[used++] = (char)bytes[i];
        reader->header_match = bytes[i] == (uint8_t)end[reader->header_match]
                                   ? reader->header_match + 1
                                   : bytes[i] == '\r';
        reader->in_header = reader->header_match < 4;
    }
    return i;
}

static void check(const struct expected *expected, struct reader *reader, const uint8_t *bytes,
                  size_t length)
{
    while (length && !reader->wrong) {
        size_t at = reader->got % expected->unit_length, left = expected->unit_length - at;
        size_t part = length < left ? length : left;
        if (reader->got + part > (uint64_t)expected->unit_length * expected->times ||
            memcmp(bytes, expected->unit + at, part) != 0) {
            fprintf(stderr, "wrong at byte %llu (header %.20s)\n", (unsigned long long)reader->got,
                    reader->status);
            reader->wrong = true;
        }
        reader->got += part;
        bytes += part;
        length -= part;
    }
}

static void take(const struct readers *readers, struct reader *reader)
{
    static uint8_t buffer[AT_ONCE];
    for (int turn = 0; turn < TURNS; turn++) {
        ssize_t got = recv(reader->fd, buffer, sizeof buffer, 0);
        if (got < 0 && errno == EAGAIN)
            return;
        if (got <= 0) {
            reader->ended = true;
            return;
        }
        size_t skipped = skip_header(reader, buffer, (size_t)got);
        check(&readers->expected, reader, buffer + skipped, (size_t)got - skipped);
    }
}

void readers_step(struct readers *readers, bool read, int timeout_ms)
{
    struct pollfd *fds = calloc(readers->count, sizeof *fds);
    if (!fds)
        abort();
    for (size_t i = 0; i < readers->count; i++) {
        const struct reader *reader = &readers->reader[i];
        bool reads = read && !reader->ended && reader->got < wanted(readers);
        fds[i].events = (short)((reads ? POLLIN : 0) | (reader->request_left ? POLLOUT : 0));
        fds[i].fd = fds[i].events ? reader->fd : -1;
    }
    poll(fds, readers->count, timeout_ms);
    for (size_t i = 0; i < readers->count; i++) {
        struct reader *reader = &readers->reader[i];
        if (fds[i].revents & POLLOUT && reader->request_left) {
            ssize_t sent = send(reader->fd, reader->request, reader->request_left, MSG_NOSIGNAL);
            reader->request += sent > 0 ? sent : 0;
            reader->request_left -= sent > 0 ? (size_t)sent : 0;
        }
        if (read && fds[i].revents & (POLLIN | POLLHUP | POLLERR))
            take(readers, reader);
    }
    free(fds);
}

size_t readers_complete(const struct readers *readers)
{
    size_t count = 0;
    for (size_t i = 0; i < readers->count; i++)
        count += !readers->reader[i].wrong && readers->reader[i].got == wanted(readers);
    return count;
}

size_t readers_wrong(const struct readers *readers)
{
    size_t count = 0;
    for (size_t i = 0; i < readers->count; i++)
        count += readers->reader[i].wrong ||
                 (readers->reader[i].ended && readers->reader[i].got < wanted(readers));
    return count;
}

bool readers_read_all(struct readers *readers, double seconds)
{
    double deadline = seconds_now() + seconds;
    while (readers_complete(readers) < readers->count && readers_wrong(readers) == 0 &&
           seconds_now() < deadline)
        readers_step(readers, true, 100);
    if (readers_complete(readers) == readers->count)
        return true;
    for (size_t i = 0; i < readers->count; i++)
        fprintf(stderr, "reader %zu: %llu of %llu bytes%s%s, %zu of its requests unsent\n", i,
                (unsigned long long)readers->reader[i].got, (unsigned long long)wanted(readers),
                readers->reader[i].wrong ? ", wrong" : "",
                readers->reader[i].ended ? ", ended" : "", readers->reader[i].request_left);
    return false;
}

uint64_t queued_by_ss(uint16_t port, unsigned *sockets)
{
    char command[128], line[512];
    uint64_t sum = 0;
    unsigned count = 0;
    snprintf(command, sizeof command, "ss -Htn state connected '( sport = :%u )'", port);
    FILE *pipe = popen(command, "re");
    unsigned long received, queued;
    while (pipe && fgets(line, sizeof line, pipe))
        if (sscanf(line, "%*s %lu %lu", &received, &queued) == 2) {
            sum += queued;
            count++;
        }
    if (pipe)
        pclose(pipe);
    if (sockets)
        *sockets = count;
    return sum;
}
