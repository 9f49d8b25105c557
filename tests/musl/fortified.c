/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What Debian's libcmocka, built for glibc, takes from libc and musl lacks: the forms that
 * _FORTIFY_SOURCE calls. With them one and the same library serves the tests in both libcs, and
 * nothing else needs to be built or fetched.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

int __fprintf_chk(FILE *stream, int flag, const char *format, ...);
int __printf_chk(int flag, const char *format, ...);
int __snprintf_chk(char *out, size_t most, int flag, size_t size, const char *format, ...);
int __vsnprintf_chk(char *out, size_t most, int flag, size_t size, const char *format,
                    va_list arguments);
_Noreturn void __longjmp_chk(sigjmp_buf place, int value);

int __fprintf_chk(FILE *stream, int flag, const char *format, ...)
{
    va_list arguments;
    (void)flag;
    va_start(arguments, format);
    int length = vfprintf(stream, format, arguments);
    va_end(arguments);
    return length;
}

int __printf_chk(int flag, const char *format, ...)
{
    va_list arguments;
    (void)flag;
    va_start(arguments, format);
    int length = vprintf(format, arguments);
    va_end(arguments);
    return length;
}

int __vsnprintf_chk(char *out, size_t most, int flag, size_t size, const char *format,
                    va_list arguments)
{
    (void)flag;
    if (size < most)
        abort();
    return vsnprintf(out, most, format, arguments);
}

int __snprintf_chk(char *out, size_t most, int flag, size_t size, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = __vsnprintf_chk(out, most, flag, size, format, arguments);
    va_end(arguments);
    return length;
}

_Noreturn void __longjmp_chk(sigjmp_buf place, int value)
{
    siglongjmp(place, value);
}
