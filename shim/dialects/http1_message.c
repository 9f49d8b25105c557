/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "dialects/http1_message.h"

#include <string.h>

/* RFC 9112, 3 and 5 bound no head; no server in use takes more. */
#define HEAD_MOST UINT16_MAX
#define CHUNK_DIGITS_MOST 16
#define BEHIND_WORD UINT8_MAX /* `at` in a list: the next thing is a comma */

/* --- words --- */

static const char *const fields[] = {"content-length", "transfer-encoding", "connection",
                                     "content-type", NULL};
static const char *const codings[] = {"chunked", NULL};
static const char *const connection_options[] = {"close", "keep-alive", NULL};
static const char *const event_types[] = {"text/event-stream", "multipart/x-mixed-replace", NULL};

void http1_word_begins(struct message *message)
{
    message->kept.candidates = 0xff;
    message->kept.at = 0;
}

void http1_word_goes_on(struct message *message, const char *const words[], char byte)
{
    struct kept *kept = &message->kept;
    unsigned those_that_are = 0;
    for (unsigned i = 0; kept->candidates >> i && words[i]; i++)
        if (kept->candidates >> i & 1 && words[i][kept->at] == byte)
            those_that_are |= 1U << i;
    kept->candidates = (uint8_t)those_that_are;
    kept->at += kept->at < BEHIND_WORD - 1;
}

int http1_word_ends(const struct message *message, const char *const words[])
{
    for (int i = 0; words[i]; i++)
        if (message->kept.candidates >> i & 1 && words[i][message->kept.at] == '\0')
            return i;
    return -1;
}

static bool is_blank(char byte)
{
    return byte == ' ' || byte == '\t';
}

/* --- lines --- */

void http1_fault(struct message *message)
{
    message->kept.found |= FOUND_FAULT;
    message->phase = VALUE_OTHER;
}

void http1_line_ends(struct message *message, char byte)
{
    if (byte == '\r') {
        message->phase = LINE_CR;
        return;
    }
    if (message->kept.found & IN_TRAILER)
        message->kept.found |= FOUND_FAULT;
    message->phase = FIELD_START;
}

static size_t on_line_cr(struct message *message, const char *bytes, size_t length)
{
    (void)length;
    if (*bytes == '\n')
        message->phase = FIELD_START;
    else
        http1_fault(message); /* a bare CR: RFC 9112, 2.2 */
    return *bytes == '\n';
}

static size_t on_field_start(struct message *message, const char *bytes, size_t length)
{
    (void)length;
    if (*bytes == '\r') {
        message->phase = HEAD_CR;
        return 1;
    }
    if (*bytes == '\n') {
        if (message->kept.found & IN_TRAILER)
            message->kept.found |= FOUND_FAULT;
        message->phase = HEAD_ENDED;
        return 1;
    }
    /* Among what is none: the blanks that obsolete folding begins with (RFC 9112, 5.2). */
    if (!http1_is_token(*bytes)) {
        http1_fault(message);
        return 0;
    }
    http1_word_begins(message);
    message->phase = FIELD_NAME;
    return 0;
}

static size_t on_head_cr(struct message *message, const char *bytes, size_t length)
{
    (void)length;
    if (*bytes == '\n')
        message->phase = HEAD_ENDED;
    else
        http1_fault(message);
    return *bytes == '\n';
}

static void value_begins(struct message *message)
{
    static const uint8_t value_phases[] = {VALUE_LENGTH, VALUE_LIST, VALUE_LIST, VALUE_TYPE,
                                           VALUE_OTHER};
    static const uint8_t once[] = {FOUND_LENGTH, FOUND_CODING, 0, 0, 0};
    int field = http1_word_ends(message, fields);
    struct kept *kept = &message->kept;
    kept->field = field < 0 || kept->found & IN_TRAILER ? FIELD_OTHER : (uint8_t)field;
    http1_word_begins(message);
    message->phase = value_phases[kept->field];
    if (!once[kept->field])
        return;
    if (kept->found & once[kept->field])
        http1_fault(message);
    kept->found |= once[kept->field];
}

static size_t on_field_name(struct message *message, const char *bytes, size_t length)
{
    size_t taken = 0;
    for (; taken < length && http1_is_token(bytes[taken]); taken++)
        if (message->kept.candidates)
            http1_word_goes_on(message, fields, http1_lower(bytes[taken]));
    if (taken == length)
        return taken;
    if (bytes[taken] == ':')
        value_begins(message);
    else
        http1_fault(message); /* "Transfer-Encoding : chunked", or no field at all: RFC 9112, 5.1 */
    return taken + (bytes[taken] == ':');
}

/* A value that says nothing here, or what is left of a line that is broken already. */
static size_t on_value_other(struct message *message, const char *bytes, size_t length)
{
    const char *end = memchr(bytes, '\n', length);
    size_t line = end ? (size_t)(end - bytes) : length;
    const char *cr = memchr(bytes, '\r', line);
    size_t before = cr ? (size_t)(cr - bytes) : line;
    if (memchr(bytes, '\0', before))
        message->kept.found |= FOUND_FAULT;
    if (before == length)
        return length;
    http1_line_ends(message, bytes[before]);
    return before + 1;
}

/* Content-Length: RFC 9110, 8.6. `at`: 0 before the digits, 1 among them, 2 behind them. */
static size_t on_value_length(struct message *message, const char *bytes, size_t length)
{
    struct kept *kept = &message->kept;
    char byte = *bytes;
    (void)length;
    if (http1_is_digit(byte) && kept->at < 2) {
        kept->at = 1;
        if (message->left > (uint64_t)(INT64_MAX - (byte - '0')) / 10) {
            http1_fault(message);
            return 0;
        }
        message->left = message->left * 10 + (uint64_t)(byte - '0');
        return 1;
    }
    if (is_blank(byte)) {
        kept->at += kept->at == 1;
        return 1;
    }
    if (!http1_ends_line(byte) || kept->at == 0) {
        http1_fault(message);
        return 0;
    }
    http1_line_ends(message, byte);
    return 1;
}

static void element_ends(struct message *message)
{
    struct kept *kept = &message->kept;
    bool coding = kept->field == FIELD_CODING;
    int word = http1_word_ends(message, coding ? codings : connection_options);
    if (!coding)
        kept->found |= word < 0 ? 0 : word == 0 ? FOUND_CLOSE : FOUND_KEEP_ALIVE;
    else if (kept->found & FOUND_CHUNKED)
        kept->found |= FOUND_FAULT; /* it has to be the last, and once: RFC 9112, 6.1 */
    else
        kept->found |= word < 0 ? 0 : FOUND_CHUNKED;
    kept->at = BEHIND_WORD;
}

/* Transfer-Encoding or Connection; a coding that is not written as the RFC has it is a fault. */
static size_t on_value_list(struct message *message, const char *bytes, size_t length)
{
    struct kept *kept = &message->kept;
    bool coding = kept->field == FIELD_CODING;
    char byte = http1_lower(*bytes);
    (void)length;
    if (kept->at != BEHIND_WORD && http1_is_token(byte)) {
        http1_word_goes_on(message, coding ? codings : connection_options, byte);
        return 1;
    }
    if (is_blank(byte) && (kept->at == 0 || kept->at == BEHIND_WORD))
        return 1;
    bool separates = byte == ',' || is_blank(byte) || http1_ends_line(byte);
    if (coding && (kept->at == 0 || !separates)) {
        http1_fault(message);
        return 0;
    }
    if (separates && kept->at != 0 && kept->at != BEHIND_WORD)
        element_ends(message);
    if (byte == ',')
        http1_word_begins(message);
    else if (!separates)
        kept->at = BEHIND_WORD;
    if (byte == '\0')
        kept->found |= FOUND_FAULT;
    if (http1_ends_line(byte))
        http1_line_ends(message, byte);
    return 1;
}

/* Content-Type, for what it is before its parameters. */
static size_t on_value_type(struct message *message, const char *bytes, size_t length)
{
    struct kept *kept = &message->kept;
    (void)length;
    if (is_blank(*bytes) && kept->at == 0)
        return 1;
    if (http1_is_token(*bytes) || *bytes == '/') {
        http1_word_goes_on(message, event_types, http1_lower(*bytes));
        return 1;
    }
    if (http1_word_ends(message, event_types) >= 0)
        kept->found |= FOUND_EVENTS;
    message->phase = VALUE_OTHER;
    return 0;
}

/* --- the first line of an answer: RFC 9112, 4 --- */

static size_t on_status_version(struct message *message, const char *bytes, size_t length)
{
    static const char version[] = "HTTP/1.";
    enum { MINOR = sizeof version - 1, BLANK_BEHIND };
    uint8_t *at = &message->kept.at;
    (void)length;
    bool fits = *at < MINOR    ? *bytes == version[*at]
                : *at == MINOR ? http1_is_digit(*bytes)
                               : *bytes == ' ';
    message->phase = !fits ? LOST : *at == BLANK_BEHIND ? STATUS_CODE : STATUS_VERSION;
    *at = message->phase == STATUS_VERSION ? *at + 1 : 0;
    return fits;
}

static size_t on_status_code(struct message *message, const char *bytes, size_t length)
{
    (void)length;
    if (message->kept.at == 3) {
        message->phase = VALUE_OTHER;
        return 0;
    }
    if (!http1_is_digit(*bytes)) {
        message->phase = LOST;
        return 0;
    }
    message->kept.at++;
    message->status = (uint16_t)(message->status * 10 + (*bytes - '0'));
    return 1;
}

/* --- bodies: RFC 9112, 6 and 7.1 --- */

size_t http1_pass_over(struct message *message, size_t length)
{
    size_t taken = message->left < length ? (size_t)message->left : length;
    message->left -= taken;
    return taken;
}

static size_t on_body(struct message *message, const char *bytes, size_t length)
{
    (void)bytes;
    size_t taken = http1_pass_over(message, length);
    if (message->left == 0)
        message->phase = ENDED;
    return taken;
}

static int hex_digit(char byte)
{
    return http1_is_digit(byte)                                   ? byte - '0'
           : http1_lower(byte) >= 'a' && http1_lower(byte) <= 'f' ? http1_lower(byte) - 'a' + 10
                                                                  : -1;
}

/* Blanks behind the size are no part of it to all who take them. */
static size_t on_chunk_size(struct message *message, const char *bytes, size_t length)
{
    int digit = hex_digit(*bytes);
    (void)length;
    if (digit >= 0) {
        bool fits = message->kept.at < CHUNK_DIGITS_MOST && message->left <= INT64_MAX >> 4;
        message->kept.at++;
        message->left = message->left << 4 | (unsigned)digit;
        message->phase = fits ? CHUNK_SIZE : LOST;
        return 1;
    }
    message->phase = message->kept.at == 0 ? LOST : CHUNK_SPACE;
    return 0;
}

static size_t on_chunk_space(struct message *message, const char *bytes, size_t length)
{
    (void)length;
    if (!is_blank(*bytes))
        message->phase = *bytes == ';' ? CHUNK_EXTENSION : *bytes == '\r' ? CHUNK_LINE_LF : LOST;
    return 1;
}

/* Where it ends at a bare LF servers are of two minds. */
static size_t on_chunk_extension(struct message *message, const char *bytes, size_t length)
{
    size_t taken = 0;
    while (taken < length && !http1_ends_line(bytes[taken]) && bytes[taken] != '\0')
        taken++;
    if (taken == length)
        return taken;
    message->phase = bytes[taken] == '\r' ? CHUNK_LINE_LF : LOST;
    return taken + 1;
}

static size_t on_chunk_line_lf(struct message *message, const char *bytes, size_t length)
{
    (void)length;
    if (*bytes != '\n') {
        message->phase = LOST;
    } else if (message->left) {
        message->phase = CHUNK_DATA;
    } else {
        message->head = 0;
        message->kept.found |= IN_TRAILER;
        message->phase = FIELD_START;
    }
    return 1;
}

static size_t on_chunk_data(struct message *message, const char *bytes, size_t length)
{
    if (message->left)
        return http1_pass_over(message, length);
    message->phase = *bytes == '\r' ? CHUNK_DATA_LF : LOST;
    return 1;
}

static size_t on_chunk_data_lf(struct message *message, const char *bytes, size_t length)
{
    (void)length;
    message->kept.at = 0;
    message->phase = *bytes == '\n' ? CHUNK_SIZE : LOST;
    return 1;
}

static size_t on_all(struct message *message, const char *bytes, size_t length)
{
    (void)bytes;
    message->left = 0;
    return length;
}

/* What takes the next bytes in each phase, and how many it took; none if only the phase changed. */
static http1_taker *const taker[PHASES] = {
    [STATUS_VERSION] = on_status_version,
    [STATUS_CODE] = on_status_code,
    [FIELD_START] = on_field_start,
    [FIELD_NAME] = on_field_name,
    [VALUE_LENGTH] = on_value_length,
    [VALUE_LIST] = on_value_list,
    [VALUE_TYPE] = on_value_type,
    [VALUE_OTHER] = on_value_other,
    [LINE_CR] = on_line_cr,
    [HEAD_CR] = on_head_cr,
    [BODY] = on_body,
    [CHUNK_SIZE] = on_chunk_size,
    [CHUNK_SPACE] = on_chunk_space,
    [CHUNK_EXTENSION] = on_chunk_extension,
    [CHUNK_LINE_LF] = on_chunk_line_lf,
    [CHUNK_DATA] = on_chunk_data,
    [CHUNK_DATA_LF] = on_chunk_data_lf,
    [UNTIL_CLOSE] = on_all,
    [LOST] = on_all,
};

size_t http1_go_on(struct message *message, http1_taker *const *request_line, const char *bytes,
                   size_t length)
{
    size_t taken = 0;
    while (taken < length && message->phase < HEAD_ENDED) {
        bool head = message->phase < HEAD_PHASES;
        size_t most = length - taken, room = HEAD_MOST - (size_t)message->head;
        if (head && room == 0) {
            message->kept.found |= FOUND_FAULT;
            message->phase = HEAD_ENDED;
            break;
        }
        http1_taker *take =
            message->phase < STATUS_VERSION ? request_line[message->phase] : taker[message->phase];
        size_t one = take(message, bytes + taken, head && room < most ? room : most);
        message->head += head ? (uint16_t)one : 0;
        taken += one;
    }
    return taken;
}
