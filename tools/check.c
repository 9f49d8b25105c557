/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * bpctl check: whether the shim reaches a program, or a process that runs.
 */
#include "commands.h"
#include "reach.h"
#include "services.h"

#include "../shim/base/sockdiag.h"

#include <ctype.h>
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <link.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LIBRARY "libbackpressure.so"
#define APPARMOR_PROFILES "/etc/apparmor.d"
#define SOCKETS_MAX 65536

/* The verdict comes first, so reasons are kept until it is known. */
struct report {
    char *reasons;
    size_t size;
    FILE *out;
};

static void because(struct report *report, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void because(struct report *report, const char *format, ...)
{
    va_list arguments;
    fputs("  ", report->out);
    va_start(arguments, format);
    vfprintf(report->out, format, arguments);
    va_end(arguments);
    fputc('\n', report->out);
}

static int conclude(struct report *report, bool reached, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int conclude(struct report *report, bool reached, const char *format, ...)
{
    va_list arguments;
    fclose(report->out);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n%s", report->reasons);
    free(report->reasons);
    return reached ? EXIT_DONE : EXIT_FAILED;
}

static void remark_on(struct report *report, const struct program *program)
{
    const char *remark;
    for (unsigned i = 0; (remark = reach_remark(program, i)); i++)
        because(report, "%s", remark);
}

/* --- a program --- */

/* Whether a profile in /etc/apparmor.d attaches to the path: a line `PATH {`, `profile N PATH {`.
 */
static bool has_profile(const char *path, char *profile, size_t size)
{
    DIR *directory = opendir(APPARMOR_PROFILES);
    bool found = false;
    for (struct dirent *entry; directory && !found && (entry = readdir(directory));) {
        char file_path[512], line[1024];
        snprintf(file_path, sizeof file_path, APPARMOR_PROFILES "/%s", entry->d_name);
        FILE *file = entry->d_type == DT_REG ? fopen(file_path, "re") : NULL;
        while (file && !found && fgets(line, sizeof line, file)) {
            const char *at = strstr(line, path);
            char after = at ? at[strlen(path)] : 'x';
            found = at && strchr(line, '{') && line[0] != '#' && line[0] != ' ' &&
                    (isspace((unsigned char)after) || after == '"');
        }
        if (found)
            snprintf(profile, size, "%s", file_path);
        if (file)
            fclose(file);
    }
    if (directory)
        closedir(directory);
    return found;
}

static int check_command(const char *command)
{
    struct report report = {.reasons = NULL};
    struct program program = {.traits = 0};
    char path[PATH_MAX], real[PATH_MAX], why[160], profile[512];

    if (!program_find(command, path, sizeof path))
        return complain(EXIT_FAILED, "check %s: no such program%s", command,
                        strchr(command, '/') ? "" : " in PATH");
    report.out = open_memstream(&report.reasons, &report.size);
    if (!report.out)
        return complain(EXIT_FAILED, "out of memory");
    bool reached = reach_program(command, &program, why, sizeof why);
    if (strcmp(program.path, path) != 0)
        because(&report, "a script; what runs is %s", program.path);
    if (!reached) {
        because(&report, "%s", why);
        return conclude(&report, false, "%s: limits do not reach it", path);
    }
    if (!(program.traits & PROGRAM_ELF))
        return conclude(&report, false, "%s: neither an ELF program nor a script that runs one",
                        path);
    because(&report, "dynamically linked; its loader is %s", program.loader);
    remark_on(&report, &program);
    if (realpath(program.path, real) && has_profile(real, profile, sizeof profile))
        because(&report,
                "AppArmor: %s may keep the library, or /dev/shm/backpressure.*, from it; `bpctl "
                "check PID` tells once it runs",
                profile);
    return conclude(&report, true, "%s: limits reach it", path);
}

/* --- a process --- */

static FILE *open_of(pid_t pid, const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    return fopen(path, "re");
}

/* Whether the shim is mapped; -1 when the process does not let us look. */
static int is_mapped(pid_t pid)
{
    char line[PATH_MAX + 128];
    FILE *maps = open_of(pid, "maps");
    int found = 0, lines = 0;
    while (maps && !found && fgets(line, sizeof line, maps)) {
        const char *slash = strrchr(line, '/');
        lines++;
        found = slash && strncmp(slash + 1, LIBRARY, strlen(LIBRARY)) == 0;
    }
    if (maps)
        fclose(maps);
    return lines ? found : -1;
}

/* AT_SECURE of getauxval(3): the kernel told ld.so not to trust the environment. */
static bool started_secure(pid_t pid)
{
    ElfW(auxv_t) entry;
    FILE *auxv = open_of(pid, "auxv");
    bool secure = false;
    while (auxv && fread(&entry, sizeof entry, 1, auxv) == 1)
        secure |= entry.a_type == AT_SECURE && entry.a_un.a_val;
    if (auxv)
        fclose(auxv);
    return secure;
}

static bool has_variable(pid_t pid, const char *name)
{
    char *text = NULL;
    size_t room = 0;
    FILE *environment = open_of(pid, "environ");
    bool found = false;
    while (environment && !found && getdelim(&text, &room, '\0', environment) > 0)
        found = strncmp(text, name, strlen(name)) == 0 && text[strlen(name)] == '=';
    free(text);
    if (environment)
        fclose(environment);
    return found;
}

static void say_confinement(struct report *report, pid_t pid)
{
    char line[256];
    FILE *label = open_of(pid, "attr/apparmor/current");
    if (!label)
        label = open_of(pid, "attr/current");
    if (label && fgets(line, sizeof line, label) && strncmp(line, "unconfined", 10) != 0 &&
        isprint((unsigned char)line[0]))
        because(report, "confined by AppArmor or SELinux: %.*s", (int)strcspn(line, "\n"), line);
    if (label)
        fclose(label);
    FILE *status = open_of(pid, "status");
    while (status && fgets(line, sizeof line, status))
        if (strncmp(line, "Seccomp:\t2", 10) == 0)
            because(report, "under a seccomp filter: a filter that forbids netlink sockets keeps "
                            "the shim from comparing with the kernel");
    if (status)
        fclose(status);
}

struct sockets {
    uint32_t inode[SOCKETS_MAX];
    unsigned count, listeners, connections;
    bool ring;
    uint8_t listens_on[UINT16_MAX + 1];
};

static void collect_descriptors(pid_t pid, struct sockets *sockets)
{
    char path[64], link[64];
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    DIR *directory = opendir(path);
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        ssize_t length = readlinkat(dirfd(directory), entry->d_name, link, sizeof link - 1);
        link[length > 0 ? length : 0] = '\0';
        sockets->ring |= strcmp(link, "anon_inode:[io_uring]") == 0;
        if (sockets->count < SOCKETS_MAX &&
            sscanf(link, "socket:[%u]", &sockets->inode[sockets->count]) == 1)
            sockets->count++;
    }
    if (directory)
        closedir(directory);
}

static int by_inode(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static bool holds(const struct sockets *sockets, uint32_t inode)
{
    return sockets->count && inode &&
           bsearch(&inode, sockets->inode, sockets->count, sizeof inode, by_inode);
}

static void note_listener(const struct sockdiag_entry *entry, void *context)
{
    struct sockets *sockets = context;
    if (!holds(sockets, entry->inode))
        return;
    sockets->listeners++;
    sockets->listens_on[entry->port] = 1;
}

static void note_connection(const struct sockdiag_entry *entry, void *context)
{
    struct sockets *sockets = context;
    if (holds(sockets, entry->inode) && sockets->listens_on[entry->port])
        sockets->connections++;
}

/* Its sockets, as the kernel has them; those in another network namespace are not seen. */
static struct sockets *sockets_of(pid_t pid)
{
    static const int families[] = {AF_INET, AF_INET6};
    struct sockets *sockets = calloc(1, sizeof *sockets);
    if (!sockets)
        return NULL;
    collect_descriptors(pid, sockets);
    qsort(sockets->inode, sockets->count, sizeof *sockets->inode, by_inode);
    for (size_t i = 0; i < 2; i++)
        sockdiag_dump(families[i], true, note_listener, sockets);
    for (size_t i = 0; i < 2; i++)
        sockdiag_dump(families[i], false, note_connection, sockets);
    return sockets;
}

struct membership {
    pid_t pid;
    struct service_view *view;
    char service[SERVICE_NAME_MAX];
    struct process_view process;
    bool found;
};

static void look_for_process(struct service_file *file, enum segment_result result, void *context)
{
    struct membership *membership = context;
    if (result != SEGMENT_OK || membership->found)
        return;
    service_view(file, membership->view);
    for (unsigned i = 0; i < membership->view->processes; i++) {
        if (membership->view->process[i].pid != membership->pid)
            continue;
        membership->found = true;
        membership->process = membership->view->process[i];
        snprintf(membership->service, sizeof membership->service, "%s", file->name);
    }
}

static int judge_mapped(struct report *report, pid_t pid, const struct sockets *sockets)
{
    struct membership *membership = calloc(1, sizeof *membership);
    int status;
    if (membership)
        membership->view = malloc(sizeof *membership->view);
    if (!membership || !membership->view) {
        free(membership);
        return complain(EXIT_FAILED, "out of memory");
    }
    membership->pid = pid;
    services_each(look_for_process, membership);
    const uint64_t *counter = membership->process.counter;
    if (!membership->found) {
        because(report, "the shim is mapped, but the process is in no service: it said why on "
                        "stderr when it started");
        status = conclude(report, false, "%d: limits do not reach it", (int)pid);
    } else {
        because(report,
                "so far: %" PRIu64 " accepted, %" PRIu64 " held, %" PRIu64 " shed, %" PRIu64
                " reads paused, %" PRIu64 " connects; %" PRIu64 " connections open",
                counter[COUNTER_ACCEPTED], counter[COUNTER_HELD], shed_in_all(counter),
                counter[COUNTER_READS_PAUSED], counter[COUNTER_CONNECTS],
                membership->process.conns);
        char why[BLINDNESS_MAX];
        if (blindness(membership->view, why, sizeof why))
            because(report, "the audits of service %s are blind: %s", membership->service, why);
        if (sockets && sockets->connections > membership->process.conns + counter[COUNTER_EXEMPTED])
            because(report,
                    "the kernel knows %u connections on its listeners: the others came past "
                    "the shim, or were there before it",
                    sockets->connections);
        status = conclude(report, true, "%d: limits reach it, as part of service %s", (int)pid,
                          membership->service);
    }
    free(membership->view);
    free(membership);
    return status;
}

static int check_process(pid_t pid)
{
    struct report report = {.reasons = NULL};
    struct program program = {.traits = 0};
    char path[64];

    snprintf(path, sizeof path, "/proc/%d", (int)pid);
    if (access(path, F_OK) < 0)
        return complain(EXIT_FAILED, "check %d: no such process", (int)pid);
    int mapped = is_mapped(pid);
    if (mapped < 0)
        return complain(EXIT_FAILED,
                        "check %d: its memory map cannot be read: it belongs to somebody else, or "
                        "has ended",
                        (int)pid);
    report.out = open_memstream(&report.reasons, &report.size);
    if (!report.out)
        return complain(EXIT_FAILED, "out of memory");
    struct sockets *sockets = sockets_of(pid);
    snprintf(path, sizeof path, "/proc/%d/exe", (int)pid);
    bool readable = program_read(path, &program);
    const char *obstacle = readable ? reach_obstacle(&program) : NULL;
    int status;
    if (mapped && obstacle && program.traits & PROGRAM_GO) {
        because(&report, "the shim is mapped, but it is %s", obstacle);
        status = conclude(&report, false, "%d: limits do not reach it", (int)pid);
    } else if (mapped) {
        remark_on(&report, &program);
        if (sockets && sockets->ring && !(program.traits & PROGRAM_IO_URING))
            because(&report, "has an io_uring open: what it accepts that way is not seen");
        say_confinement(&report, pid);
        status = judge_mapped(&report, pid, sockets);
    } else {
        because(&report, "the shim is not mapped");
        if (obstacle)
            because(&report, "%s", obstacle);
        else if (started_secure(pid))
            because(&report,
                    "ld.so was told not to trust its environment (AT_SECURE): set-user-ID, "
                    "file capabilities, or an AppArmor profile that scrubs it");
        else if (!has_variable(pid, "LD_PRELOAD"))
            because(&report, "it was started without LD_PRELOAD; `bpctl run` sets it");
        else
            because(&report,
                    "LD_PRELOAD is set in its environment: ld.so did not find or could not "
                    "load the library, which it said on stderr");
        say_confinement(&report, pid);
        status = conclude(&report, false, "%d: limits do not reach it", (int)pid);
    }
    free(sockets);
    return status;
}

int command_check(int argc, char **argv)
{
    static const struct option options[] = {{"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    char *end;

    int option = getopt_long(argc, argv, "+h", options, NULL);
    if (option != -1)
        return option == 'h' ? help_of("check") : bad_option(argv);
    if (optind + 1 != argc || !*argv[optind])
        return usage_of("check");
    errno = 0;
    long pid = strtol(argv[optind], &end, 10);
    if (*end)
        return check_command(argv[optind]);
    if (errno || pid < 1 || pid > INT32_MAX)
        return complain(EXIT_FAILED, "check %s: no such process", argv[optind]);
    return check_process((pid_t)pid);
}
