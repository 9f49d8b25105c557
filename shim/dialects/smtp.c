/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * SMTP, where the server speaks first: 421 in place of its greeting.
 */
#include "dialects/dialect.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* RFC 5321, 3.8 and 4.2.3; 4.3.2 is "system not accepting network messages" (RFC 3463). */
static size_t refuse(const struct busy_answer *answer)
{
    char host[65] = "";
    if (gethostname(host, sizeof host - 1) < 0 || !host[0])
        memcpy(host, "localhost", sizeof "localhost");
    int length = snprintf(answer->out, answer->size,
                          "421 %s 4.3.2 Service not available, closing transmission "
                          "channel; try again later\r\n",
                          host);
    return length > 0 && (size_t)length < answer->size ? (size_t)length : 0;
}

static const uint16_t ports[] = {25, 587, 2525, 1025, 0};
static const char *const programs[] = {"exim4",        "master",   "smtpd", "opensmtpd",
                                       "sendmail-mta", "aiosmtpd", NULL};

const struct dialect dialect_smtp = {.refuse = refuse, .ports = ports, .programs = programs};
