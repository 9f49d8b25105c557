/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What `bpctl top` draws. It decides nothing and changes nothing.
 */
#ifndef BPCTL_SCREEN_H
#define BPCTL_SCREEN_H

#include "rates.h"

#include <stdbool.h>

/* A service, looked at twice. */
struct watched {
    char name[SERVICE_NAME_MAX];
    uid_t owner;
    uint64_t looked_ns; /* CLOCK_MONOTONIC; 0: not yet */
    bool seen;          /* in this look */
    struct service_view *view, *before;
    struct rates rates;
};

struct screen {
    struct watched *service;
    unsigned services, selected, first_shown;
    const char *asked;  /* what is being typed, or NULL */
    const char *prompt; /* what for */
    char message[1024]; /* what came of the last key; empty: none */
};

/* Takes the terminal over; false, with one line on stderr, when it cannot be used. */
bool screen_open(void);
void screen_close(void);

/* Whether the terminal hung up: then nobody sees what is drawn, and no key will come. */
bool screen_is_gone(void);

/* Draws everything; only what changed goes to the terminal. */
void screen_draw(struct screen *screen);

#endif
