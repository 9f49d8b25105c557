/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "recipes.h"

#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define COMMAND(...) ((const char *const[]){__VA_ARGS__, NULL})

static const char *text(char *out, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static const char *text(char *out, size_t size, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(out, size, format, arguments);
    va_end(arguments);
    return out;
}

static bool run_to_end(const char *command)
{
    int status = system(command);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/*
 * Some servers ask for a backlog so short that most of a crowd would be dropped as SYNs and come
 * back with TCP's own exponential backoff, minutes later: `queue` makes room for them.
 */
static const char *const *with_queue(const char *const *limits)
{
    static const char *longer[WORDS_MAX] = {"queue=512"};
    if (!limits)
        return NULL;
    for (size_t i = 0; i < WORDS_MAX - 1 && (longer[i + 1] = limits[i]); i++)
        ;
    return longer;
}

static bool start_nginx(struct server *server, const char *const *limits)
{
    const char *directory = server->directory;
    const char *config =
        server_file(server, "nginx.conf",
                    "worker_processes 2;\ndaemon off;\npid %s/pid;\nerror_log %s/error.log;\n"
                    "events { worker_connections 4000; }\n"
                    "http {\n access_log off;\n client_body_temp_path %s/b; proxy_temp_path %s/p;\n"
                    " fastcgi_temp_path %s/f; uwsgi_temp_path %s/u; scgi_temp_path %s/s;\n"
                    " server { listen 127.0.0.1:%u backlog=1024;\n"
                    "  location = / { return 200 \"served\\n\"; }\n"
                    "  location / { root %s; }\n"
                    "  location /proxied/ { proxy_pass http://127.0.0.1:%u/; } }\n}\n",
                    directory, directory, directory, directory, directory, directory, directory,
                    server->port, directory, server->port);
    return server_start(server, limits, COMMAND("nginx", "-e", "stderr", "-c", config));
}

static bool start_redis(struct server *server, const char *const *limits)
{
    char port[8];
    return server_start(server, limits,
                        COMMAND("redis-server", "--port",
                                text(port, sizeof port, "%u", server->port), "--save", "",
                                "--appendonly", "no", "--dir", server->directory));
}

static bool start_apache(struct server *server, const char *const *limits, const char *mpm,
                         const char *tuning)
{
    static const char modules[] = "/usr/lib/apache2/modules";
    const char *config = server_file(
        server, "apache.conf",
        "ServerRoot %s\nServerName localhost\nPidFile %s/pid\nErrorLog %s/error.log\n"
        "Listen 127.0.0.1:%u\nListenBacklog 1024\nDocumentRoot %s\nMutex file:%s\n"
        "LoadModule mpm_%s_module %s/mod_mpm_%s.so\n"
        "LoadModule authz_core_module %s/mod_authz_core.so\n"
        "LoadModule dir_module %s/mod_dir.so\n"
        "User www-data\nGroup www-data\nKeepAlive On\nKeepAliveTimeout 60\nTimeout 60\n%s\n",
        server->directory, server->directory, server->directory, server->port, server->directory,
        server->directory, mpm, modules, mpm, modules, modules, tuning);
    char config_path[PATH_LENGTH * 2];
    snprintf(config_path, sizeof config_path, "%s", config);
    server_file(server, "index.html", "served\n");
    return server_start(server, limits, COMMAND("apache2", "-D", "FOREGROUND", "-f", config_path));
}

static bool start_apache_prefork(struct server *server, const char *const *limits)
{
    return start_apache(server, limits, "prefork",
                        "StartServers 30\nMinSpareServers 5\nMaxSpareServers 40\n"
                        "ServerLimit 250\nMaxRequestWorkers 250\n");
}

static bool start_apache_event(struct server *server, const char *const *limits)
{
    return start_apache(server, limits, "event",
                        "StartServers 2\nThreadsPerChild 25\nMaxRequestWorkers 250\n"
                        "ServerLimit 10\n");
}

static bool start_memcached(struct server *server, const char *const *limits)
{
    char port[8];
    return server_start(server, limits,
                        COMMAND("memcached", "-u", "nobody", "-l", "127.0.0.1", "-t", "2", "-c",
                                "2000", "-p", text(port, sizeof port, "%u", server->port)));
}

static bool start_postgres(struct server *server, const char *const *limits)
{
    static const char programs[] = "/usr/lib/postgresql/15/bin";
    char command[1024], port[8], data[PATH_LENGTH + 8];
    if (geteuid() == 0)
        server->user = "postgres";
    text(data, sizeof data, "%s/data", server->directory);
    text(command, sizeof command, "%s %s/initdb -D %s -A trust -N >%s/initdb.log 2>&1",
         server->user ? "setpriv --reuid=postgres --regid=postgres --clear-groups" : "", programs,
         data, server->directory);
    if (!run_to_end(command))
        return false;
    text(command, sizeof command, "%s/postgres", programs);
    if (!server_start(server, limits,
                      COMMAND(command, "-D", data, "-c", "listen_addresses=127.0.0.1", "-p",
                              text(port, sizeof port, "%u", server->port), "-c",
                              "unix_socket_directories=", "-c", "max_connections=300", "-c",
                              "fsync=off", "-c", "shared_buffers=16MB")))
        return false;
    /* It listens before it serves: until then everybody is told that it is starting up. */
    text(command, sizeof command,
         "for i in $(seq 300); do %s/pg_isready -q -h 127.0.0.1 -p %u && exit; sleep 0.02; done; "
         "exit 1",
         programs, server->port);
    return run_to_end(command);
}

static bool start_vsftpd(struct server *server, const char *const *limits)
{
    mkdir("/var/run/vsftpd", 0755);
    mkdir("/var/run/vsftpd/empty", 0755);
    const char *config =
        server_file(server, "vsftpd.conf",
                    "listen=YES\nlisten_address=127.0.0.1\nlisten_port=%u\nbackground=NO\n"
                    "anonymous_enable=YES\nlocal_enable=NO\nmax_clients=0\nmax_per_ip=0\n"
                    "secure_chroot_dir=/var/run/vsftpd/empty\nseccomp_sandbox=YES\n",
                    server->port);
    return server_start(server, with_queue(limits), COMMAND("vsftpd", config));
}

static bool start_sshd(struct server *server, const char *const *limits)
{
    char command[1024], port[8], key[PATH_LENGTH + 16];
    mkdir("/run/sshd", 0755);
    text(key, sizeof key, "%s/key", server->directory);
    text(command, sizeof command, "ssh-keygen -q -t ed25519 -N '' -f %s", key);
    if (!run_to_end(command))
        return false;
    return server_start(server, limits,
                        COMMAND("/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-h", key, "-p",
                                text(port, sizeof port, "%u", server->port), "-o",
                                "ListenAddress=127.0.0.1", "-o", "MaxStartups=1000", "-o",
                                "PidFile=none", "-o", "UsePAM=no"));
}

static bool start_haproxy(struct server *server, const char *const *limits)
{
    const char *config = server_file(
        server, "haproxy.cfg",
        "global\n nbthread 2\n maxconn 2000\ndefaults\n mode http\n timeout client 60s\n"
        " timeout connect 5s\n timeout server 60s\n timeout http-keep-alive 60s\n"
        "frontend all\n bind 127.0.0.1:%u backlog 1024\n"
        " http-request return status 200 content-type text/plain string served\n",
        server->port);
    return server_start(server, limits, COMMAND("haproxy", "-db", "-f", config));
}

static bool start_lighttpd(struct server *server, const char *const *limits)
{
    server_file(server, "index.html", "served\n");
    const char *config =
        server_file(server, "lighttpd.conf",
                    "server.document-root = \"%s\"\nserver.bind = \"127.0.0.1\"\nserver.port = %u\n"
                    "server.listen-backlog = 1024\nindex-file.names = ( \"index.html\" )\n"
                    "server.max-keep-alive-idle = 60\nserver.max-fds = 4096\n",
                    server->directory, server->port);
    return server_start(server, limits, COMMAND("lighttpd", "-D", "-f", config));
}

static bool start_python(struct server *server, const char *const *limits)
{
    char port[8];
    server_file(server, "served", "served\n");
    return server_start(server, with_queue(limits),
                        COMMAND("python3", "-m", "http.server", "--protocol", "HTTP/1.1", "--bind",
                                "127.0.0.1", "--directory", server->directory,
                                text(port, sizeof port, "%u", server->port)));
}

static bool start_node(struct server *server, const char *const *limits)
{
    const char *script =
        server_file(server, "server.js",
                    "const s = require('http').createServer((q, r) => r.end('served\\n'));\n"
                    "s.keepAliveTimeout = 60000; s.listen(%u, '127.0.0.1', 1024);\n",
                    server->port);
    return server_start(server, limits, COMMAND("node", script));
}

static bool start_mariadb(struct server *server, const char *const *limits)
{
    char command[1024], port[32], data[PATH_LENGTH + 32], socket[PATH_LENGTH + 32];
    text(command, sizeof command,
         "mariadb-install-db --no-defaults --datadir=%s/data --user=%s "
         "--auth-root-authentication-method=normal --skip-test-db >%s/install.log 2>&1",
         server->directory, geteuid() == 0 ? "root" : getpwuid(geteuid())->pw_name,
         server->directory);
    if (!run_to_end(command))
        return false;
    return server_start(
        server, limits,
        COMMAND("mariadbd", "--no-defaults", "--user=root",
                text(data, sizeof data, "--datadir=%s/data", server->directory),
                text(port, sizeof port, "--port=%u", server->port), "--bind-address=127.0.0.1",
                text(socket, sizeof socket, "--socket=%s/socket", server->directory),
                "--max-connect-errors=1000000", "--max-connections=500", "--back-log=1024",
                "--connect-timeout=60", "--skip-name-resolve", "--innodb-flush-method=nosync"));
}

#define HTTP_REQUEST "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
/* PostgreSQL's StartupMessage, protocol 3.0: length, version, user and database. */
#define POSTGRES_REQUEST "\0\0\0\x29\0\3\0\0user\0postgres\0database\0postgres\0\0"
#define SAYS(request) request, sizeof(request) - 1

const struct recipe recipes[] = {
    {"nginx", "/usr/sbin/nginx", SAYS(HTTP_REQUEST), "HTTP/1.1 200", true, start_nginx},
    {"redis", "/usr/bin/redis-server", SAYS("PING\r\n"), "+PONG", false, start_redis},
    {"apache-prefork", "/usr/sbin/apache2", SAYS(HTTP_REQUEST), "HTTP/1.1 200", true,
     start_apache_prefork},
    {"apache-event", "/usr/sbin/apache2", SAYS(HTTP_REQUEST), "HTTP/1.1 200", true,
     start_apache_event},
    {"memcached", "/usr/bin/memcached", SAYS("version\r\n"), "VERSION", false, start_memcached},
    {"postgres", "/usr/lib/postgresql/15/bin/postgres", SAYS(POSTGRES_REQUEST), "R", false,
     start_postgres},
    {"vsftpd", "/usr/sbin/vsftpd", "", 0, "220", false, start_vsftpd},
    {"sshd", "/usr/sbin/sshd", "", 0, "SSH-2.0", false, start_sshd},
    {"haproxy", "/usr/sbin/haproxy", SAYS(HTTP_REQUEST), "HTTP/1.1 200", true, start_haproxy},
    {"lighttpd", "/usr/sbin/lighttpd", SAYS(HTTP_REQUEST), "HTTP/1.1 200", true, start_lighttpd},
    {"python", "/usr/bin/python3", SAYS(HTTP_REQUEST), "HTTP/1.1 200", true, start_python},
    {"node", "/usr/bin/node", SAYS(HTTP_REQUEST), "HTTP/1.1 200", true, start_node},
    {"mariadb", "/usr/sbin/mariadbd", "", 0, "", false, start_mariadb},
};
const size_t recipes_count = sizeof recipes / sizeof *recipes;

const struct recipe *recipe_named(const char *name)
{
    for (size_t i = 0; i < recipes_count; i++)
        if (strcmp(recipes[i].name, name) == 0)
            return &recipes[i];
    return NULL;
}

bool recipe_available(const struct recipe *recipe)
{
    if (access(recipe->program, X_OK) == 0)
        return true;
    printf("# %s is not installed: skipped\n", recipe->program);
    return false;
}

bool recipe_start(const struct recipe *recipe, struct server *server, const char *const *limits)
{
    server_prepare(server, recipe->name);
    return recipe->start(server, limits);
}
