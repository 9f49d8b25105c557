/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether a request's path is one that `exempt-request` names, decided as its bytes come:
 * no path is too long.
 *
 * A prefix stands for itself and for what lies below it: /healthz for /healthz/x and /healthz?x,
 * too, and not for /healthzz; one that ends with '/' for all that begins with it. Nothing is
 * decoded; a path with `..` in it, plain or encoded, or with a backslash is none, since the program
 * may take it for one that lies elsewhere. Pure, and safe for whatever `limits` and the path hold.
 */
#ifndef BACKPRESSURE_EXEMPT_PATH_H
#define BACKPRESSURE_EXEMPT_PATH_H

#include "limits/limits.h"

/* A path, an HTTP request target in origin-form (RFC 9112, 3.2.1) without its query, so far. Plain
 * data. Should the limits change meanwhile it may be judged by some of both. */
struct exempt_path {
    uint32_t candidates; /* a bit for each prefix that the bytes so far are, or are the start of */
    uint16_t length;
    uint8_t escape;       /* how far into a dot, slash or backslash in disguise */
    bool covered, astray; /* a prefix was whole; the path may lead elsewhere */
};

void exempt_path_begins(struct exempt_path *path, const struct limits *limits);

void exempt_path_goes_on(struct exempt_path *path, const struct limits *limits, char byte);

/* Whether the path, now whole, is exempt. */
bool exempt_path_ends(struct exempt_path *path, const struct limits *limits);

#endif
