/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/real.h"
#include "interpose/interpose.h"
#include "interpose/lifecycle.h"

#include <stdarg.h>
#include <unistd.h>

INTERPOSE int execve(const char *path, char *const arguments[], char *const environment[])
{
    lifecycle_before_exec();
    int result = REAL(execve)(path, arguments, environment);
    lifecycle_after_failed_exec();
    return result;
}

INTERPOSE int execv(const char *path, char *const arguments[])
{
    lifecycle_before_exec();
    int result = REAL(execv)(path, arguments);
    lifecycle_after_failed_exec();
    return result;
}

INTERPOSE int execvp(const char *file, char *const arguments[])
{
    lifecycle_before_exec();
    int result = REAL(execvp)(file, arguments);
    lifecycle_after_failed_exec();
    return result;
}

INTERPOSE int execvpe(const char *file, char *const arguments[], char *const environment[])
{
    lifecycle_before_exec();
    int result = REAL(execvpe)(file, arguments, environment);
    lifecycle_after_failed_exec();
    return result;
}

INTERPOSE int fexecve(int fd, char *const arguments[], char *const environment[])
{
    lifecycle_before_exec();
    int result = REAL(fexecve)(fd, arguments, environment);
    lifecycle_after_failed_exec();
    return result;
}

INTERPOSE int execveat(int directory, const char *path, char *const arguments[],
                       char *const environment[], int flags)
{
    lifecycle_before_exec();
    int result = REAL(execveat)(directory, path, arguments, environment, flags);
    lifecycle_after_failed_exec();
    return result;
}

/* The arguments from `first` up to the NULL that ends them, that included. */
static size_t count_arguments(const char *first, va_list *rest)
{
    size_t count = 1;
    for (const char *at = first; at; at = va_arg(*rest, const char *))
        count++;
    return count;
}

static void take_arguments(const char *first, va_list *rest, char **out)
{
    *out = (char *)first;
    while (*out)
        *++out = va_arg(*rest, char *);
}

/* An array of `first` and what follows it, on the caller's stack: a child between vfork and exec
 * may take memory from nowhere else. `rest` stands behind the last of them then. */
#define TAKE_ARGUMENTS(array, first, rest)                                                         \
    do {                                                                                           \
        va_start(rest, first);                                                                     \
        (array) = __builtin_alloca(count_arguments(first, &(rest)) * sizeof(char *));              \
        va_end(rest);                                                                              \
        va_start(rest, first);                                                                     \
        take_arguments(first, &(rest), array);                                                     \
    } while (0)

INTERPOSE int execl(const char *path, const char *first, ...)
{
    char **arguments;
    va_list rest;
    TAKE_ARGUMENTS(arguments, first, rest);
    va_end(rest);
    return execv(path, arguments);
}

INTERPOSE int execlp(const char *file, const char *first, ...)
{
    char **arguments;
    va_list rest;
    TAKE_ARGUMENTS(arguments, first, rest);
    va_end(rest);
    return execvp(file, arguments);
}

INTERPOSE int execle(const char *path, const char *first, ...)
{
    char **arguments;
    va_list rest;
    TAKE_ARGUMENTS(arguments, first, rest);
    char *const *environment = va_arg(rest, char *const *);
    va_end(rest);
    return execve(path, arguments, environment);
}
