/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "reach.h"

#include <elf.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define INTERPRETERS_DEEP 4 /* a script run by a script; the kernel allows five */

/* Where execvp would find it. */
static bool find_in_path(const char *command, char *out, size_t size)
{
    const char *path = getenv("PATH");
    if (strchr(command, '/')) {
        snprintf(out, size, "%s", command);
        return access(out, X_OK) == 0;
    }
    path = path ? path : "/bin:/usr/bin";
    while (*path) {
        size_t length = strcspn(path, ":");
        snprintf(out, size, "%.*s/%s", (int)length, path, command);
        if (length && access(out, X_OK) == 0)
            return true;
        path += length + (path[length] == ':');
    }
    return false;
}

/* A dynamically linked program names its loader: elf(5), PT_INTERP. */
static bool names_loader(int fd, const Elf64_Ehdr *header)
{
    for (unsigned i = 0; i < header->e_phnum; i++) {
        Elf64_Phdr segment;
        if (header->e_phentsize != sizeof segment ||
            pread(fd, &segment, sizeof segment, (off_t)(header->e_phoff + i * sizeof segment)) !=
                (ssize_t)sizeof segment)
            return true;
        if (segment.p_type == PT_INTERP)
            return true;
    }
    return false;
}

static bool judge(int fd, const char *path, char *why, size_t size)
{
    struct stat status;
    Elf64_Ehdr header;
    bool root = geteuid() == 0;

    if (fstat(fd, &status) == 0 && ((status.st_mode & S_ISUID && status.st_uid != geteuid()) ||
                                    (status.st_mode & S_ISGID && status.st_gid != getegid()))) {
        snprintf(why, size, "set-user-ID or set-group-ID, so ld.so preloads nothing into it");
        return false;
    }
    if (!root && getxattr(path, "security.capability", NULL, 0) > 0) {
        snprintf(why, size, "has file capabilities, so ld.so preloads nothing into it");
        return false;
    }
    if (pread(fd, &header, sizeof header, 0) != (ssize_t)sizeof header ||
        memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
        return true;
    if (header.e_ident[EI_CLASS] != ELFCLASS64) {
        snprintf(why, size, "a 32-bit program, which cannot load a 64-bit library");
        return false;
    }
    if (!names_loader(fd, &header)) {
        snprintf(why, size, "statically linked, so nothing can be preloaded into it");
        return false;
    }
    return true;
}

/* The interpreter of a script, from its `#!` line; false when it is none. */
static bool interpreter(int fd, char *path, size_t size)
{
    char line[256] = "";
    if (pread(fd, line, sizeof line - 1, 0) < 4 || line[0] != '#' || line[1] != '!')
        return false;
    const char *start = line + 2 + strspn(line + 2, " \t");
    snprintf(path, size, "%.*s", (int)strcspn(start, " \t\n"), start);
    return true;
}

bool reach_program(const char *command, char *why, size_t size)
{
    char path[PATH_MAX];
    bool reachable = true, script = true;

    if (!find_in_path(command, path, sizeof path))
        return true; /* exec will say so */
    for (int i = 0; i < INTERPRETERS_DEEP && reachable && script; i++) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            return true;
        reachable = judge(fd, path, why, size);
        script = interpreter(fd, path, sizeof path);
        close(fd);
    }
    return reachable;
}
