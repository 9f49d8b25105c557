/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "commands.h"
#include "truncation.h"

#include "../shim/limits/limits.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *usage;
    const char *purpose;
    const char *example;
} commands[] = {
    {"run", command_run, "[--name NAME] [-f FILE] [LIMIT=VALUE]... -- COMMAND [ARG]...",
     "Starts COMMAND, and with it a service. NAME is COMMAND's own unless given. Limits come from\n"
     "/etc/backpressure/NAME.conf where that exists, from FILE (one LIMIT=VALUE a line), and from\n"
     "the command line; the later ones win. `bpctl help limits` lists them.",
     "bpctl run --name web total-conns=200 when-full=busy -- nginx"},
    {"ls", command_ls, "[--json]",
     "Lists the services, their processes, and how full they are. Clears away those that ended.",
     "bpctl ls"},
    {"show", command_show, "NAME [--json]",
     "Shows the limits, counters, processes and listeners of a service.", "bpctl show web"},
    {"set", command_set, "NAME[/PID] LIMIT=VALUE...",
     "Changes limits of a running service: all of them, or none when one is refused. With PID, "
     "the\n"
     "limit of that process alone; `off` then makes the service's own limit count again.",
     "bpctl set web total-conns=300 peer-conns=20"},
    {"pause", command_pause, "NAME", "Stops admitting clients; those inside stay.",
     "bpctl pause web"},
    {"resume", command_resume, "NAME", "Admits clients again, after pause or drain.",
     "bpctl resume web"},
    {"drain", command_drain, "NAME [--timeout SECONDS]",
     "Stops admitting, and waits until the last connection has gone. Exits with 1 when the time "
     "is\n"
     "over before; the service stays paused.",
     "bpctl drain web --timeout 30"},
    {"top", command_top, "[NAME]",
     "A live screen of the services: how full their ceilings are, rates, queues and times. Keys\n"
     "select a service, change its limits, pause, resume and drain it.",
     "bpctl top"},
    {"depth", command_depth, "[NAME] [--json]",
     "Queue depths now, of a service or of everything that listens: the probe's when it runs and\n"
     "may be read, else what sock_diag tells. The last line says which.",
     "bpctl depth web"},
    {"events", command_events, "NAME [--follow] [--json]",
     "What was held, shed, paused, set and found, oldest first. --json prints one object a line.",
     "bpctl events web --follow"},
    {"metrics", command_metrics, "[--listen ADDRESS:PORT]",
     "The services as OpenMetrics text: once on stdout, or served at /metrics until a signal ends\n"
     "it (port 0: any that is free).",
     "bpctl metrics --listen 127.0.0.1:9100"},
    {"check", command_check, "COMMAND|PID",
     "Whether limits can reach a program, or do reach a running process: a verdict, and the\n"
     "reasons. Exits with 1 when they cannot.",
     "bpctl check nginx"},
    {"probe", command_probe, "start|stop|status",
     "Loads the eBPF probe, pins its maps under /sys/fs/bpf/backpressure/ and keeps them fresh;\n"
     "unloads it; tells whether it runs. Needs root.",
     "bpctl probe start"},
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
    for (const char *letter = "ntfl"; optopt && *letter; letter++)
        lacks_value |= optopt == *letter;
    return complain(EXIT_USAGE, "%s: %s; usage: bpctl %s %s", argv[optind - 1],
                    lacks_value ? "wants a value" : "unknown option", argv[0],
                    command ? command->usage : "");
}

static void list_events(void)
{
#define EVENT(id, name, text) {name, text},
    static const struct {
        const char *name, *text;
    } events[] = {
#include "../shim/segment/events.def"
    };
#undef EVENT
    putchar('\n');
    for (size_t i = 0; i < sizeof events / sizeof *events; i++)
        printf("%-17s %s\n", events[i].name, events[i].text);
}

int help_of(const char *name)
{
    const struct command *command = find(name);
    if (command)
        printf("usage: bpctl %s %s\n\n%s\n\nExample: %s\n", name, command->usage, command->purpose,
               command->example);
    if (command && strcmp(name, "events") == 0)
        list_events();
    return EXIT_DONE;
}

static bool asks_for_help(const char *argument)
{
    return strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0;
}

static int help(void)
{
    puts("usage: bpctl COMMAND ...\n");
    for (size_t i = 0; i < COMMANDS; i++)
        printf("  bpctl %s %s\n", commands[i].name, commands[i].usage);
    puts("\n`bpctl COMMAND --help` tells more, `bpctl help limits` lists the limits, and so does\n"
         "backpressure(7). Exit codes: 0 done; 1 what was named is not there, or the operation\n"
         "failed; 2 usage.");
    return EXIT_DONE;
}

static int help_limits(void)
{
    struct limits defaults;
    char value[LIMIT_VALUE_MAX], allowed[LIMIT_ERROR_MAX];
    limits_defaults(&defaults);
    for (unsigned key = 0; key < LIMIT_KEYS; key++) {
        limits_format(&defaults, key, value, sizeof value);
        limits_allowed(key, allowed);
        printf("%-16s %s (default: %s)\n", limits_key_name(key), allowed, value);
    }
    return EXIT_DONE;
}

static const char *unit_name(enum limit_unit unit)
{
    static const char *const names[LIMIT_UNITS] = {
        [LIMIT_UNIT_NONE] = "none",
        [LIMIT_UNIT_CONNECTIONS] = "connections",
        [LIMIT_UNIT_BYTES] = "bytes",
        [LIMIT_UNIT_SECONDS] = "seconds",
        [LIMIT_UNIT_BYTES_PER_SECOND] = "bytes per second",
        [LIMIT_UNIT_RATE] = "connections per second",
        [LIMIT_UNIT_REQUESTS] = "requests",
        [LIMIT_UNIT_REQUEST_RATE] = "requests per second",
        [LIMIT_UNIT_TRIES] = "tries",
    };
    return names[unit];
}

/* All of one row: completions and the tables of README and backpressure(7) are made of it. */
static int help_limit(const char *name)
{
    struct limits defaults;
    char value[LIMIT_VALUE_MAX], said[LIMIT_ERROR_MAX];
    unsigned key = 0;
    while (key < LIMIT_KEYS && strcmp(limits_key_name(key), name) != 0)
        key++;
    if (key == LIMIT_KEYS)
        return complain(EXIT_USAGE, "help limits %s: no such limit; `bpctl help limits` lists them",
                        name);
    limits_defaults(&defaults);
    limits_format(&defaults, key, value, sizeof value);
    limits_syntax(key, said);
    printf("%s=%s\n\n%s\n\n", name, said, limits_text(key));
    limits_allowed(key, said);
    printf("allowed: %s\ndefault: %s\n", said, value);
    limits_words(key, said);
    printf("words: %s\nscope: %s\nunit: %s\n", said,
           limits_key_per_process(key) ? "service or process" : "service",
           unit_name(limits_unit(key)));
    return EXIT_DONE;
}

/* `bpctl help`, `bpctl help COMMAND`, `bpctl help limits` and `bpctl help limits LIMIT`. */
static int command_help(int argc, char **argv)
{
    if (argc < 2 || asks_for_help(argv[1]))
        return help();
    if (argc == 2 && strcmp(argv[1], "limits") == 0)
        return help_limits();
    if (argc == 3 && strcmp(argv[1], "limits") == 0)
        return help_limit(argv[2]);
    if (argc > 2 || !find(argv[1]))
        return complain(EXIT_USAGE, "help %s: no such command; `bpctl help` lists them", argv[1]);
    return help_of(argv[1]);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        help();
        return EXIT_USAGE;
    }
    if (asks_for_help(argv[1]))
        return help();
    if (strcmp(argv[1], "help") == 0)
        return command_help(argc - 1, argv + 1);
    if (strcmp(argv[1], "--version") == 0) {
        puts("bpctl " BACKPRESSURE_VERSION);
        return EXIT_DONE;
    }
    const struct command *command = find(argv[1]);
    if (!command)
        return complain(EXIT_USAGE, "%s: no such command; `bpctl help` lists them", argv[1]);
    opterr = 0; /* bad_option says it in one line */
    truncation_ends();
    int status = command->run(argc - 1, argv + 1);
    if (fflush(stdout) != 0 || ferror(stdout))
        return complain(EXIT_FAILED, "cannot write to standard output");
    return status;
}
