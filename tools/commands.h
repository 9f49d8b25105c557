/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The commands of bpctl: one file each. Every function gets its own arguments, argv[0] being the
 * command's name, and returns the exit code.
 */
#ifndef BPCTL_COMMANDS_H
#define BPCTL_COMMANDS_H

enum exit_code { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

int command_run(int argc, char **argv);
int command_ls(int argc, char **argv);
int command_show(int argc, char **argv);
int command_set(int argc, char **argv);
int command_pause(int argc, char **argv);
int command_resume(int argc, char **argv);
int command_drain(int argc, char **argv);
int command_events(int argc, char **argv);
int command_top(int argc, char **argv);
int command_metrics(int argc, char **argv);
int command_check(int argc, char **argv);
int command_depth(int argc, char **argv);
int command_probe(int argc, char **argv);

/* One line on stderr, `bpctl: ...`; returns `code`. */
int complain(enum exit_code code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The usage of command `name`, in one line on stderr; returns EXIT_USAGE. */
int usage_of(const char *name);

/* What getopt_long did not understand in `argv`, with the usage, in one line; returns EXIT_USAGE.
 */
int bad_option(char **argv);

/* The same on stdout, with what the command does, for --help; returns EXIT_DONE. */
int help_of(const char *name);

#endif
