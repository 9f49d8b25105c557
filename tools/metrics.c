/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * bpctl metrics: the exposition on stdout, or served over HTTP until a signal ends it.
 */
#include "commands.h"
#include "exposition.h"
#include "truncation.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <microhttpd.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS_MOST 16
#define TIMEOUT_SECONDS 10

static enum MHD_Result answer(struct MHD_Connection *connection, unsigned status, const char *type,
                              char *text, size_t size, enum MHD_ResponseMemoryMode whose)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(size, text, whose);
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    enum MHD_Result result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result say(struct MHD_Connection *connection, unsigned status, const char *type,
                           const char *text)
{
    return answer(connection, status, type, (char *)text, strlen(text), MHD_RESPMEM_PERSISTENT);
}

static enum MHD_Result serve(void *unused, struct MHD_Connection *connection, const char *url,
                             const char *method, const char *version, const char *upload,
                             size_t *upload_size, void **state)
{
    size_t size;
    (void)unused, (void)version, (void)upload, (void)upload_size, (void)state;

    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return say(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "text/plain", "GET and HEAD only\n");
    if (strcmp(url, "/") == 0)
        return say(connection, MHD_HTTP_OK, "text/html; charset=utf-8",
                   "<!DOCTYPE html><title>bpctl metrics</title>"
                   "<a href=\"/metrics\">metrics</a>\n");
    if (strcmp(url, "/metrics") != 0)
        return say(connection, MHD_HTTP_NOT_FOUND, "text/plain", "/metrics is what there is\n");
    const char *accept =
        MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_ACCEPT);
    bool openmetrics = accept && strstr(accept, "application/openmetrics-text");
    char *text = exposition(openmetrics, &size);
    if (!text)
        return say(connection, MHD_HTTP_INTERNAL_SERVER_ERROR, "text/plain", "out of memory\n");
    return answer(connection, MHD_HTTP_OK, openmetrics ? OPENMETRICS_TYPE : PROMETHEUS_TYPE, text,
                  size, MHD_RESPMEM_MUST_FREE);
}

/* `127.0.0.1:9100`, `[::1]:9100` or `localhost:9100`; NULL, with one line said, for anything else.
 */
static struct addrinfo *parse_address(const char *text)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    char host[256], *end;
    const char *colon = strrchr(text, ':');
    size_t length = colon ? (size_t)(colon - text) : 0;
    unsigned long port = colon && colon[1] >= '0' && colon[1] <= '9' ? strtoul(colon + 1, &end, 10)
                                                                     : UINT16_MAX + 1UL;
    bool brackets = length > 2 && text[0] == '[' && text[length - 1] == ']';

    if (port > UINT16_MAX || *end || length == 0 || length >= sizeof host ||
        (!brackets && memchr(text, ':', length))) {
        complain(EXIT_USAGE, "--listen %.80s: ADDRESS:PORT is wanted: 127.0.0.1:9100 or [::1]:9100",
                 text);
        return NULL;
    }
    snprintf(host, sizeof host, "%.*s", (int)(brackets ? length - 2 : length), text + brackets);
    int error = getaddrinfo(host, colon + 1, &hints, &found);
    if (error)
        complain(EXIT_USAGE, "--listen %.80s: %s", text, gai_strerror(error));
    return error ? NULL : found;
}

/* A listening socket, so that errors come before anything is said; -1 with one line said. */
static int listen_on(const char *text, const struct addrinfo *address)
{
    int on = 1;
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
        bind(fd, address->ai_addr, address->ai_addrlen) == 0 && listen(fd, CONNECTIONS_MOST) == 0)
        return fd;
    complain(EXIT_FAILED, "--listen %.80s: %s", text, strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

static void say_where(int fd)
{
    struct sockaddr_storage own;
    socklen_t length = sizeof own;
    char host[NI_MAXHOST] = "?", port[NI_MAXSERV] = "?";
    if (getsockname(fd, (struct sockaddr *)&own, &length) == 0)
        getnameinfo((struct sockaddr *)&own, length, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV);
    printf(own.ss_family == AF_INET6 ? "http://[%s]:%s/metrics\n" : "http://%s:%s/metrics\n", host,
           port);
    fflush(stdout);
}

static int serve_on(const char *text)
{
    sigset_t ends;
    int signal_number;
    struct addrinfo *address = parse_address(text);
    if (!address)
        return EXIT_USAGE;
    int fd = listen_on(text, address);
    freeaddrinfo(address);
    if (fd < 0)
        return EXIT_FAILED;
    sigemptyset(&ends);
    sigaddset(&ends, SIGINT);
    sigaddset(&ends, SIGTERM);
    sigprocmask(SIG_BLOCK, &ends, NULL);
    struct MHD_Daemon *daemon = MHD_start_daemon(
        MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_AUTO, 0, NULL, NULL, serve, NULL,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MOST,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)TIMEOUT_SECONDS, MHD_OPTION_END);
    if (!daemon) {
        close(fd);
        return complain(EXIT_FAILED, "--listen %.80s: the server did not start", text);
    }
    truncation_reads_zeros();
    say_where(fd);
    sigwait(&ends, &signal_number);
    MHD_stop_daemon(daemon);
    return EXIT_DONE;
}

/* As promtool and textfile collectors take it, which read the older format only. */
static int print(void)
{
    size_t size;
    char *text = exposition(false, &size);
    if (!text)
        return complain(EXIT_FAILED, "out of memory");
    fwrite(text, 1, size, stdout);
    free(text);
    return EXIT_DONE;
}

int command_metrics(int argc, char **argv)
{
    static const struct option options[] = {{"listen", required_argument, NULL, 'l'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    const char *address = NULL;

    for (int option; (option = getopt_long(argc, argv, "l:h", options, NULL)) != -1;) {
        if (option != 'l')
            return option == 'h' ? help_of("metrics") : bad_option(argv);
        address = optarg;
    }
    if (optind < argc)
        return usage_of("metrics");
    return address ? serve_on(address) : print();
}
