/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Clients that keep their connections, and ask at a rate of their own whatever the server does:
 *
 *   keptloop [-c CLIENTS] [-r RATE] [-s SECONDS] [-l LEAD] [-p PATIENCE_MS] PORT DIALECT
 * QUESTION...
 *
 * RATE is what all of them ask a second, spread evenly over them, each at jittered moments; with 0
 * each asks again as soon as it is answered. What is asked is a turn of one or more QUESTIONs one
 * after the other (a transaction: BEGIN first); {client} in them is the client's number. A client
 * whose moment comes while it still waits lets it pass. Who has waited PATIENCE_MS for the whole
 * turn closes, and connects anew for its next one. Who is refused keeps its connection until the
 * server closes it, and comes back at its next moment. An idle connection that the server closes
 * just as it is used is replaced, once a turn, as browsers do.
 *
 * All connect (and log in) first, then LEAD seconds pass that count for nothing, then SECONDS are
 * measured. Prints one JSON object.
 */
#include "answers.h"
#include "tally.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CLIENTS_MAX 8192
#define EVENTS 256
#define CONNECT_SECONDS 20
#define SLOTS_PER_SECOND 10 /* of the series */
#define SERIES_MAX 10000
#define SOURCES 200 /* addresses of 127.1.0.0/16, so that no ports run out */
#define UNDO "ROLLBACK"

enum stage {
    STAGE_CLOSED,
    STAGE_CONNECTS,
    STAGE_GREETED,
    STAGE_LOGIN,
    STAGE_READY,
    STAGE_ASKED,
    STAGE_UNDOES
};

struct client {
    int fd;
    enum stage stage;
    bool wants;             /* has a turn to make */
    bool replaced;          /* got a new connection within this turn */
    bool used;              /* was answered on this connection before */
    unsigned step, moments; /* moments: that are past */
    double due, gives_up;
    struct answer answer;
};

static struct {
    size_t asked, gave_up, broken, cut, lost, unreached, nonsense, connections;
} counts;
static struct times served_ms, refused_ms;
static unsigned series[SERIES_MAX];
static char last_refusal[96];

static struct client *clients;
static unsigned *served_by; /* each client's */
static unsigned client_count = 500, never_served;
static double rate, seconds = 5, lead, patience = 1;
static double began, counts_from, ends, all_served_after = -1;
static const struct dialect *dialect;
static char **questions;
static unsigned question_count;
static uint16_t port;
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

static bool counting(void)
{
    double time = now();
    return counts_from > 0 && time >= counts_from && time < ends;
}

static void count(size_t *counter)
{
    *counter += counting();
}

/* --- connections --- */

static void hang_up(struct client *client)
{
    if (client->fd >= 0)
        close(client->fd);
    client->fd = -1;
    client->stage = STAGE_CLOSED;
}

static void dial(struct client *client)
{
    static unsigned source;
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET,
                                .data.u32 = (uint32_t)(client - clients)};
    int one = 1;
    from.sin_addr.s_addr = htonl(0x7f010001U + source++ % SOURCES);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons(port);
    count(&counts.connections);
    client->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(client->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (client->fd < 0 || bind(client->fd, (struct sockaddr *)&from, sizeof from) < 0 ||
        (connect(client->fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS) ||
        epoll_ctl(set, EPOLL_CTL_ADD, client->fd, &event) < 0) {
        count(&counts.unreached);
        hang_up(client);
        return;
    }
    client->stage = STAGE_CONNECTS;
    client->used = false;
    client->answer.length = 0;
}

/* --- turns --- */

/* The client's next moment that is not past: one each client_count / rate seconds, a quarter of
 * that to or fro. */
static double next_moment(struct client *client)
{
    double period = client_count / rate, share = (double)(client - clients) / client_count, next,
           time = now();
    if (rate <= 0)
        return time;
    do
        next = began + (share + ++client->moments + (uniform() - 0.5) / 2) * period;
    while (next <= time);
    return next;
}

static void turn_ends(struct client *client)
{
    client->wants = false;
    client->used = true;
    client->due = next_moment(client);
}

static void is_served(struct client *client)
{
    double time = now();
    size_t slot = (size_t)((time - began) * SLOTS_PER_SECOND);
    if (began > 0 && slot < SERIES_MAX)
        series[slot]++;
    if (counting()) {
        times_note(&served_ms, (time - client->due) * 1000);
        never_served -= !served_by[client - clients]++;
        if (!never_served && all_served_after < 0)
            all_served_after = time - counts_from;
    }
    turn_ends(client);
}

static void is_refused(struct client *client)
{
    if (counting())
        times_note(&refused_ms, (now() - client->due) * 1000);
    turn_ends(client);
}

static void gives_up(struct client *client)
{
    count(&counts.gave_up);
    hang_up(client);
    turn_ends(client);
}

/* The connection ended though the client did not end it. */
static void is_cut_off(struct client *client)
{
    enum stage stage = client->stage;
    bool may_replace = client->wants && client->used && !client->replaced && stage == STAGE_ASKED &&
                       client->step == 0 && !client->answer.length;
    hang_up(client);
    if (stage >= STAGE_READY)
        count(&counts.lost);
    if (!client->wants)
        return;
    if (may_replace) {
        client->replaced = true;
        dial(client);
        return;
    }
    count(stage < STAGE_READY ? &counts.unreached : client->step ? &counts.broken : &counts.cut);
    turn_ends(client);
}

static void say(struct client *client, const char *words, size_t length, enum stage next)
{
    client->answer.length = 0;
    client->answer.refusal = client->answer.closes = false;
    client->answer.ends = 0;
    client->stage = next;
    if (send(client->fd, words, length, MSG_NOSIGNAL) != (ssize_t)length)
        is_cut_off(client);
}

static void ask(struct client *client)
{
    char question[QUESTION_MAX], words[ANSWER_MAX];
    const char *form = questions[client->step], *hole = strstr(form, "{client}");
    if (hole)
        snprintf(question, sizeof question, "%.*s%u%s", (int)(hole - form), form,
                 (unsigned)(client - clients), hole + strlen("{client}"));
    else
        snprintf(question, sizeof question, "%s", form);
    say(client, words, dialect->ask(words, question), STAGE_ASKED);
}

static void turn_begins(struct client *client)
{
    client->wants = true;
    client->replaced = false;
    client->step = 0;
    client->gives_up = client->due + patience;
    count(&counts.asked);
    if (client->stage == STAGE_READY)
        ask(client);
    else if (client->stage == STAGE_CLOSED)
        dial(client);
}

static void is_ready(struct client *client)
{
    client->stage = STAGE_READY;
    if (client->wants)
        ask(client);
}

/* A refusal after the turn's first question breaks what the server had begun. */
static void hears_refusal(struct client *client)
{
    char words[ANSWER_MAX];
    bool halfway = client->stage == STAGE_ASKED && client->step;
    bool closes = client->answer.closes || client->stage < STAGE_READY;
    if (halfway) {
        count(&counts.broken);
        turn_ends(client);
    } else if (client->wants) {
        is_refused(client);
    }
    if (closes)
        hang_up(client);
    else if (halfway)
        say(client, words, dialect->ask(words, UNDO), STAGE_UNDOES);
    else
        client->stage = STAGE_READY;
}

/* A whole answer, and not a refusal. */
static void hears_answer(struct client *client)
{
    char words[ANSWER_MAX];
    if (client->stage == STAGE_GREETED) {
        say(client, words, dialect->login(words), STAGE_LOGIN);
        return;
    }
    if (client->stage == STAGE_ASKED && ++client->step < question_count) {
        ask(client);
        return;
    }
    bool closes = client->answer.closes, asked = client->stage == STAGE_ASKED;
    if (asked) {
        client->stage = STAGE_READY;
        is_served(client);
    }
    if (closes)
        hang_up(client);
    else if (!asked || client->wants)
        is_ready(client);
}

static void keep_words(const char *words, size_t length)
{
    size_t kept = 0;
    for (size_t i = 0; i < length && kept < sizeof last_refusal - 1; i++)
        if (words[i] >= ' ' && words[i] <= '~' && !strchr("\"\\", words[i]))
            last_refusal[kept++] = words[i];
    last_refusal[kept] = 0;
}

static void hears(struct client *client)
{
    char before[ANSWER_MAX];
    size_t length = client->answer.length;
    memcpy(before, client->answer.bytes, length);
    enum heard heard = dialect->hear(&client->answer);
    if (heard == HEARD_NONSENSE) {
        keep_words(before, length);
        count(client->stage == STAGE_ASKED && client->step ? &counts.broken : &counts.nonsense);
        hang_up(client);
        turn_ends(client);
    } else if (heard == HEARD_REFUSAL) {
        keep_words(before, length);
        hears_refusal(client);
    } else if (heard == HEARD_SERVED) {
        hears_answer(client);
    }
}

static void listen_to(struct client *client)
{
    while (client->fd >= 0) {
        size_t room = ANSWER_MAX - 1 - client->answer.length;
        ssize_t got = recv(client->fd, client->answer.bytes + client->answer.length, room, 0);
        if (got < 0 && errno == EAGAIN)
            return;
        if (got <= 0) {
            is_cut_off(client);
            return;
        }
        client->answer.length += (size_t)got;
        if (client->stage == STAGE_READY)
            client->answer.length = 0; /* nothing was asked: what it says before it closes */
        else
            hears(client);
        if ((size_t)got < room)
            return;
    }
}

static void is_connected(struct client *client)
{
    char words[ANSWER_MAX];
    if (dialect->greets)
        client->stage = STAGE_GREETED;
    else if (dialect->login)
        say(client, words, dialect->login(words), STAGE_LOGIN);
    else
        is_ready(client);
}

static void attend_to(struct client *client, uint32_t events)
{
    if (client->fd < 0)
        return;
    if (events & (EPOLLERR | EPOLLHUP) && !(events & EPOLLIN)) {
        is_cut_off(client);
        return;
    }
    if (client->stage == STAGE_CONNECTS && events & EPOLLOUT)
        is_connected(client);
    if (events & EPOLLIN)
        listen_to(client);
}

/* --- the loop --- */

static void wait_for_events(double until)
{
    struct epoll_event events[EVENTS];
    double wait = until - now();
    wait = wait < 0 ? 0 : wait > 0.01 ? 0.01 : wait;
    struct timespec timeout = {0, (long)(wait * 1e9)};
    int ready = epoll_pwait2(set, events, EVENTS, &timeout, NULL);
    for (int i = 0; i < ready; i++)
        attend_to(&clients[events[i].data.u32], events[i].events);
}

/* Begins what is due and ends what took too long; returns when something is next. */
static double look_round(void)
{
    double time = now(), next = time + 1;
    for (unsigned i = 0; i < client_count; i++) {
        struct client *client = &clients[i];
        if (client->wants && client->gives_up <= time)
            gives_up(client);
        else if (!client->wants && client->due <= time)
            turn_begins(client);
        double at = client->wants ? client->gives_up : client->due;
        next = at < next ? at : next;
    }
    return next;
}

static bool somebody_connects(void)
{
    for (unsigned i = 0; i < client_count; i++)
        if (clients[i].stage != STAGE_CLOSED && clients[i].stage != STAGE_READY)
            return true;
    return false;
}

static void run(void)
{
    double until = now() + CONNECT_SECONDS;
    for (unsigned i = 0; i < client_count; i++)
        dial(&clients[i]);
    while (somebody_connects() && now() < until)
        wait_for_events(until);
    began = now();
    counts_from = began + lead;
    ends = counts_from + seconds;
    for (unsigned i = 0; i < client_count; i++)
        turn_ends(&clients[i]);
    while (now() < ends)
        wait_for_events(look_round());
}

/* --- what came of it --- */

static void report(void)
{
    printf(
        "{\"clients\": %u, \"asked\": %zu, \"served\": %zu, \"goodput\": %.1f, \"p50_ms\": %.2f, "
        "\"p99_ms\": %.2f, \"refused\": %zu, \"refusal_p50_ms\": %.2f, \"refusal_p99_ms\": %.2f, ",
        client_count, counts.asked, served_ms.count, (double)served_ms.count / seconds,
        times_percentile(&served_ms, 0.5), times_percentile(&served_ms, 0.99), refused_ms.count,
        times_percentile(&refused_ms, 0.5), times_percentile(&refused_ms, 0.99));
    printf(
        "\"gave_up\": %zu, \"broken\": %zu, \"cut\": %zu, \"nonsense\": %zu, \"lost\": %zu, "
        "\"unreached\": %zu, \"connections\": %zu, \"never_served\": %u, \"all_served_s\": %.2f, "
        "\"jain\": %.4f, \"last_refusal\": \"%s\", \"series\": [",
        counts.gave_up, counts.broken, counts.cut, counts.nonsense, counts.lost, counts.unreached,
        counts.connections, never_served, all_served_after, fairness(served_by, client_count),
        last_refusal);
    size_t slots = (size_t)((lead + seconds) * SLOTS_PER_SECOND);
    for (size_t i = 0; i < slots && i < SERIES_MAX; i++)
        printf("%s%u", i ? ", " : "", series[i]);
    puts("]}");
}

static void read_options(int argc, char **argv)
{
    for (int option; (option = getopt(argc, argv, "c:r:s:l:p:")) != -1;) {
        double value = optarg ? atof(optarg) : 0;
        if (option == 'c')
            client_count = (unsigned)value;
        else if (option == 'r')
            rate = value;
        else if (option == 's')
            seconds = value;
        else if (option == 'l')
            lead = value;
        else if (option == 'p')
            patience = value / 1000;
        else
            exit(2);
    }
    dialect = argc - optind > 2 ? dialect_named(argv[optind + 1]) : NULL;
    if (!dialect || !client_count || client_count > CLIENTS_MAX) {
        fputs("usage: keptloop [-c CLIENTS] [-r RATE] [-s SECONDS] [-l LEAD] [-p PATIENCE_MS] PORT "
              "http|redis|postgres|mysql QUESTION...\n",
              stderr);
        exit(2);
    }
    port = (uint16_t)atoi(argv[optind]);
    questions = argv + optind + 2;
    question_count = (unsigned)(argc - optind - 2);
}

int main(int argc, char **argv)
{
    struct rlimit files;
    read_options(argc, argv);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    clients = calloc(client_count, sizeof *clients);
    served_by = calloc(client_count, sizeof *served_by);
    set = epoll_create1(EPOLL_CLOEXEC);
    if (!clients || !served_by || set < 0)
        return 1;
    never_served = client_count;
    for (unsigned i = 0; i < client_count; i++)
        clients[i].fd = -1;
    run();
    report();
    return 0;
}
