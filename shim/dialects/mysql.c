/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * MySQL and MariaDB, where the server speaks first: error 1040 in place of its greeting.
 */
#include "dialects/dialect.h"

/* The client/server protocol's ERR_Packet, without an SQL state before capabilities are agreed:
 * ER_CON_COUNT_ERROR (1040). */
static size_t refuse(const struct busy_answer *answer)
{
    static const char error[] = "\x17\0\0\0\xff\x10\4Too many connections";
    return dialect_put(answer, error, sizeof error - 1);
}

static const uint16_t ports[] = {3306, 0};
static const char *const programs[] = {"mariadbd", "mysqld", NULL};

const struct dialect dialect_mysql = {.refuse = refuse, .ports = ports, .programs = programs};
