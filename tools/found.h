/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A ceiling that finds itself, as people and programs read it: where it stands, and why.
 */
#ifndef BPCTL_FOUND_H
#define BPCTL_FOUND_H

#include "services.h"

#include <jansson.h>

/* The caller owns the object. */
json_t *found_json(const struct found_view *found);

/* A line on standard output; `whose` is the limit. */
void print_found(const char *whose, const struct found_view *found);

#endif
