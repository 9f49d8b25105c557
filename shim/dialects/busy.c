/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "dialects/busy.h"

#include <string.h>

#define DIALECT(id, symbol, choice) [BUSY_IN_##id] = &(symbol),
static const struct dialect *const dialects[BUSY_PROTOCOLS] = {
#include "limits/dialects.def"
};
#undef DIALECT

static bool known_by_port(const struct dialect *dialect, uint16_t port)
{
    for (const uint16_t *one = dialect->ports; one && *one; one++)
        if (*one == port)
            return true;
    return false;
}

static bool known_by_program(const struct dialect *dialect, const char *program)
{
    for (const char *const *one = dialect->programs; one && *one; one++)
        if (strcmp(*one, program) == 0)
            return true;
    return false;
}

/* Where the server speaks first, nothing that a client sends tells which protocol it is. */
static enum busy_recognition guess(const struct busy_client *client, enum busy_protocol *protocol)
{
    for (unsigned i = 0; i < BUSY_PROTOCOLS; i++) {
        if (!known_by_port(dialects[i], client->port) &&
            !known_by_program(dialects[i], client->program))
            continue;
        *protocol = (enum busy_protocol)i;
        return BUSY_RECOGNISED;
    }
    return BUSY_UNDECIDED;
}

static enum busy_recognition look(const struct busy_client *client, enum busy_protocol *protocol)
{
    enum busy_recognition best = BUSY_UNKNOWN;
    if (client->length == 0)
        return guess(client, protocol);
    for (unsigned i = 0; i < BUSY_PROTOCOLS; i++) {
        enum busy_recognition one =
            dialects[i]->recognise ? dialects[i]->recognise(client) : BUSY_UNKNOWN;
        if (one == BUSY_UNKNOWN)
            continue;
        *protocol = (enum busy_protocol)i;
        if (one == BUSY_RECOGNISED)
            return one;
        best = one;
    }
    /* A chatty client of a server that speaks first. */
    return best == BUSY_UNKNOWN && guess(client, protocol) == BUSY_RECOGNISED ? BUSY_RECOGNISED
                                                                              : best;
}

static enum busy_protocol number_of(const struct dialect *dialect)
{
    unsigned i = 0;
    while (dialects[i] != dialect)
        i++;
    return (enum busy_protocol)i;
}

enum busy_recognition busy_recognise(enum busy_reply chosen, const struct busy_client *client,
                                     enum busy_protocol *protocol)
{
    if (chosen == BUSY_AUTO || chosen >= BUSY_REPLIES)
        return look(client, protocol);
    *protocol = (enum busy_protocol)(chosen - BUSY_AUTO - 1);
    const struct dialect *variant = dialects[*protocol]->variant;
    if (!variant || (client->out_of_time && client->length == 0))
        return BUSY_RECOGNISED;
    if (client->length == 0)
        return BUSY_UNDECIDED;
    enum busy_recognition is_variant = variant->recognise(client);
    if (is_variant == BUSY_RECOGNISED)
        *protocol = number_of(variant);
    return is_variant == BUSY_UNDECIDED && !client->out_of_time ? BUSY_UNDECIDED : BUSY_RECOGNISED;
}

bool busy_has_all(enum busy_protocol protocol, const struct busy_client *client)
{
    return dialects[protocol]->has_all && dialects[protocol]->has_all(client);
}

size_t busy_compose(enum busy_protocol protocol, const struct limits *limits,
                    const struct busy_client *client, char *out, size_t size)
{
    return dialects[protocol]->refuse(&(struct busy_answer){limits, client, out, size});
}
