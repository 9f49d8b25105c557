/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How each real server is started, and what a client says to it. All come from Debian's packages,
 * unmodified.
 */
#ifndef TESTS_RECIPES_H
#define TESTS_RECIPES_H

#include "launch.h"

struct recipe {
    const char *name;
    const char *program; /* looked for before the rest: without it the test is skipped */
    const char *request;
    size_t request_length;
    const char *answer; /* how the answer of a server that serves begins */
    bool http;
    bool (*start)(struct server *server, const char *const *limits);
};

extern const struct recipe recipes[];
extern const size_t recipes_count;

const struct recipe *recipe_named(const char *name);

/* Whether the program is installed; says so when not. */
bool recipe_available(const struct recipe *recipe);

/* Prepares and starts it. */
bool recipe_start(const struct recipe *recipe, struct server *server, const char *const *limits);

#endif
