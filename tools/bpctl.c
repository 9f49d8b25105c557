/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "commands.h"

#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *usage;
    const char *purpose;
} commands[] = {
    {"run", command_run, "[--name NAME] [-f FILE] [LIMIT=VALUE]... -- COMMAND [ARG]...",
     "Starts COMMAND, and with it a service. NAME is COMMAND's own unless given; FILE holds one\n"
     "LIMIT=VALUE a line, and what stands on the command line overrides it."},
    {"ls", command_ls, "[--json]",
     "Lists the services, their processes, and how full they are. Clears away those that ended."},
    {"show", command_show, "NAME [--json]",
     "Shows the limits, counters, processes and listeners of a service."},
    {"set", command_set, "NAME[/PID] LIMIT=VALUE...",
     "Changes limits of a running service: all of them, or none when one is refused. With PID, "
     "the\n"
     "limit of that process alone; `off` then makes the service's own limit count again."},
    {"pause", command_pause, "NAME", "Stops admitting clients; those inside stay."},
    {"resume", command_resume, "NAME", "Admits clients again, after pause or drain."},
    {"drain", command_drain, "NAME [--timeout SECONDS]",
     "Stops admitting, and waits until the last connection has gone. Exits with 1 when the time "
     "is\n"
     "over before; the service stays paused."},
    {"events", command_events, "NAME [--follow] [--json]",
     "What was held, shed, paused, set and found, oldest first. --json prints one object a line."},
    {"depth", command_depth, "[NAME] [--json]",
     "Queue depths now, of a service or of everything that listens: the probe's when it runs and "
     "may "
     "be\n"
     "read, else what sock_diag tells. The last line says which."},
    {"probe", command_probe, "start|stop|status",
     "Loads the eBPF probe, pins its maps under /sys/fs/bpf/backpressure/ and keeps them fresh; "
     "unloads\n"
     "it; tells whether it runs. Needs root."},
};

#define COMMANDS (sizeof commands / sizeof *commands)

int complain(enum exit_code code, const char *format, ...)
{
    va_list arguments;
    fputs("bpctl: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    return code;
}

static const struct command *find(const char *name)
{
    for (size_t i = 0; i < COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

int usage_of(const char *name)
{
    const struct command *command = find(name);
    fprintf(stderr, "usage: bpctl %s %s\n", name, command ? command->usage : "");
    return EXIT_USAGE;
}

int bad_option(char **argv)
{
    const struct command *command = find(argv[0]);
    bool lacks_value = false;
    for (const char *letter = "ntf"; optopt && *letter; letter++)
        lacks_value |= optopt == *letter;
    return complain(EXIT_USAGE, "%s: %s; usage: bpctl %s %s", argv[optind - 1],
                    lacks_value ? "wants a value" : "unknown option", argv[0],
                    command ? command->usage : "");
}

int help_of(const char *name)
{
    const struct command *command = find(name);
    if (command)
        printf("usage: bpctl %s %s\n\n%s\n", name, command->usage, command->purpose);
    return EXIT_DONE;
}

static int help(void)
{
    puts("usage: bpctl COMMAND ...\n");
    for (size_t i = 0; i < COMMANDS; i++)
        printf("  bpctl %s %s\n", commands[i].name, commands[i].usage);
    puts("\n`bpctl COMMAND --help` tells more. Exit codes: 0 done; 1 what was named is not there, "
         "or\n"
         "the operation failed; 2 usage.");
    return EXIT_DONE;
}

/* The server may cut its segment's file while it is being read: mmap(2) promises SIGBUS for that.
 */
static void segment_vanished(int signal_number)
{
    static const char text[] = "bpctl: the control segment was truncated while it was read\n";
    (void)signal_number;
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0)
        _exit(EXIT_FAILED);
    _exit(EXIT_FAILED);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        help();
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0)
        return help();
    if (strcmp(argv[1], "--version") == 0) {
        puts("bpctl " BACKPRESSURE_VERSION);
        return EXIT_DONE;
    }
    const struct command *command = find(argv[1]);
    if (!command)
        return complain(EXIT_USAGE, "%s: no such command; `bpctl help` lists them", argv[1]);
    opterr = 0; /* bad_option says it in one line */
    signal(SIGBUS, segment_vanished);
    int status = command->run(argc - 1, argv + 1);
    if (fflush(stdout) != 0 || ferror(stdout))
        return complain(EXIT_FAILED, "cannot write to standard output");
    return status;
}
