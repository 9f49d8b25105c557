/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "reach.h"

#include <stdio.h>

#define INTERPRETERS_DEEP 4 /* a script run by a script; the kernel allows five */

static const struct {
    unsigned trait;
    const char *text;
} obstacles[] = {
    /* First: no other way of linking it would help. */
    {PROGRAM_GO, "a Go program, whose runtime accepts and writes without libc"},
    {PROGRAM_SET_ID, "set-user-ID or set-group-ID, so ld.so preloads nothing into it"},
    {PROGRAM_CAPABILITIES, "has file capabilities, so ld.so preloads nothing into it"},
    {PROGRAM_OTHER_ABI, "a program of another machine or a 32-bit program, which cannot load this "
                        "64-bit library"},
    {PROGRAM_STATIC, "statically linked, so nothing can be preloaded into it"},
    {PROGRAM_OTHER_LIBC, "its loader is neither glibc's nor musl's, and cannot load this library"},
    {PROGRAM_OLD_LIBC, "its own glibc is older than this library can do with"},
};

static const struct {
    unsigned trait;
    const char *text;
} remarks[] = {
    {PROGRAM_IO_URING, "uses io_uring: what it accepts that way is neither counted nor refused"},
    {PROGRAM_RAW_ACCEPT, "has code that accepts without libc: such connections are not counted"},
    {PROGRAM_SYSCALL, "imports syscall(3): the shim sees accepts and closes made through it"},
};

const char *reach_obstacle(const struct program *program)
{
    for (size_t i = 0; i < sizeof obstacles / sizeof *obstacles; i++)
        if (program->traits & obstacles[i].trait)
            return obstacles[i].text;
    return NULL;
}

bool reach_stops(const struct program *program)
{
    /* The loaders of 32-bit programs, glibc's and musl's, ignore what is not for them. */
    return program->traits & (PROGRAM_OTHER_LIBC | PROGRAM_OLD_LIBC);
}

const char *reach_remark(const struct program *program, unsigned number)
{
    for (size_t i = 0; i < sizeof remarks / sizeof *remarks; i++)
        if (program->traits & remarks[i].trait && number-- == 0)
            return remarks[i].text;
    return NULL;
}

bool reach_program(const char *command, struct program *program, char *why, size_t size)
{
    char path[PATH_MAX];
    for (int i = 0; i < INTERPRETERS_DEEP; i++) {
        const char *next = i == 0 ? command : program->interpreter;
        if (!*next || !program_find(next, path, sizeof path) || !program_read(path, program))
            return true;
        const char *obstacle = reach_obstacle(program);
        if (obstacle) {
            snprintf(why, size, i == 0 ? "%s" : "its interpreter: %s", obstacle);
            return false;
        }
    }
    return true;
}
