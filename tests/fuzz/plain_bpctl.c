/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What bpctl.c gives the commands, without its main.
 */
#include "../../tools/commands.h"

#include <stdarg.h>
#include <stdio.h>

int complain(enum exit_code code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    return code;
}

int usage_of(const char *name)
{
    (void)name;
    return EXIT_USAGE;
}

int bad_option(char **argv)
{
    (void)argv;
    return EXIT_USAGE;
}

int help_of(const char *name)
{
    (void)name;
    return EXIT_DONE;
}
