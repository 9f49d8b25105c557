/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What clients that keep their connections say and hear, a table row for each protocol: HTTP/1.1,
 * Redis, PostgreSQL's simple queries, MySQL's text protocol. Pure: bytes in, bytes out.
 */
#ifndef TESTS_BENCH_ANSWERS_H
#define TESTS_BENCH_ANSWERS_H

#include <stdbool.h>
#include <stddef.h>

#define ANSWER_MAX 4096
#define QUESTION_MAX 1024

/* What has been heard of one answer. Cleared (length 0) before each question. */
struct answer {
    size_t length;
    bool refusal;  /* a part that refuses was heard; the rest of the answer is to come */
    bool closes;   /* the server said that it closes the connection now */
    unsigned ends; /* markers of the end of a result that were heard (MySQL) */
    char bytes[ANSWER_MAX];
};

enum heard {
    HEARD_PART,     /* the answer goes on */
    HEARD_SERVED,   /* a whole answer */
    HEARD_REFUSAL,  /* a whole answer that says: too busy */
    HEARD_NONSENSE, /* an answer of any other kind */
};

struct dialect {
    const char *name;
    bool greets; /* the server speaks first */
    /* Each writes what is to be said into `out`, ANSWER_MAX bytes, and returns its length. `login`
       is NULL where nobody logs in. */
    size_t (*login)(char *out);
    size_t (*ask)(char *out, const char *question);
    /* Looks at what came, and drops what it is done with. */
    enum heard (*hear)(struct answer *answer);
};

/* NULL where there is none of that name. */
const struct dialect *dialect_named(const char *name);

#endif
