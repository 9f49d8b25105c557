/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "limits/grammar.h"

#include <arpa/inet.h>
#include <string.h>

static bool read_number(struct span value, uint64_t least, uint64_t most, uint64_t *out)
{
    uint64_t number = 0;
    if (value.length == 0 || value.length > 18)
        return false;
    for (size_t i = 0; i < value.length; i++) {
        if (value.start[i] < '0' || value.start[i] > '9')
            return false;
        number = number * 10 + (uint64_t)(value.start[i] - '0');
    }
    if (number < least || number > most)
        return false;
    *out = number;
    return true;
}

static bool read_count(const struct limit_row *row, struct span value, uint64_t *out)
{
    return read_number(value, row->least, row->most, out);
}

/* `auto:LEAST..MOST` or `LEAST..MOST`; `auto` alone is what the table says. */
static bool read_ceiling(const struct limit_row *row, struct span value, uint64_t *out)
{
    static const char prefix[] = "auto:";
    size_t skip = sizeof prefix - 1;
    struct span low, high;
    uint64_t least, most;

    bool prefixed = value.length > skip && memcmp(value.start, prefix, skip) == 0;
    if (prefixed)
        value = (struct span){value.start + skip, value.length - skip};
    if (!span_split(value, "..", &low, &high))
        return !prefixed && read_count(row, value, out);
    if (!read_number(low, 1, AUTO_MOST, &least) || !read_number(high, 1, AUTO_MOST, &most) ||
        least > most)
        return false;
    *out = LIMIT_AUTO(least, most);
    return true;
}

static bool read_rate(const struct limit_row *row, struct span value, uint64_t *out)
{
    struct span rate_part = value, burst_part;
    uint64_t rate, burst;

    bool has_burst = span_split(value, "/", &rate_part, &burst_part);
    if (!read_count(row, rate_part, &rate))
        return false;
    /* A tenth of a second's worth: enough to take what arrives between two rounds of a loop. */
    burst = rate < 20 ? 1 : rate / 10;
    if (has_burst && !read_count(row, burst_part, &burst))
        return false;
    *out = LIMIT_PAIR(rate, burst);
    return true;
}

/* A number and the one unit that follows it. */
static bool read_scaled(struct span value, const struct scale *scale, uint64_t least, uint64_t most,
                        uint64_t *out)
{
    uint64_t number;
    /* The unit that is the end of another (s, ms) leaves no number before it. */
    for (; scale->unit; scale++) {
        size_t width = strlen(scale->unit);
        if (value.length <= width ||
            memcmp(value.start + value.length - width, scale->unit, width) != 0 ||
            !read_number((struct span){value.start, value.length - width}, 1, most / scale->worth,
                         &number) ||
            number * scale->worth < least)
            continue;
        *out = number * scale->worth;
        return true;
    }
    return false;
}

static bool read_size(const struct limit_row *row, struct span value, uint64_t *out)
{
    return read_scaled(value, size_scales, row->least, row->most, out);
}

static bool read_time(const struct limit_row *row, struct span value, uint64_t *out)
{
    return read_scaled(value, time_scales, row->least, row->most, out);
}

static bool read_times(const struct limit_row *row, struct span value, uint64_t *out)
{
    struct span low, high;
    uint64_t base, cap;
    if (!span_split(value, "..", &low, &high) || !read_time(row, low, &base) ||
        !read_time(row, high, &cap) || base > cap)
        return false;
    *out = LIMIT_PAIR(base / MILLISECOND_NS, cap / MILLISECOND_NS);
    return true;
}

static bool read_seconds(const struct limit_row *row, struct span value, uint64_t *out)
{
    struct span least_part, most_part;
    uint64_t least, most;

    if (!span_split(value, "..", &least_part, &most_part))
        least_part = most_part = value;
    if (!read_count(row, least_part, &least) || !read_count(row, most_part, &most) || least > most)
        return false;
    *out = LIMIT_PAIR(least, most);
    return true;
}

/* `5` and `5%` are the same. */
static bool read_share(const struct limit_row *row, struct span value, uint64_t *out)
{
    if (value.length && value.start[value.length - 1] == '%')
        value.length--;
    return read_count(row, value, out);
}

/* A decimal fraction with at most three places. */
static bool read_fraction(const struct limit_row *row, struct span value, uint64_t *out)
{
    struct span whole = value, places;
    uint64_t left, right = 0;
    if (span_split(value, ".", &whole, &places)) {
        if (places.length > 3 || !read_number(places, 0, THOUSANDTHS - 1, &right))
            return false;
        for (size_t i = places.length; i < 3; i++)
            right *= 10;
    }
    if (!read_number(whole, 0, row->most / THOUSANDTHS, &left) ||
        left * THOUSANDTHS + right > row->most)
        return false;
    *out = left * THOUSANDTHS + right;
    return true;
}

static bool read_switch(const struct limit_row *row, struct span value, uint64_t *out)
{
    (void)row;
    *out = 1;
    return span_is(value, "on");
}

static bool read_word(unsigned key, struct span value, uint64_t *out)
{
    struct words words = grammar_words(key);
    for (size_t i = 0; i < words.count; i++) {
        if (!words.word[i] || !span_is(value, words.word[i]))
            continue;
        *out = i;
        return true;
    }
    return false;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Decodes \r \n \t \\ and \xHH; a reply in a line protocol needs its line end. */
static bool read_text(struct limits *limits, struct span value)
{
    size_t length = 0;
    char text[LIMIT_TEXT_MAX];

    for (size_t i = 0; i < value.length; i++) {
        char c = value.start[i];
        if (c == '\\') {
            if (++i == value.length)
                return false;
            switch (value.start[i]) {
            case 'r':
                c = '\r';
                break;
            case 'n':
                c = '\n';
                break;
            case 't':
                c = '\t';
                break;
            case '\\':
                break;
            case 'x': {
                int high = i + 2 < value.length ? hex_digit(value.start[i + 1]) : -1;
                int low = i + 2 < value.length ? hex_digit(value.start[i + 2]) : -1;
                if (high < 0 || low < 0)
                    return false;
                c = (char)(high << 4 | low);
                i += 2;
                break;
            }
            default:
                return false;
            }
        }
        if (length == sizeof text)
            return false;
        text[length++] = c;
    }
    if (length == 0)
        return false;
    memset(limits->text, 0, sizeof limits->text);
    memcpy(limits->text, text, length);
    limits->text_length = length;
    return true;
}

static bool read_reply(struct limits *limits, unsigned key, struct span value)
{
    static const char prefix[] = "text:";
    size_t skip = sizeof prefix - 1;

    if (read_word(key, value, &limits->value[key]))
        return true;
    if (value.length <= skip || memcmp(value.start, prefix, skip) != 0 ||
        !read_text(limits, (struct span){value.start + skip, value.length - skip}))
        return false;
    limits->value[key] = BUSY_TEXT;
    return true;
}

static bool read_network(struct network *network, struct span value)
{
    struct span address = value, prefix = {0};
    char text[INET6_ADDRSTRLEN];
    uint64_t bits;

    bool has_prefix = span_split(value, "/", &address, &prefix);
    if (address.length == 0 || address.length >= sizeof text)
        return false;
    memcpy(text, address.start, address.length);
    text[address.length] = '\0';
    memset(network->address, 0, sizeof network->address);
    if (inet_pton(AF_INET, text, network->address + 12) == 1) {
        network->address[10] = network->address[11] = 0xff;
        bits = 32;
        if (has_prefix && !read_number(prefix, 0, 32, &bits))
            return false;
        network->prefix_bits = 96 + bits;
        return true;
    }
    bits = 128;
    if (inet_pton(AF_INET6, text, network->address) != 1 ||
        (has_prefix && !read_number(prefix, 0, 128, &bits)))
        return false;
    network->prefix_bits = bits;
    return true;
}

static bool read_networks(struct limits *limits, unsigned key, struct span value)
{
    struct network networks[LIMIT_NETWORKS_MAX];
    struct span item, rest = value, tail;
    size_t count = 0;
    bool more;

    memset(networks, 0, sizeof networks);
    do {
        more = span_split(rest, ",", &item, &tail);
        if (!more)
            item = rest;
        else
            rest = tail;
        if (count == LIMIT_NETWORKS_MAX || !read_network(&networks[count++], item))
            return false;
    } while (more);
    memcpy(limits->exempt, networks, sizeof networks);
    limits->value[key] = count;
    return true;
}

/* What a path may consist of: RFC 3986 3.3, without the comma. */
static bool read_path(struct span item)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
                                  "-._~%!$&'()*+;=:@/";
    if (item.length == 0 || item.start[0] != '/')
        return false;
    for (size_t i = 0; i < item.length; i++)
        if (!memchr(allowed, item.start[i], sizeof allowed - 1))
            return false;
    return true;
}

static bool read_paths(struct limits *limits, unsigned key, struct span value)
{
    char paths[LIMIT_PATHS_BYTES] = "";
    struct span item, rest = value;
    size_t count = 0, used = 0;
    bool more;

    do {
        more = span_split(rest, ",", &item, &rest);
        item = more ? item : rest;
        if (count++ == LIMIT_PATHS_MAX || !read_path(item) || item.length >= sizeof paths - used)
            return false;
        memcpy(paths + used, item.start, item.length);
        used += item.length + 1;
    } while (more);
    memcpy(limits->exempt_request, paths, sizeof paths);
    limits->value[key] = count;
    return true;
}

bool grammar_read(struct limits *limits, unsigned key, struct span value)
{
    static bool (*const readers[KINDS])(const struct limit_row *, struct span, uint64_t *) = {
        [KIND_COUNT] = read_count,       [KIND_CEILING] = read_ceiling,
        [KIND_RATE] = read_rate,         [KIND_SIZE] = read_size,
        [KIND_TIME] = read_time,         [KIND_TIMES] = read_times,
        [KIND_SECONDS] = read_seconds,   [KIND_SHARE] = read_share,
        [KIND_FRACTION] = read_fraction, [KIND_SWITCH] = read_switch,
    };
    const struct limit_row *row = &limit_rows[key];
    uint64_t read;

    if (row->kind == KIND_REPLY)
        return read_reply(limits, key, value);
    if (row->kind == KIND_NETWORKS)
        return read_networks(limits, key, value);
    if (row->kind == KIND_PATHS)
        return read_paths(limits, key, value);
    if (row->kind == KIND_CHOICE ? !read_word(key, value, &read)
                                 : !readers[row->kind](row, value, &read))
        return false;
    limits->value[key] = read;
    return true;
}
