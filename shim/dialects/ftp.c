/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * FTP, where the server speaks first: 421 in place of its greeting.
 */
#include "dialects/dialect.h"

/* RFC 959, 4.2.1. */
static size_t refuse(const struct busy_answer *answer)
{
    static const char sorry[] =
        "421 Service not available, closing control connection; try again later.\r\n";
    return dialect_put(answer, sorry, sizeof sorry - 1);
}

static const uint16_t ports[] = {21, 2121, 0};
static const char *const programs[] = {"vsftpd", "proftpd", "pure-ftpd", "in.ftpd", NULL};

const struct dialect dialect_ftp = {.refuse = refuse, .ports = ports, .programs = programs};
