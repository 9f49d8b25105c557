/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/proc.h"

#include "base/real.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>

#define LISTING_ROOM 4096
#define DIGITS_MOST 10

void proc_path(char path[PROC_PATH_MAX], const char *before, uint32_t number, const char *after)
{
    char digits[DIGITS_MOST], *end = path + strlen(before);
    unsigned count = 0;
    memcpy(path, before, strlen(before));
    for (; count == 0 || number; number /= 10)
        digits[count++] = (char)('0' + number % 10);
    while (count)
        *end++ = digits[--count];
    memcpy(end, after, strlen(after) + 1);
}

long proc_read(const char *path, char *text, size_t size)
{
    text[0] = '\0';
    int file = (int)kernel_call(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (file < 0)
        return -errno;
    long length = kernel_call(SYS_read, file, text, size - 1);
    if (length < 0)
        length = -errno;
    text[length > 0 ? length : 0] = '\0';
    kernel_call(SYS_close, file);
    return length;
}

static bool is_digit(char letter)
{
    return letter >= '0' && letter <= '9';
}

uint64_t proc_number(const char *text)
{
    uint64_t number = 0;
    for (; text && is_digit(*text); text++)
        number = number * 10 + (uint64_t)(*text - '0');
    return number;
}

const char *proc_stat(const char *text, enum proc_stat_field field)
{
    /* The command's name may hold blanks and parentheses itself. */
    const char *at = strrchr(text, ')');
    for (unsigned i = 0; at && i < field; i++)
        at = strchr(at + 1, ' ');
    return at ? at + 1 : NULL;
}

/* As getdents64(2) writes them, one after the other. */
struct entry {
    uint64_t inode;
    int64_t offset;
    uint16_t length;
    uint8_t type;
    char name[];
};

struct proc_listing proc_each(const char *path, proc_visit visit, void *context)
{
    struct proc_listing listing = {0};
    char text[LISTING_ROOM] __attribute__((aligned(8)));
    long got = 0;
    int directory =
        (int)kernel_call(SYS_openat, AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (directory < 0)
        return listing;
    while (!listing.ended &&
           (got = kernel_call(SYS_getdents64, directory, text, sizeof text)) > 0) {
        for (long at = 0; !listing.ended && at < got;) {
            const struct entry *entry = (const void *)(text + at);
            at += entry->length;
            if (!is_digit(entry->name[0]))
                continue;
            listing.count++;
            listing.ended = visit(directory, entry->name, context);
        }
    }
    listing.whole = got >= 0;
    kernel_call(SYS_close, directory);
    return listing;
}
