/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "launch.h"

#include "crowd.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <jansson.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COMES_UP_SECONDS 30
#define GOES_DOWN_SECONDS 10
#define PROCESSES_MAX 1024

uint16_t free_port(void)
{
    struct sockaddr_in address = loopback(0);
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, length) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &length) < 0)
        abort();
    close(fd);
    return ntohs(address.sin_port);
}

struct sockaddr_in loopback(uint16_t port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

void server_prepare(struct server *server, const char *recipe)
{
    static unsigned number;
    memset(server, 0, sizeof *server);
    server->recipe = recipe;
    /* What a test starts must not outlive it, even when a server daemonises. */
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    snprintf(server->name, sizeof server->name, "test-%.20s-%d-%u", recipe, (int)getpid(),
             number++);
    snprintf(server->directory, sizeof server->directory, "/tmp/backpressure-%s", server->name);
    if (mkdir(server->directory, 0777) < 0 && errno != EEXIST)
        abort();
    if (chmod(server->directory, 0777) < 0)
        abort();
    server->port = free_port();
}

const char *server_file(const struct server *server, const char *name, const char *format, ...)
{
    static char path[PATH_LENGTH * 2];
    va_list arguments;
    snprintf(path, sizeof path, "%s/%s", server->directory, name);
    FILE *file = fopen(path, "we");
    if (!file)
        abort();
    va_start(arguments, format);
    vfprintf(file, format, arguments);
    va_end(arguments);
    fclose(file);
    return path;
}

static const char *build_path(const char *name)
{
    static char path[PATH_LENGTH];
    const char *build = getenv("BUILD");
    snprintf(path, sizeof path, "%s/%s", build ? build : "build", name);
    return path;
}

/* `setpriv` in front, for servers that refuse to run as root. */
static size_t as_user(const struct server *server, const char **words)
{
    static char reuid[64], regid[64];
    if (!server->user || geteuid() != 0)
        return 0;
    snprintf(reuid, sizeof reuid, "--reuid=%s", server->user);
    snprintf(regid, sizeof regid, "--regid=%s", server->user);
    size_t count = 0;
    words[count++] = "setpriv";
    words[count++] = reuid;
    words[count++] = regid;
    words[count++] = "--clear-groups";
    return count;
}

static void become(const char *const *words, const char *output)
{
    if (output) {
        int log = open(output, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
        int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
        dup2(null, STDIN_FILENO);
        dup2(log, STDOUT_FILENO);
        dup2(log, STDERR_FILENO);
    }
    execvp(words[0], (char *const *)words);
    perror(words[0]);
    _exit(127);
}

/* While nobody listens, a client may come to have the very port that it connects to, and finds
 * itself: RFC 9293, 3.5, simultaneous initiation. */
static bool found_itself(int fd, const struct sockaddr *address)
{
    struct sockaddr_in own = {0};
    socklen_t length = sizeof own;
    return address->sa_family == AF_INET &&
           getsockname(fd, (struct sockaddr *)&own, &length) == 0 &&
           own.sin_port == ((const struct sockaddr_in *)(const void *)address)->sin_port;
}

static bool answers(const struct sockaddr *address, socklen_t length)
{
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool up = connect(fd, address, length) == 0 && !found_itself(fd, address);
    close(fd);
    return up;
}

static void nap(void)
{
    struct timespec pause = {.tv_sec = 0, .tv_nsec = 5000000};
    nanosleep(&pause, NULL);
}

void server_print_log(const struct server *server)
{
    char log[PATH_LENGTH * 2];
    snprintf(log, sizeof log, "%s/log", server->directory);
    FILE *file = fopen(log, "re");
    fprintf(stderr, "what %s said:\n", server->recipe);
    for (int byte; file && (byte = fgetc(file)) != EOF;)
        fputc(byte, stderr);
    if (file)
        fclose(file);
}

bool server_start(struct server *server, const char *const *limits, const char *const *command)
{
    struct sockaddr_in address = loopback(server->port);
    return server_start_at(server, (struct sockaddr *)&address, sizeof address, limits, command);
}

bool server_start_at(struct server *server, const struct sockaddr *address, socklen_t length,
                     const char *const *limits, const char *const *command)
{
    const char *words[WORDS_MAX * 2];
    char log[PATH_LENGTH * 2];
    size_t count = as_user(server, words);

    if (limits) {
        words[count++] = build_path("bpctl");
        words[count++] = "run";
        words[count++] = "--name";
        words[count++] = server->name;
        while (*limits)
            words[count++] = *limits++;
        words[count++] = "--";
    }
    while (*command && count < WORDS_MAX * 2 - 1)
        words[count++] = *command++;
    words[count] = NULL;
    snprintf(log, sizeof log, "%s/log", server->directory);
    server->pid = fork();
    if (server->pid == 0) {
        setsid();
        become(words, log);
    }
    double deadline = seconds_now() + COMES_UP_SECONDS;
    while (seconds_now() < deadline) {
        if (answers(address, length))
            return true;
        if (waitpid(server->pid, NULL, WNOHANG) == server->pid) {
            pid_t others[2];
            server->pid = 0;
            if (descendants(getpid(), others, 2) < 2)
                break; /* it has not become a daemon */
        }
        nap();
    }
    fprintf(stderr, "%s did not come up\n", server->recipe);
    server_print_log(server);
    return false;
}

struct process {
    pid_t pid, parent;
    unsigned long ticks;
};

static bool read_process(const char *name, struct process *process)
{
    char path[PATH_LENGTH], text[1024];
    unsigned long user, kernel;
    long parent;
    snprintf(path, sizeof path, "/proc/%.20s/stat", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
    if (fd >= 0)
        close(fd);
    if (length <= 0)
        return false;
    text[length] = '\0';
    const char *rest = strrchr(text, ')');
    if (!rest || sscanf(rest + 1, " %*c %ld %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &parent,
                        &user, &kernel) != 3)
        return false;
    process->pid = (pid_t)strtol(name, NULL, 10);
    process->parent = (pid_t)parent;
    process->ticks = user + kernel;
    return true;
}

static size_t family(pid_t pid, struct process *out, size_t room)
{
    static struct process all[65536];
    size_t count = 0, found = 0;
    DIR *directory = opendir("/proc");
    for (struct dirent *entry; directory && (entry = readdir(directory));)
        if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9' &&
            count < sizeof all / sizeof *all && read_process(entry->d_name, &all[count]))
            count++;
    if (directory)
        closedir(directory);
    for (size_t i = 0; i < count; i++)
        if (all[i].pid == pid && room)
            out[found++] = all[i];
    for (size_t parent = 0; parent < found; parent++)
        for (size_t i = 0; i < count && found < room; i++)
            if (all[i].parent == out[parent].pid)
                out[found++] = all[i];
    return found;
}

size_t descendants(pid_t pid, pid_t *out, size_t room)
{
    static struct process found[PROCESSES_MAX];
    size_t count = family(pid, found, room < PROCESSES_MAX ? room : PROCESSES_MAX);
    for (size_t i = 0; i < count; i++)
        out[i] = found[i].pid;
    return count;
}

unsigned long cpu_ticks(const struct server *server)
{
    static struct process found[PROCESSES_MAX];
    size_t count = family(server->pid ? server->pid : getpid(), found, PROCESSES_MAX);
    unsigned long ticks = 0;
    for (size_t i = server->pid ? 0 : 1; i < count; i++)
        ticks += found[i].ticks;
    return ticks;
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *where)
{
    (void)status;
    (void)kind;
    (void)where;
    return remove(path);
}

void server_stop(struct server *server)
{
    static pid_t all[PROCESSES_MAX];
    double deadline = seconds_now() + GOES_DOWN_SECONDS;
    char ignored[64];
    /* Everything that this test started descends from it: it is the subreaper. */
    for (size_t count; (count = descendants(getpid(), all, PROCESSES_MAX)) > 1;) {
        int how = seconds_now() < deadline - GOES_DOWN_SECONDS / 2.0 ? SIGTERM : SIGKILL;
        for (size_t i = 1; i < count; i++)
            kill(all[i], how);
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        if (seconds_now() > deadline)
            break;
        nap();
    }
    bpctl(server, ignored, sizeof ignored, (const char *const[]){"ls", NULL});
    if (server->directory[0])
        nftw(server->directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    server->pid = 0;
}

static int run(const char *const *words, char *out, size_t size)
{
    int ends[2], status = -1;
    size_t length = 0;
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -1;
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        dup2(ends[1], STDERR_FILENO);
        become(words, NULL);
    }
    close(ends[1]);
    for (ssize_t got; (got = read(ends[0], out + length, size - 1 - length)) > 0;)
        length += (size_t)got;
    out[length] = '\0';
    char rest[4096];
    while (read(ends[0], rest, sizeof rest) > 0)
        ;
    close(ends[0]);
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int bpctl(const struct server *server, char *out, size_t size, const char *const *arguments)
{
    const char *words[WORDS_MAX];
    size_t count = as_user(server, words);
    words[count++] = build_path("bpctl");
    while (*arguments && count < WORDS_MAX - 1)
        words[count++] = *arguments++;
    words[count] = NULL;
    return run(words, out, size);
}

unsigned connections_by_ss(uint16_t port)
{
    static char out[1 << 20];
    char filter[64];
    unsigned count = 0;
    snprintf(filter, sizeof filter, "( sport = :%u )", port);
    const char *const words[] = {"ss",    "-Htnp",      "state", "established",
                                 "state", "close-wait", filter,  NULL};
    if (run(words, out, sizeof out) != 0)
        return UINT32_MAX;
    for (char *line = strtok(out, "\n"); line; line = strtok(NULL, "\n"))
        count += strstr(line, "users:(") != NULL;
    return count;
}

long total(const struct server *server, const char *counter)
{
    static char out[1 << 20];
    long value = -1;
    if (bpctl(server, out, sizeof out,
              (const char *const[]){"show", server->name, "--json", NULL}) != 0)
        return -1;
    json_t *shown = json_loads(out, 0, NULL);
    json_t *number = json_object_get(json_object_get(shown, "totals"), counter);
    if (json_is_integer(number))
        value = (long)json_integer_value(number);
    json_decref(shown);
    return value;
}

bool total_becomes(const struct server *server, const char *counter, long wanted, int timeout_ms)
{
    double deadline = seconds_now() + timeout_ms / 1000.0;
    long seen;
    while ((seen = total(server, counter)) != wanted && seconds_now() < deadline)
        nap();
    if (seen != wanted)
        fprintf(stderr, "%s: %s is %ld, not %ld\n", server->recipe, counter, seen, wanted);
    return seen == wanted;
}
