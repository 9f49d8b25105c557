/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Starting a real server under `bpctl run`, looking at it from outside, and ending it.
 */
#ifndef TESTS_LAUNCH_H
#define TESTS_LAUNCH_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define WORDS_MAX 48
#define NAME_MAX_LENGTH 48
#define PATH_LENGTH 256

struct server {
    const char *recipe;
    char name[NAME_MAX_LENGTH];  /* of its service */
    char directory[PATH_LENGTH]; /* its own, removed at the end */
    uint16_t port;
    pid_t pid;
    const char *user; /* NULL: whoever runs the test */
};

/* A port that was free a moment ago. */
uint16_t free_port(void);
struct sockaddr_in loopback(uint16_t port);

/* Makes the server's directory, world-readable, and gives it a port and a unique service name. */
void server_prepare(struct server *server, const char *recipe);

/*
 * Starts `command` under the shim with `limits` (NULL: bare, without it), and waits until its port
 * answers. Output goes to a file in its directory. False when it did not come up.
 */
bool server_start(struct server *server, const char *const *limits, const char *const *command);

/* The same for a server that listens at `address`. */
bool server_start_at(struct server *server, const struct sockaddr *address, socklen_t length,
                     const char *const *limits, const char *const *command);

/* Prints what the server wrote, on stderr. */
void server_print_log(const struct server *server);

/* Ends the process and all that it started, waits for them, and removes its directory. */
void server_stop(struct server *server);

/*
 * Connections to the server's port that processes hold, as `ss` counts them. What the shim refused
 * and is closing (FIN-WAIT) is not among them.
 */
unsigned connections_by_ss(uint16_t port);

/* User and system time, in clock ticks, of the server and its descendants. */
unsigned long cpu_ticks(const struct server *server);

/* Runs `bpctl` as the server's user; its exit code. Its output goes to `out`, cut to `size`. */
int bpctl(const struct server *server, char *out, size_t size, const char *const *arguments);

/* A number of `totals` from `bpctl show --json`; -1 when it cannot be had. */
long total(const struct server *server, const char *counter);

/* Waits until the total is `wanted`, at most `timeout_ms`. */
bool total_becomes(const struct server *server, const char *counter, long wanted, int timeout_ms);

/* The processes that descend from `pid`, itself first; returns how many, at most `room`. */
size_t descendants(pid_t pid, pid_t *out, size_t room);

/* Writes a file into the server's directory; the path, valid until the next call. */
const char *server_file(const struct server *server, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
