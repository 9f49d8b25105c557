/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The peek at what a refused client has sent, and the answer to it, under hostile bytes.
 *
 * Input: the operator's choice, the port (2 bytes), flags, then what the client sent.
 */
#include "../../shim/dialects/busy.h"
#include "../../shim/limits/limits.h"

#include <stdlib.h>
#include <string.h>

#define HEAD 4

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const programs[] = {"server", "mysqld", "vsftpd", "master"};
    enum busy_protocol protocol = BUSY_PROTOCOLS;
    struct limits limits;
    if (size < HEAD)
        return 0;
    /* Of its own size, so that a byte too far is seen. */
    char *sent = malloc(size - HEAD + 1), *answer = malloc(BUSY_REPLY_MAX);
    if (!sent || !answer)
        abort();
    sent = realloc(sent, size - HEAD ? size - HEAD : 1);
    if (!sent)
        abort();
    memcpy(sent, data + HEAD, size - HEAD);
    struct busy_client client = {.sent = sent,
                                 .length = size - HEAD,
                                 .port = (uint16_t)(data[1] << 8 | data[2]),
                                 .program = programs[data[3] >> 1 & 3],
                                 .out_of_time = data[3] & 1};
    limits_defaults(&limits);
    limits.text_length = data[3] >> 3 & 1 ? LIMIT_TEXT_MAX : 5;
    memset(limits.text, 'x', sizeof limits.text);
    if (busy_recognise((enum busy_reply)(data[0] % (BUSY_TEXT + 1)), &client, &protocol) ==
        BUSY_RECOGNISED) {
        if (protocol >= BUSY_PROTOCOLS)
            abort();
        busy_has_all(protocol, &client);
        size_t length = busy_compose(protocol, &limits, &client, answer, BUSY_REPLY_MAX);
        if (length > BUSY_REPLY_MAX)
            abort();
    }
    free(sent);
    free(answer);
    return 0;
}
