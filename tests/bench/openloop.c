/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Clients that come at a given rate, whatever the server does, ask one thing each, and give up when
 * their patience ends: `openloop PORT RATE SECONDS [PATIENCE_MS] [none|at-once|retry-after]`.
 *
 * Arrivals are a Poisson process; the rate may change: RATE is `R` or `R:SECONDS,R:SECONDS,...`.
 * Latency counts from the moment when the client was due. Prints one JSON object.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CLIENTS_MAX 65536
#define PHASES_MAX 16
#define EVENTS 256
#define ANSWER_MAX 512
#define SLOTS_PER_SECOND 10 /* of the series */
#define SERIES_MAX 6000
#define SOURCES 200 /* addresses of 127.1.0.0/16, so that no ports run out */
#define RETRIES_MAX 20
#define REQUEST "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

enum retry { RETRY_NONE, RETRY_AT_ONCE, RETRY_AFTER };

/* HTTP asks when it is connected; MySQL is greeted, logs in, and asks. */
enum stage { STAGE_CONNECTS, STAGE_GREETING, STAGE_LOGIN, STAGE_ASKED };

struct client {
    int fd;
    enum stage stage;
    double due, gives_up;
    unsigned tries;
    size_t length;
    char answer[ANSWER_MAX];
};

struct comeback {
    double at;
    unsigned tries;
};

static struct client clients[CLIENTS_MAX];
static uint32_t free_clients[CLIENTS_MAX], free_count;
static struct {
    double rate, until;
} phases[PHASES_MAX];
static unsigned phase_count;
static struct comeback *comebacks; /* a heap by time */
static size_t comeback_count, comeback_room;
static double *served_ms, *refused_ms;
static size_t served, refused, offered, attempts, reset, gave_up, failed, room;
static unsigned series[SERIES_MAX];
static double began, patience = 1;
static enum retry retry;
static uint16_t port;
static const char *query;
static unsigned closed_loop; /* clients, instead of a rate */
static int set;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static double uniform(void)
{
    static uint64_t state = 0x853c49e6748fea9bU;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (double)(state >> 11) / 9007199254740992.0;
}

static void note(double **list, size_t *count, double value)
{
    if (*count == room || !*list) {
        fprintf(stderr, "openloop: too many results\n");
        exit(1);
    }
    (*list)[(*count)++] = value;
}

static void come_back(double at, unsigned tries)
{
    if (comeback_count == comeback_room) {
        comeback_room = comeback_room ? comeback_room * 2 : 1024;
        comebacks = realloc(comebacks, comeback_room * sizeof *comebacks);
        if (!comebacks)
            abort();
    }
    size_t i = comeback_count++;
    for (; i && comebacks[(i - 1) / 2].at > at; i = (i - 1) / 2)
        comebacks[i] = comebacks[(i - 1) / 2];
    comebacks[i] = (struct comeback){at, tries};
}

static struct comeback next_comeback(void)
{
    struct comeback first = comebacks[0], last = comebacks[--comeback_count];
    size_t i = 0;
    for (size_t child; (child = i * 2 + 1) < comeback_count; i = child) {
        if (child + 1 < comeback_count && comebacks[child + 1].at < comebacks[child].at)
            child++;
        if (comebacks[child].at >= last.at)
            break;
        comebacks[i] = comebacks[child];
    }
    comebacks[i] = last;
    return first;
}

static void start(double due, unsigned tries)
{
    static unsigned source;
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
    int one = 1;
    attempts++;
    if (!free_count) {
        failed++;
        return;
    }
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        failed++;
        return;
    }
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    from.sin_addr.s_addr = htonl(0x7f010001U + source++ % SOURCES);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons(port);
    if (bind(fd, (struct sockaddr *)&from, sizeof from) < 0 ||
        (connect(fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS)) {
        failed++;
        close(fd);
        return;
    }
    uint32_t index = free_clients[--free_count];
    clients[index] = (struct client){fd, STAGE_CONNECTS, due, due + patience, tries, 0, ""};
    struct epoll_event event = {.events = EPOLLOUT, .data.u32 = index};
    epoll_ctl(set, EPOLL_CTL_ADD, fd, &event);
}

static void finish(struct client *client)
{
    close(client->fd);
    client->fd = -1;
    free_clients[free_count++] = (uint32_t)(client - clients);
    if (closed_loop)
        come_back(now(), 0);
}

static void again(const struct client *client, double after)
{
    if (retry != RETRY_NONE && client->tries < RETRIES_MAX)
        come_back(now() + after, client->tries + 1);
}

static void is_served(const struct client *client)
{
    size_t slot = (size_t)((now() - began) * SLOTS_PER_SECOND);
    note(&served_ms, &served, (now() - client->due) * 1000);
    if (slot < SERIES_MAX)
        series[slot]++;
}

static void is_refused(const struct client *client)
{
    const char *wait = query ? NULL : strstr(client->answer, "Retry-After: ");
    note(&refused_ms, &refused, (now() - client->due) * 1000);
    again(client, retry == RETRY_AFTER && wait ? atof(wait + 13) + uniform() : 0);
}

static void is_cut_off(const struct client *client)
{
    reset++;
    again(client, 0);
}

/* The server has said all that it says. */
static void answered(struct client *client)
{
    const char *status = client->answer + strlen("HTTP/1.1 ");
    if (query || strncmp(client->answer, "HTTP/1.", 7) != 0)
        is_cut_off(client);
    else if (strncmp(status, "200", 3) == 0)
        is_served(client);
    else if (strncmp(status, "503", 3) == 0)
        is_refused(client);
    else
        is_cut_off(client);
    finish(client);
}

static bool say(struct client *client, const char *words, size_t length, enum stage next)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)(client - clients)};
    if (send(client->fd, words, length, MSG_NOSIGNAL) < 0) {
        answered(client);
        return false;
    }
    client->stage = next;
    client->length = 0;
    epoll_ctl(set, EPOLL_CTL_MOD, client->fd, &event);
    return true;
}

/* One packet of MySQL's protocol came: three bytes of length, one of sequence, and its kind. */
static void packet(struct client *client)
{
    /* HandshakeResponse41: PROTOCOL_41, SECURE_CONNECTION and PLUGIN_AUTH; no password. */
    static const char login[] = "\x3c\0\0\1"
                                "\1\x82\x08\0"
                                "\0\0\0\1"
                                "\x21"
                                "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
                                "root\0"
                                "\0"
                                "mysql_native_password";
    char ask[512];
    uint8_t kind = (uint8_t)client->answer[4];
    if (kind == 0xff) {
        is_refused(client);
        finish(client);
    } else if (client->stage == STAGE_GREETING) {
        say(client, login, sizeof login, STAGE_LOGIN);
    } else if (client->stage == STAGE_LOGIN) {
        size_t length = strlen(query) + 1;
        int written = snprintf(ask, sizeof ask, "%c%c%c%c%c%s", (char)length, (char)(length >> 8),
                               0, 0, 3, query);
        if (written > 0)
            say(client, ask, length + 4, STAGE_ASKED);
    } else {
        is_served(client);
        finish(client);
    }
}

static void hear(struct client *client)
{
    for (;;) {
        char rest[65536];
        size_t space = ANSWER_MAX - 1 - client->length;
        ssize_t got = space ? recv(client->fd, client->answer + client->length, space, 0)
                            : recv(client->fd, rest, sizeof rest, 0);
        if (got < 0 && errno == EAGAIN)
            return;
        if (got <= 0) {
            answered(client);
            return;
        }
        client->length += space ? (size_t)got : 0;
        if (query && client->length > 4) {
            packet(client);
            return;
        }
    }
}

static void get_on(struct client *client)
{
    if (client->stage != STAGE_CONNECTS)
        hear(client);
    else if (query)
        say(client, "", 0, STAGE_GREETING);
    else
        say(client, REQUEST, sizeof REQUEST - 1, STAGE_ASKED);
}

static void sweep(void)
{
    double time = now();
    for (uint32_t i = 0; i < CLIENTS_MAX; i++) {
        if (clients[i].fd < 0 || clients[i].gives_up > time)
            continue;
        gave_up++;
        again(&clients[i], 0);
        finish(&clients[i]);
    }
}

static int by_value(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double percentile(double *values, size_t count, double share)
{
    if (!count)
        return 0;
    qsort(values, count, sizeof *values, by_value);
    return values[(size_t)((double)(count - 1) * share)];
}

static void parse_rates(const char *text, double seconds)
{
    double until = 0;
    while (*text && phase_count < PHASES_MAX) {
        char *end;
        double rate = strtod(text, &end), length = seconds;
        if (*end == ':')
            length = strtod(end + 1, &end);
        until += length;
        phases[phase_count].rate = rate;
        phases[phase_count++].until = until;
        text = *end == ',' ? end + 1 : "";
    }
}

static void run(void)
{
    struct epoll_event events[EVENTS];
    double due = 0, end = phases[phase_count - 1].until, next_sweep = 0;
    unsigned phase = 0;
    began = now();
    for (unsigned i = 0; i < closed_loop; i++)
        start(began, 0);
    while (now() - began < end + patience) {
        double time = now() - began;
        while (!closed_loop && due <= time && due < end) {
            offered++;
            start(began + due, 0);
            while (phase + 1 < phase_count && due >= phases[phase].until)
                phase++;
            due += -log(1 - uniform()) / phases[phase].rate;
        }
        while (comeback_count && comebacks[0].at - began <= time && time < end) {
            struct comeback client = next_comeback();
            start(client.at, client.tries);
        }
        double wait = closed_loop ? 0.001 : due < end ? due - time : 0.01;
        struct timespec timeout = {0, (long)((wait < 0.001 ? wait : 0.001) * 1e9)};
        int ready = epoll_pwait2(set, events, EVENTS, &timeout, NULL);
        for (int i = 0; i < ready; i++)
            if (clients[events[i].data.u32].fd >= 0)
                get_on(&clients[events[i].data.u32]);
        if (time >= next_sweep) {
            sweep();
            next_sweep = time + 0.01;
        }
    }
}

int main(int argc, char **argv)
{
    struct rlimit files;
    if (argc < 4) {
        fprintf(stderr, "usage: openloop PORT RATE[:SECONDS,...] SECONDS [PATIENCE_MS] "
                        "[none|at-once|retry-after]\n");
        return 2;
    }
    port = (uint16_t)atoi(argv[1]);
    double seconds = atof(argv[3]);
    if (argv[2][0] == 'x') {
        closed_loop = (unsigned)atoi(argv[2] + 1);
        parse_rates("20000", seconds);
    } else {
        parse_rates(argv[2], seconds);
    }
    if (argc > 6)
        query = argv[6];
    if (argc > 4)
        patience = atof(argv[4]) / 1000;
    if (argc > 5)
        retry = strcmp(argv[5], "at-once") == 0       ? RETRY_AT_ONCE
                : strcmp(argv[5], "retry-after") == 0 ? RETRY_AFTER
                                                      : RETRY_NONE;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    for (unsigned i = 0; i < phase_count; i++)
        room += (size_t)(phases[i].rate * 4 * phases[i].until) + 100000;
    room = room < 20000000 ? room : 20000000;
    served_ms = malloc(room * sizeof *served_ms);
    refused_ms = malloc(room * sizeof *refused_ms);
    set = epoll_create1(EPOLL_CLOEXEC);
    for (uint32_t i = CLIENTS_MAX; i-- > 0;) {
        clients[i].fd = -1;
        free_clients[free_count++] = i;
    }
    run();
    double length = phases[phase_count - 1].until;
    printf("{\"offered\": %zu, \"attempts\": %zu, \"served\": %zu, \"goodput\": %.1f, "
           "\"p50_ms\": %.2f, \"p99_ms\": %.2f, \"refused\": %zu, \"refusal_p50_ms\": %.2f, "
           "\"refusal_p99_ms\": %.2f, \"reset\": %zu, \"gave_up\": %zu, \"failed\": %zu, "
           "\"series\": [",
           offered, attempts, served, (double)served / length, percentile(served_ms, served, 0.5),
           percentile(served_ms, served, 0.99), refused, percentile(refused_ms, refused, 0.5),
           percentile(refused_ms, refused, 0.99), reset, gave_up, failed);
    size_t slots = (size_t)((length + patience) * SLOTS_PER_SECOND);
    for (size_t i = 0; i < slots && i < SERIES_MAX; i++)
        printf("%s%u", i ? ", " : "", series[i]);
    puts("]}");
    return 0;
}
