/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A server of HTTP/1.1 over connections that stay, in any way a program can be written: answerer.c.
 *
 * What it is asked: /WORK/TAG[?ACTION=ARGUMENT], where WORK is how long the answer takes, in
 * microseconds; or /until/N/TAG, which is answered when the test has put N, or more, into
 * `released`. What begins with /healthz is not counted as inside. The answer is one line of names
 * and values.
 */
#ifndef TESTS_ANSWERER_H
#define TESTS_ANSWERER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PROCESSES_MOST 64
#define CONNS_MOST 4096 /* descriptors */
#define INPUT_MOST (1 << 17)
#define TAG_MOST 64

/* Of all processes, and of the test: it is a file, whose first words answering.py knows. */
struct shared {
    _Atomic int released, inside, peak, began, interrupted, timed_out, cancelled, handled, children;
    struct {
        _Atomic int inside, peak, pid;
    } process[PROCESSES_MOST];
};

extern struct shared *shared;
extern int self; /* this process's place in it */

struct options {
    int port, processes, threads, timeout_ms;
    const char *style, *reading, *family, *gate;
    bool eager;      /* reads while it works, too */
    bool restarting; /* its handler of SIGUSR1 has SA_RESTART */
};

extern struct options options;

/* --- requests: answerer_http.c --- */

enum part { PART_HEAD, PART_BODY, PART_CHUNK_SIZE, PART_CHUNK, PART_TRAILER, PART_WHOLE };

struct exchange {
    char input[INPUT_MOST];
    size_t length; /* bytes of it that were read and not taken */
    enum part part;
    uint64_t left;
    bool chunked, expects, closes, counted;
    unsigned work_us;
    int until; /* `released` is to come to it */
    char tag[TAG_MOST], action[TAG_MOST], argument[TAG_MOST];
    uint64_t hash, body;
    int nth; /* in the order in which they began */
};

/* Takes what was read; whether a request is whole. False with `expects`: the client wants to be
 * told that it may go on. */
bool exchange_take(struct exchange *exchange);

/* Whether what it waits for besides a time has come. */
bool exchange_released(const struct exchange *exchange);

/* From here on the program has the request. */
void exchange_begins(struct exchange *exchange);

/* It is about to answer: writes that, and returns its length. */
size_t exchange_answers(struct exchange *exchange, char *out, size_t size);

/* --- connections --- */

struct conn {
    pthread_mutex_t lock;
    int fd, set;
    bool open, readable, working, ended;
    pthread_t thread; /* that serves it, in the style `blocking` */
    bool has_thread;
    uint64_t due_ns;
    unsigned watched;
    char tag[TAG_MOST]; /* of what was answered last */
    char out[1024];
    size_t out_length, out_at;
    struct exchange *exchange;
};

extern struct conn *_Atomic conns[CONNS_MOST];

uint64_t now_ns(void);
void sleep_us(unsigned us);

/* Sleeps through the work of a request. */
void work(const struct exchange *exchange);
__attribute__((noreturn)) void die(const char *what);

/* One read by the call that was chosen. */
ssize_t read_once(int fd, void *buffer, size_t size);

/* The connection's entry, taken for a new one. */
struct conn *conn_begin(int fd);
void conn_end(struct conn *conn);

/* Does what the request asks besides an answer. */
void act(const struct exchange *exchange);

/* --- styles: answerer_blocking.c, answerer_events.c --- */

struct style {
    const char *name;
    void (*run)(void);
    bool nonblocking_listener, nonblocking_conns;
};

extern int listener;
extern bool nonblocking_conns;

/* accept, with what the style wants of a connection. */
int take(void);
void start_thread(pthread_t *thread, void *(*routine)(void *), void *argument);

void run_blocking(void);
void run_prefork(void);
void run_forking(void);
void run_poll(void);
void run_select(void);
void run_level(void);
void run_edge(void);
void run_edge_both(void);
void run_oneshot(void);
void run_workers(void);

#endif
