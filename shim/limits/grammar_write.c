/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "limits/grammar.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

static void write_number(uint64_t value, char *out, size_t size)
{
    snprintf(out, size, "%llu", (unsigned long long)value);
}

static void write_ceiling(uint64_t value, char *out, size_t size)
{
    if (!limit_is_auto(value))
        write_number(value, out, size);
    else
        snprintf(out, size, "auto:%u..%u", (unsigned)limit_auto_least(value),
                 (unsigned)limit_auto_most(value));
}

static void write_rate(uint64_t value, char *out, size_t size)
{
    snprintf(out, size, "%u/%u", (unsigned)(value >> 32), (unsigned)value);
}

/* In the largest unit that leaves a whole number. */
static void write_scaled(uint64_t value, const struct scale *scale, char *out, size_t size)
{
    while (scale[1].unit && value % scale->worth != 0)
        scale++;
    snprintf(out, size, "%llu%s", (unsigned long long)(value / scale->worth), scale->unit);
}

static void write_size(uint64_t value, char *out, size_t size)
{
    write_scaled(value, size_scales, out, size);
}

static void write_time(uint64_t value, char *out, size_t size)
{
    write_scaled(value, time_scales, out, size);
}

static void write_times(uint64_t value, char *out, size_t size)
{
    char base[32], cap[32];
    write_time((value >> 32) * MILLISECOND_NS, base, sizeof base);
    write_time((uint32_t)value * MILLISECOND_NS, cap, sizeof cap);
    snprintf(out, size, "%s..%s", base, cap);
}

static void write_seconds(uint64_t value, char *out, size_t size)
{
    snprintf(out, size, "%u..%u", (unsigned)(value >> 32), (unsigned)value);
}

static void write_share(uint64_t value, char *out, size_t size)
{
    snprintf(out, size, "%u%%", (unsigned)value);
}

/* Without printf's %g, whose decimal point is the locale's. */
static void write_fraction(uint64_t value, char *out, size_t size)
{
    unsigned places = (unsigned)(value % THOUSANDTHS), used = 3;
    char decimals[] = {(char)('0' + places / 100), (char)('0' + places / 10 % 10),
                       (char)('0' + places % 10), '\0'};
    while (used > 0 && decimals[used - 1] == '0')
        decimals[--used] = '\0';
    snprintf(out, size, "%llu%s%s", (unsigned long long)(value / THOUSANDTHS), used ? "." : "",
             decimals);
}

static void write_switch(uint64_t value, char *out, size_t size)
{
    snprintf(out, size, "%s", value == 1 ? "on" : "?");
}

static void write_word(unsigned key, uint64_t value, char *out, size_t size)
{
    struct words words = grammar_words(key);
    snprintf(out, size, "%s", value < words.count && words.word[value] ? words.word[value] : "?");
}

static void write_text(const struct limits *limits, char *out, size_t size)
{
    uint64_t length = limits->text_length < LIMIT_TEXT_MAX ? limits->text_length : LIMIT_TEXT_MAX;
    size_t used = (size_t)snprintf(out, size, "text:");

    for (size_t i = 0; i < length && used + 5 < size; i++) {
        unsigned char c = (unsigned char)limits->text[i];
        if (c == '\r' || c == '\n' || c == '\t' || c == '\\') {
            out[used++] = '\\';
            out[used++] = c == '\r' ? 'r' : c == '\n' ? 'n' : c == '\t' ? 't' : '\\';
        } else if (c < 0x20 || c >= 0x7f || (c == ' ' && i + 1 == length)) {
            /* A blank at the end of a line would be cut off in a file. */
            used += (size_t)snprintf(out + used, size - used, "\\x%02x", c);
        } else {
            out[used++] = (char)c;
        }
    }
    out[used] = '\0';
}

static void write_networks(const struct limits *limits, unsigned key, char *out, size_t size)
{
    uint64_t count = limits->value[key];
    size_t used = 0;

    out[0] = '\0';
    for (uint64_t i = 0; i < count && i < LIMIT_NETWORKS_MAX; i++) {
        const struct network *network = &limits->exempt[i];
        char text[INET6_ADDRSTRLEN];
        static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
        bool ipv4 = memcmp(network->address, mapped, 12) == 0 && network->prefix_bits >= 96;

        inet_ntop(ipv4 ? AF_INET : AF_INET6, network->address + (ipv4 ? 12 : 0), text, sizeof text);
        int wrote = snprintf(out + used, size - used, "%s%s/%u", i ? "," : "", text,
                             (unsigned)(network->prefix_bits - (ipv4 ? 96 : 0)));
        if (wrote < 0 || (size_t)wrote >= size - used)
            return;
        used += (size_t)wrote;
    }
}

static void write_paths(const struct limits *limits, unsigned key, char *out, size_t size)
{
    const char *end = limits->exempt_request + sizeof limits->exempt_request;
    const char *path = limits->exempt_request;
    size_t used = 0;

    for (uint64_t i = 0; i < limits->value[key] && path < end && *path; i++, path++) {
        if (i && used + 1 < size)
            out[used++] = ',';
        for (; path < end && *path && used + 1 < size; path++)
            out[used++] = (char)(*path > 0x20 && *path < 0x7f ? *path : '?');
    }
    if (used == 0)
        out[used++] = '?';
    out[used] = '\0';
}

void grammar_write(const struct limits *limits, unsigned key, char *out, size_t size)
{
    static void (*const writers[KINDS])(uint64_t, char *, size_t) = {
        [KIND_COUNT] = write_number,      [KIND_CEILING] = write_ceiling,
        [KIND_RATE] = write_rate,         [KIND_SIZE] = write_size,
        [KIND_TIME] = write_time,         [KIND_TIMES] = write_times,
        [KIND_SECONDS] = write_seconds,   [KIND_SHARE] = write_share,
        [KIND_FRACTION] = write_fraction, [KIND_SWITCH] = write_switch,
    };
    enum limit_kind kind = limit_rows[key].kind;
    uint64_t value = limits->value[key];

    if (kind == KIND_NETWORKS)
        write_networks(limits, key, out, size);
    else if (kind == KIND_PATHS)
        write_paths(limits, key, out, size);
    else if (kind == KIND_REPLY && value == BUSY_TEXT)
        write_text(limits, out, size);
    else if (kind == KIND_CHOICE || kind == KIND_REPLY)
        write_word(key, value, out, size);
    else
        writers[kind](value, out, size);
}

static void describe_words(unsigned key, char *out, size_t size)
{
    struct words words = grammar_words(key);
    const char *last = limit_rows[key].kind == KIND_REPLY ? "text:STRING" : NULL;
    size_t used = 0, left = last ? 1 : 0;
    for (size_t i = 0; i < words.count; i++)
        left += words.word[i] != NULL;
    for (size_t i = 0; left && used < size; left--) {
        while (i < words.count && !words.word[i])
            i++;
        used += (size_t)snprintf(out + used, size - used, "%s%s",
                                 used == 0   ? ""
                                 : left == 1 ? " or "
                                             : ", ",
                                 i < words.count ? words.word[i] : last);
        i++;
    }
    if (last && used < size)
        snprintf(out + used, size - used, " (1 to %d bytes; \\r \\n \\t \\\\ \\xHH)",
                 LIMIT_TEXT_MAX);
}

void grammar_describe(unsigned key, char *out, size_t size)
{
    static const char *const forms[KINDS] = {
        [KIND_COUNT] = "a whole number from %s to %s",
        [KIND_CEILING] = "a whole number from %s to %s",
        [KIND_RATE] = "N or N/BURST, whole numbers from %s to %s",
        [KIND_SIZE] = "a size from %s to %s (bytes, or with K, M or G)",
        [KIND_TIME] = "a time from %s to %s (with ms, s or m)",
        [KIND_TIMES] = "BASE..CAP, times from %s to %s (with ms, s or m)",
        [KIND_SECONDS] = "N or MIN..MAX, whole numbers from %s to %s",
        [KIND_SHARE] = "a whole number from %s to %s, with or without %%",
        [KIND_FRACTION] = "a number from %s to %s, with three decimals at most",
        [KIND_SWITCH] = "on",
        [KIND_NETWORKS] = "%s to %s addresses or CIDRs with commas between",
        [KIND_PATHS] = "%s to %s paths with commas between, each beginning with /",
    };
    const struct limit_row *row = &limit_rows[key];
    char least[32], most[32];
    void (*bound)(uint64_t, char *, size_t) = row->kind == KIND_SIZE ? write_size
                                              : row->kind == KIND_TIME || row->kind == KIND_TIMES
                                                  ? write_time
                                              : row->kind == KIND_FRACTION ? write_fraction
                                                                           : write_number;
    if (row->kind == KIND_CHOICE || row->kind == KIND_REPLY) {
        describe_words(key, out, size);
        return;
    }
    bound(row->least, least, sizeof least);
    bound(row->most, most, sizeof most);
    snprintf(out, size, forms[row->kind], least, most);
    if (row->kind == KIND_CEILING)
        snprintf(out + strlen(out), size - strlen(out), ", MIN..MAX or auto:MIN..MAX (1 to %d)",
                 AUTO_MOST);
}
