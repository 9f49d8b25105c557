/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A real client of each protocol that is turned away understands why: it says 'busy' to its user in
 * its own words, and is not left with a broken connection.
 */
#include "../base/suite.h"
#include "crowd.h"
#include "recipes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define WITHIN_MS 60000
#define COMMAND(...) ((const char *const[]){__VA_ARGS__, NULL})

struct dialect {
    const char *name, *busy;
    const char *recipe;  /* a real server, or NULL: one that echoes, since no client gets to it */
    const char *program; /* that the client needs */
    const char *command; /* with the port */
    const char *said;    /* by the client */
};

static const struct dialect dialects[] = {
    {"http, curl", "busy=auto", NULL, "/usr/bin/curl",
     "curl -s -o /dev/null -w 'status %%{http_code}\\n' http://127.0.0.1:%u/", "status 503"},
    {"http with a body, curl", "busy=auto", NULL, "/usr/bin/curl",
     "head -c 300000 /dev/zero | curl -s -o /dev/null -w 'status %%{http_code}\\n' -H Expect: "
     "--data-binary @- http://127.0.0.1:%u/",
     "status 503"},
    {"http/2, nghttp", "busy=auto", NULL, "/usr/bin/nghttp", "nghttp -v http://127.0.0.1:%u/ 2>&1",
     "GOAWAY"},
    {"http/2 chosen, nghttp", "busy=http", NULL, "/usr/bin/nghttp",
     "nghttp -v http://127.0.0.1:%u/ 2>&1", "GOAWAY"},
    {"tls, openssl", "busy=auto", NULL, "/usr/bin/openssl",
     "openssl s_client -connect 127.0.0.1:%u < /dev/null 2>&1", "alert internal error"},
    {"tls chosen, curl", "busy=tls", NULL, "/usr/bin/curl", "curl -sSk https://127.0.0.1:%u/ 2>&1",
     "alert internal error"},
    {"redis, redis-cli", "busy=auto", NULL, "/usr/bin/redis-cli",
     "redis-cli -h 127.0.0.1 -p %u get k 2>&1", "max number of clients reached"},
    {"redis chosen, redis-cli", "busy=redis", NULL, "/usr/bin/redis-cli",
     "redis-cli -h 127.0.0.1 -p %u ping 2>&1", "max number of clients reached"},
    {"memcached, memcstat", "busy=auto", NULL, "/usr/bin/memcstat",
     "memcstat --servers=127.0.0.1:%u 2>&1", "SERVER ERROR"},
    {"memcached chosen, its text", "busy=memcached", NULL, "/usr/bin/python3",
     "python3 -c 'import socket; s = socket.create_connection((\"127.0.0.1\", %u)); "
     "s.sendall(b\"get k\\r\\n\"); print(s.makefile().read())'",
     "SERVER_ERROR"},
    {"postgres, psql", "busy=auto", NULL, "/usr/bin/psql",
     "psql 'host=127.0.0.1 port=%u user=u dbname=d connect_timeout=9' -c 'select 1' 2>&1",
     "sorry, too many clients already"},
    {"postgres chosen, psql in clear", "busy=postgres", NULL, "/usr/bin/psql",
     "psql 'host=127.0.0.1 port=%u user=u dbname=d sslmode=disable' -c 'select 1' 2>&1",
     "sorry, too many clients already"},
    {"mysql, mysql", "busy=mysql", NULL, "/usr/bin/mysql",
     "mysql --no-defaults -h 127.0.0.1 -P %u -e 'select 1' 2>&1", "Too many connections"},
    {"ftp, curl", "busy=ftp", NULL, "/usr/bin/curl", "curl -sv ftp://127.0.0.1:%u/ 2>&1", "< 421 "},
    {"ftp, python", "busy=ftp", NULL, "/usr/bin/python3",
     "python3 -c 'import ftplib; ftplib.FTP().connect(\"127.0.0.1\", %u)' 2>&1", "421 "},
    {"smtp, curl", "busy=smtp", NULL, "/usr/bin/curl",
     "curl -sv smtp://127.0.0.1:%u/ --mail-from a@b --mail-rcpt c@d -T /dev/null 2>&1", "< 421 "},
    {"smtp, python", "busy=smtp", NULL, "/usr/bin/python3",
     "python3 -c 'import smtplib; smtplib.SMTP(\"127.0.0.1\", %u)' 2>&1", "(421, "},
    /* Servers that speak first are known by their names. */
    {"vsftpd, curl", "busy=auto", "vsftpd", "/usr/bin/curl", "curl -sv ftp://127.0.0.1:%u/ 2>&1",
     "< 421 Service not available"},
    {"mariadb, mysql", "busy=auto", "mariadb", "/usr/bin/mysql",
     "mysql --no-defaults -h 127.0.0.1 -P %u -e 'select 1' 2>&1", "Too many connections"},
};

static struct server server;
static struct crowd inside;

static bool start(const struct dialect *dialect)
{
    const char *const *limits = COMMAND("total-conns=1", "when-full=busy", dialect->busy);
    char port[8], program[PATH_LENGTH];
    const char *build = getenv("BUILD");
    if (dialect->recipe)
        return recipe_start(recipe_named(dialect->recipe), &server, limits);
    server_prepare(&server, "echo");
    snprintf(port, sizeof port, "%u", server.port);
    snprintf(program, sizeof program, "%s/tests/echo", build ? build : "build");
    return server_start(&server, limits, COMMAND(program, "level", port));
}

static bool turned_away(void)
{
    return crowd_count(&inside, CLIENT_ENDED) + crowd_count(&inside, CLIENT_RESET) +
               crowd_count(&inside, CLIENT_FAILED) >
           0;
}

/* A count of one alone may be a place reserved for a moment, by an accept that then finds nobody.
 */
static bool somebody_is_in(long accepted_before)
{
    return total(&server, "accepted") > accepted_before && total(&server, "conns") == 1;
}

/* Whoever looked whether the server is up may still have the slot: comes again until it is ours. */
static void take_the_slot(void)
{
    long accepted;
    struct sockaddr_in address = loopback(server.port);
    double deadline = seconds_now() + WITHIN_MS / 1000.0;
    assert_true(total_becomes(&server, "conns", 0, WITHIN_MS));
    do {
        crowd_end(&inside);
        accepted = (long)total(&server, "accepted");
        crowd_start(&inside, 1, (struct sockaddr *)&address, sizeof address, NULL, 0, "", 0);
        while (!turned_away() && !somebody_is_in(accepted) && seconds_now() < deadline)
            crowd_step(&inside, 5);
        crowd_step(&inside, 5);
    } while (turned_away() && seconds_now() < deadline);
    if (!somebody_is_in(accepted)) {
        char shown[65536];
        bpctl(&server, shown, sizeof shown, COMMAND("show", server.name));
        fprintf(stderr, "client: state %d, %zu bytes: %.40s\n%s", (int)inside.client[0].state,
                inside.client[0].length, inside.client[0].answer, shown);
    }
    assert_false(turned_away());
    assert_true(somebody_is_in(accepted));
}

static void client_hears_that_the_server_is_busy(void **state)
{
    const struct dialect *dialect = *state;
    char command[1024], said[65536] = "";

    if (access(dialect->program, X_OK) != 0 ||
        (dialect->recipe && !recipe_available(recipe_named(dialect->recipe))))
        skip();
    assert_true(start(dialect));
    take_the_slot();
    long resets = total(&server, "shed_reset"), answers = total(&server, "shed_busy");
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(command, sizeof command, dialect->command, server.port);
#pragma GCC diagnostic pop
    FILE *pipe = popen(command, "re");
    assert_non_null(pipe);
    size_t length = fread(said, 1, sizeof said - 1, pipe);
    pclose(pipe);
    said[length] = '\0';
    if (!strstr(said, dialect->said))
        fprintf(stderr, "%s said: %s\n", dialect->name, said);
    assert_non_null(strstr(said, dialect->said));
    assert_int_equal(total(&server, "shed_reset"), resets);
    assert_true(total(&server, "shed_busy") > answers);
}

static int clean_up(void **state)
{
    (void)state;
    crowd_end(&inside);
    memset(&inside, 0, sizeof inside);
    server_stop(&server);
    return 0;
}

int main(int argc, char **argv)
{
    struct suite suite = {.name = "dialects"};
    suite_choose(argc, argv);
    for (size_t i = 0; i < sizeof dialects / sizeof *dialects; i++)
        suite_add(&suite, dialects[i].name, client_hears_that_the_server_is_busy, clean_up,
                  &dialects[i]);
    return suite_run(&suite, NULL, NULL);
}
