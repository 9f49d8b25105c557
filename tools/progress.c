/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "progress.h"

#include "../shim/segment/segment.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#define SECOND UINT64_C(1000000000)
#define ELSEWHERE_EVERY_NS (5 * SECOND)
#define TERMINAL_EVERY_NS (SECOND / 5)
#define ERASE_LINE "\r\033[K" /* ECMA-48 */

void progress_begin(struct progress *progress)
{
    progress->began_ns = monotonic_ns();
    progress->next_ns = progress->began_ns + SECOND;
    progress->terminal = isatty(STDERR_FILENO);
    progress->written = false;
}

void progress_tell(struct progress *progress, const char *format, ...)
{
    va_list arguments;
    uint64_t now = monotonic_ns();
    if (now < progress->next_ns)
        return;
    progress->next_ns = now + (progress->terminal ? TERMINAL_EVERY_NS : ELSEWHERE_EVERY_NS);
    progress->written = true;
    fputs(progress->terminal ? ERASE_LINE : "", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, " after %u s%s", (unsigned)((now - progress->began_ns) / SECOND),
            progress->terminal ? "" : "\n");
}

void progress_end(struct progress *progress)
{
    if (progress->written && progress->terminal)
        fputs(ERASE_LINE, stderr);
    progress->written = false;
}
