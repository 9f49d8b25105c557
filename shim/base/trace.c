/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/trace.h"

#include "base/clock.h"
#include "base/libc.h"
#include "base/real.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define LINE_MAX_BYTES 256
#define MICROSECONDS 1000000
#define VARIABLE "BACKPRESSURE_TRACE"
#define EVERYTHING ((UINT32_C(1) << TRACE_SUBJECTS) - 1)
#define UNKNOWN VARIABLE ": there is no `"
#define KNOWN "`; it takes accept, output, wait, connect, segment and all, with commas between"

uint32_t trace_wanted;

static const char *const subjects[TRACE_SUBJECTS] = {
    [TRACE_ACCEPT] = "accept",   [TRACE_OUTPUT] = "output",   [TRACE_WAIT] = "wait",
    [TRACE_CONNECT] = "connect", [TRACE_SEGMENT] = "segment",
};

/* A line that is being made. What does not fit is left out. */
struct line {
    size_t length;
    char text[LINE_MAX_BYTES];
};

static void add_bytes(struct line *line, const char *text, size_t length)
{
    size_t room = sizeof line->text - 1 - line->length; /* the newline's place is kept */
    length = length < room ? length : room;
    memcpy(line->text + line->length, text, length);
    line->length += length;
}

static void add(struct line *line, const char *text)
{
    add_bytes(line, text, strlen(text));
}

static void add_number(struct line *line, uint64_t number, unsigned digits_least)
{
    char digits[20];
    unsigned at = sizeof digits;
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number || sizeof digits - at < digits_least);
    add_bytes(line, digits + at, sizeof digits - at);
}

static void add_named(struct line *line, const char *name, uint64_t number)
{
    if (!name)
        return;
    add(line, " ");
    add(line, name);
    add(line, "=");
    add_number(line, number, 1);
}

static void write_line(struct line *line)
{
    line->text[line->length++] = '\n';
    struct iovec whole = {.iov_base = line->text, .iov_len = line->length};
    (void)kernel_call(SYS_writev, STDERR_FILENO, &whole, 1);
}

/* A seccomp filter may forbid to ask: then it is 0. */
static void add_id(struct line *line, long number)
{
    add_number(line, number > 0 ? (uint64_t)number : 0, 1);
}

void trace_write(enum trace_subject subject, const char *what, int fd, const char *first_name,
                 uint64_t first, const char *second_name, uint64_t second)
{
    struct line line = {.length = 0};
    int saved = errno;
    uint64_t now_us = monotonic_ns() / 1000;
    add(&line, "backpressure: trace ");
    add_number(&line, now_us / MICROSECONDS, 1);
    add(&line, ".");
    add_number(&line, now_us % MICROSECONDS, 6);
    add(&line, " ");
    add_id(&line, kernel_call(SYS_getpid));
    add(&line, "/");
    add_id(&line, kernel_call(SYS_gettid));
    add(&line, " ");
    add(&line, subjects[subject]);
    add(&line, " ");
    add(&line, what);
    if (fd >= 0)
        add_named(&line, "fd", (uint64_t)fd);
    add_named(&line, first_name, first);
    add_named(&line, second_name, second);
    write_line(&line);
    errno = saved;
}

static bool is(const char *given, size_t length, const char *name)
{
    return strlen(name) == length && memcmp(given, name, length) == 0;
}

/* The subject of that name; TRACE_SUBJECTS for `all`, -1 for a name that is none. */
static int subject_of(const char *given, size_t length)
{
    if (is(given, length, "all"))
        return TRACE_SUBJECTS;
    for (int i = 0; i < TRACE_SUBJECTS; i++)
        if (is(given, length, subjects[i]))
            return i;
    return -1;
}

static void say_unknown(const char *given, size_t length)
{
    struct line line = {.length = 0};
    size_t room = sizeof line.text - sizeof UNKNOWN KNOWN - sizeof "backpressure: ";
    add(&line, "backpressure: " UNKNOWN);
    add_bytes(&line, given, length < room ? length : room);
    add(&line, KNOWN);
    write_line(&line);
}

/* What is handed down names what there is, so that no child says it again. */
static void hand_down(void)
{
    struct line known = {.length = 0};
    for (unsigned i = 0; i < TRACE_SUBJECTS; i++) {
        if (!(trace_wanted & UINT32_C(1) << i))
            continue;
        add(&known, known.length ? "," : "");
        add(&known, subjects[i]);
    }
    known.text[known.length] = '\0';
    setenv(VARIABLE, known.text, 1);
}

void trace_start(void)
{
    const char *given = libc_secure_getenv(VARIABLE);
    bool all_known = true;
    while (given && *given) {
        size_t length = strcspn(given, ",");
        int subject = subject_of(given, length);
        if (subject >= 0)
            trace_wanted |= subject == TRACE_SUBJECTS ? EVERYTHING : UINT32_C(1) << subject;
        else if (length) {
            say_unknown(given, length);
            all_known = false;
        }
        given += length + (given[length] == ',');
    }
    if (!all_known)
        hand_down();
}
