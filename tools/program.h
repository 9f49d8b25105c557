/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A program file, as far as it matters to whether a library can be preloaded into it.
 */
#ifndef BPCTL_PROGRAM_H
#define BPCTL_PROGRAM_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

enum {
    PROGRAM_ELF = 1,
    PROGRAM_STATIC = 2,     /* names no loader */
    PROGRAM_OTHER_ABI = 4,  /* 32-bit, or another machine's */
    PROGRAM_OTHER_LIBC = 8, /* its loader is neither glibc's nor musl's */
    PROGRAM_GO = 16,
    PROGRAM_SET_ID = 32,       /* set-user-ID or set-group-ID, to somebody else */
    PROGRAM_CAPABILITIES = 64, /* file capabilities, and the caller is not root */
    PROGRAM_IO_URING = 128,    /* is linked against liburing, or makes io_uring's system calls */
    PROGRAM_RAW_ACCEPT = 256,  /* has the instructions for accept(2) without libc */
    PROGRAM_SYSCALL = 512,     /* imports syscall(3) */
    PROGRAM_OLD_LIBC = 1024,   /* the glibc beside its loader lacks what the shim needs of it */
};

struct program {
    char path[PATH_MAX];
    unsigned traits;
    char loader[PATH_MAX];
    char interpreter[PATH_MAX]; /* of a script, from its `#!` line; empty: it is none */
};

/* Where execvp(3) would find `command`; false when nowhere. */
bool program_find(const char *command, char *path, size_t size);

/* Reads the file at `path`; false, with errno, when it cannot be read. */
bool program_read(const char *path, struct program *program);

#endif
