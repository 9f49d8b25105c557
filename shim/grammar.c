/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "grammar.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#define COUNT_MAX UINT32_MAX
#define RETRY_AFTER_DEFAULT_LEAST 1
#define RETRY_AFTER_DEFAULT_MOST 5
#define RETRY_AFTER_MAX 86400
/* One client that a ceiling of one let in, and that says nothing, would keep all others out. */
#define AUTO_LEAST 2
#define AUTO_MOST 60000
#define RETRY_BUDGET_STANDARD 100 /* thousandths */
#define SHED_SHARE_STANDARD 10
#define KILO UINT64_C(1024)
#define SIZE_MAX_GIGA UINT64_C(1024)
/* What one connection needs: the kernel's floor under SO_SNDBUF is 4608 bytes (SOCK_MIN_SNDBUF). */
#define BUFFER_LEAST (4 * KILO)
#define STALL_LEAST_NS UINT64_C(10000000)

static uint64_t pack(uint64_t high, uint64_t low)
{
    return high << 32 | low;
}

bool span_is(struct span value, const char *word)
{
    return value.length == strlen(word) && memcmp(value.start, word, value.length) == 0;
}

static bool span_off(struct span value)
{
    return span_is(value, "off") || span_is(value, "0");
}

bool span_split(struct span value, const char *separator, struct span *left, struct span *right)
{
    size_t width = strlen(separator);
    for (size_t i = 0; i + width <= value.length; i++) {
        if (memcmp(value.start + i, separator, width) != 0)
            continue;
        *left = (struct span){value.start, i};
        *right = (struct span){value.start + i + width, value.length - i - width};
        return true;
    }
    return false;
}

static bool parse_number(struct span value, uint64_t least, uint64_t most, uint64_t *out)
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

static bool parse_ceiling(struct limits *limits, unsigned key, struct span value)
{
    if (span_off(value)) {
        limits->value[key] = LIMIT_OFF;
        return true;
    }
    return parse_number(value, 1, COUNT_MAX, &limits->value[key]);
}

/* `auto`, `auto:LEAST..MOST` or `LEAST..MOST`. */
static bool parse_ceiling_or_auto(struct limits *limits, unsigned key, struct span value)
{
    static const char prefix[] = "auto:";
    uint64_t least = AUTO_LEAST, most = AUTO_MOST;
    struct span low, high;

    if (value.length > sizeof prefix - 1 && memcmp(value.start, prefix, sizeof prefix - 1) == 0)
        value = (struct span){value.start + sizeof prefix - 1, value.length - sizeof prefix + 1};
    if (!span_is(value, "auto")) {
        if (!span_split(value, "..", &low, &high))
            return parse_ceiling(limits, key, value);
        if (!parse_number(low, 1, AUTO_MOST, &least) || !parse_number(high, 1, AUTO_MOST, &most) ||
            least > most)
            return false;
    }
    limits->value[key] = limit_auto(least, most);
    return true;
}

static bool parse_rate(struct limits *limits, unsigned key, struct span value)
{
    struct span rate_part = value, burst_part;
    uint64_t rate, burst;

    if (span_off(value)) {
        limits->value[key] = LIMIT_OFF;
        return true;
    }
    bool has_burst = span_split(value, "/", &rate_part, &burst_part);
    if (!parse_number(rate_part, 1, 1000000000, &rate))
        return false;
    /* A tenth of a second's worth: enough to take what arrives between two rounds of a loop. */
    burst = rate < 20 ? 1 : rate / 10;
    if (has_burst && !parse_number(burst_part, 1, 1000000000, &burst))
        return false;
    limits->value[key] = pack(rate, burst);
    return true;
}

static bool parse_queue(struct limits *limits, unsigned key, struct span value)
{
    if (span_is(value, "off")) {
        limits->value[key] = LIMIT_OFF;
        return true;
    }
    return parse_number(value, 0, INT32_MAX, &limits->value[key]);
}

static const char *const when_full_names[] = {
    [WHEN_FULL_HOLD] = "hold",
    [WHEN_FULL_BUSY] = "busy",
    [WHEN_FULL_RESET] = "reset",
};

/* NULL where an operator cannot choose it by name. */
#define DIALECT(id, symbol, choice) [BUSY_##id] = (choice),
static const char *const busy_names[] = {
    [BUSY_AUTO] = "auto",
#include "dialects/dialects.def"
};
#undef DIALECT
#define NAMES(table) (sizeof(table) / sizeof *(table))

static const char *const jitter_names[] = {
    [JITTER_FULL] = "full",
    [JITTER_EQUAL] = "equal",
    [JITTER_NONE] = "none",
};

static bool parse_name(struct limits *limits, unsigned key, struct span value,
                       const char *const names[], size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!names[i] || !span_is(value, names[i]))
            continue;
        limits->value[key] = i;
        return true;
    }
    return false;
}

static bool parse_when_full(struct limits *limits, unsigned key, struct span value)
{
    return parse_name(limits, key, value, when_full_names, NAMES(when_full_names));
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
static bool parse_text(struct limits *limits, struct span value)
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

static bool parse_busy(struct limits *limits, unsigned key, struct span value)
{
    static const char prefix[] = "text:";
    size_t skip = sizeof prefix - 1;

    if (parse_name(limits, key, value, busy_names, NAMES(busy_names)))
        return true;
    if (value.length <= skip || memcmp(value.start, prefix, skip) != 0 ||
        !parse_text(limits, (struct span){value.start + skip, value.length - skip}))
        return false;
    limits->value[key] = BUSY_TEXT;
    return true;
}

static bool parse_retry_after(struct limits *limits, unsigned key, struct span value)
{
    struct span least_part, most_part;
    uint64_t least, most;

    if (span_off(value)) {
        limits->value[key] = LIMIT_OFF;
        return true;
    }
    if (!span_split(value, "..", &least_part, &most_part))
        least_part = most_part = value;
    if (!parse_number(least_part, 0, RETRY_AFTER_MAX, &least) ||
        !parse_number(most_part, 0, RETRY_AFTER_MAX, &most) || least > most)
        return false;
    limits->value[key] = pack(least, most);
    return true;
}

static bool parse_network(struct network *network, struct span value)
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
        if (has_prefix && !parse_number(prefix, 0, 32, &bits))
            return false;
        network->prefix_bits = 96 + bits;
        return true;
    }
    bits = 128;
    if (inet_pton(AF_INET6, text, network->address) != 1 ||
        (has_prefix && !parse_number(prefix, 0, 128, &bits)))
        return false;
    network->prefix_bits = bits;
    return true;
}

static bool parse_exempt(struct limits *limits, unsigned key, struct span value)
{
    struct network networks[LIMIT_NETWORKS_MAX];
    size_t count = 0;

    memset(networks, 0, sizeof networks);
    if (!span_off(value)) {
        struct span item, rest = value;
        bool more;
        do {
            struct span tail;
            more = span_split(rest, ",", &item, &tail);
            if (!more)
                item = rest;
            else
                rest = tail;
            if (count == LIMIT_NETWORKS_MAX || !parse_network(&networks[count++], item))
                return false;
        } while (more);
    }
    memcpy(limits->exempt, networks, sizeof networks);
    limits->value[key] = count;
    return true;
}

static bool parse_switch(struct limits *limits, unsigned key, struct span value)
{
    if (!span_is(value, "on") && !span_off(value))
        return false;
    limits->value[key] = span_is(value, "on");
    return true;
}

/* A number and the one unit of `units` that follows it; `scales` are theirs. */
static bool parse_scaled(struct span value, const char *const units[], const uint64_t scales[],
                         uint64_t *out)
{
    uint64_t number;
    for (unsigned i = 0; units[i]; i++) {
        size_t width = strlen(units[i]);
        if (value.length <= width ||
            memcmp(value.start + value.length - width, units[i], width) != 0 ||
            !parse_number((struct span){value.start, value.length - width}, 1,
                          UINT64_MAX / 2 / scales[i], &number))
            continue;
        *out = number * scales[i];
        return true;
    }
    return false;
}

static const char *const size_units[] = {"G", "M", "K", "", NULL};
static const uint64_t size_scales[] = {KILO * KILO * KILO, KILO *KILO, KILO, 1};
static const char *const time_units[] = {"ms", "s", "m", NULL};
static const uint64_t time_scales[] = {1000000, 1000000000, 60 * UINT64_C(1000000000)};

static bool parse_size_from(struct limits *limits, unsigned key, struct span value, uint64_t least)
{
    uint64_t size;
    if (span_off(value)) {
        limits->value[key] = LIMIT_OFF;
        return true;
    }
    if (!parse_scaled(value, size_units, size_scales, &size) || size < least ||
        size > SIZE_MAX_GIGA * KILO * KILO * KILO)
        return false;
    limits->value[key] = size;
    return true;
}

static bool parse_buffer(struct limits *limits, unsigned key, struct span value)
{
    return parse_size_from(limits, key, value, BUFFER_LEAST);
}

static bool parse_byte_rate(struct limits *limits, unsigned key, struct span value)
{
    return parse_size_from(limits, key, value, KILO);
}

static bool parse_time_from(struct limits *limits, unsigned key, struct span value, uint64_t least)
{
    uint64_t time;
    if (span_off(value)) {
        limits->value[key] = LIMIT_OFF;
        return true;
    }
    if (!parse_scaled(value, time_units, time_scales, &time) || time < least ||
        time > 1440 * time_scales[2])
        return false;
    limits->value[key] = time;
    return true;
}

static bool parse_stall(struct limits *limits, unsigned key, struct span value)
{
    return parse_time_from(limits, key, value, STALL_LEAST_NS);
}

/* `BASE..CAP`, times. */
static bool parse_backoff(struct limits *limits, unsigned key, struct span value)
{
    struct span low, high;
    uint64_t base, cap;
    if (span_off(value)) {
        limits->value[key] = LIMIT_OFF;
        return true;
    }
    if (!span_split(value, "..", &low, &high) ||
        !parse_scaled(low, time_units, time_scales, &base) ||
        !parse_scaled(high, time_units, time_scales, &cap) || base > cap ||
        cap > 60 * time_scales[2])
        return false;
    limits->value[key] = pack(base / time_scales[0], cap / time_scales[0]);
    return true;
}

static bool parse_jitter(struct limits *limits, unsigned key, struct span value)
{
    return parse_name(limits, key, value, jitter_names, NAMES(jitter_names));
}

/* A decimal fraction with at most three places. */
static bool parse_budget(struct limits *limits, unsigned key, struct span value)
{
    struct span whole = value, places;
    uint64_t left = 0, right = 0;
    if (span_is(value, "off")) {
        limits->value[key] = LIMIT_OFF;
        return true;
    }
    if (span_split(value, ".", &whole, &places)) {
        if (places.length > 3 || !parse_number(places, 0, 999, &right))
            return false;
        for (size_t i = places.length; i < 3; i++)
            right *= 10;
    }
    if (!parse_number(whole, 0, 100, &left))
        return false;
    limits->value[key] = left * 1000 + right;
    return true;
}

static bool parse_queue_delay(struct limits *limits, unsigned key, struct span value)
{
    if (span_is(value, "auto")) {
        limits->value[key] = QUEUE_DELAY_WITH_AUTO;
        return true;
    }
    return parse_time_from(limits, key, value, time_scales[0]);
}

/* `5` and `5%` are the same. */
static bool parse_share(struct limits *limits, unsigned key, struct span value)
{
    if (span_off(value)) {
        limits->value[key] = LIMIT_OFF;
        return true;
    }
    if (value.length && value.start[value.length - 1] == '%')
        value.length--;
    return parse_number(value, 1, 100, &limits->value[key]);
}

static void format_number(const struct limits *limits, unsigned key, char *out, size_t size)
{
    if (limits->value[key] == LIMIT_OFF)
        snprintf(out, size, "off");
    else
        snprintf(out, size, "%llu", (unsigned long long)limits->value[key]);
}

static void format_ceiling_or_auto(const struct limits *limits, unsigned key, char *out,
                                   size_t size)
{
    uint64_t value = limits->value[key];
    if (!limit_is_auto(value))
        format_number(limits, key, out, size);
    else if (value == limit_auto(AUTO_LEAST, AUTO_MOST))
        snprintf(out, size, "auto");
    else
        snprintf(out, size, "auto:%u..%u", (unsigned)limit_auto_least(value),
                 (unsigned)limit_auto_most(value));
}

static void format_rate(const struct limits *limits, unsigned key, char *out, size_t size)
{
    uint64_t value = limits->value[key];
    if (value == LIMIT_OFF)
        snprintf(out, size, "off");
    else
        snprintf(out, size, "%u/%u", (unsigned)(value >> 32), (unsigned)value);
}

static void format_when_full(const struct limits *limits, unsigned key, char *out, size_t size)
{
    uint64_t choice = limits->value[key];
    snprintf(out, size, "%s", choice <= WHEN_FULL_RESET ? when_full_names[choice] : "?");
}

static void format_text(const struct limits *limits, char *out, size_t size)
{
    uint64_t length = limits->text_length < LIMIT_TEXT_MAX ? limits->text_length : LIMIT_TEXT_MAX;
    size_t used = (size_t)snprintf(out, size, "text:");

    for (size_t i = 0; i < length && used + 5 < size; i++) {
        unsigned char c = (unsigned char)limits->text[i];
        if (c == '\r' || c == '\n' || c == '\t' || c == '\\') {
            out[used++] = '\\';
            out[used++] = c == '\r' ? 'r' : c == '\n' ? 'n' : c == '\t' ? 't' : '\\';
        } else if (c < 0x20 || c >= 0x7f) {
            used += (size_t)snprintf(out + used, size - used, "\\x%02x", c);
        } else {
            out[used++] = (char)c;
        }
    }
    out[used] = '\0';
}

static void format_busy(const struct limits *limits, unsigned key, char *out, size_t size)
{
    if (limits->value[key] == BUSY_TEXT)
        format_text(limits, out, size);
    else
        snprintf(out, size, "%s",
                 limits->value[key] < NAMES(busy_names) && busy_names[limits->value[key]]
                     ? busy_names[limits->value[key]]
                     : "?");
}

static void format_retry_after(const struct limits *limits, unsigned key, char *out, size_t size)
{
    uint64_t value = limits->value[key];
    if (value == LIMIT_OFF)
        snprintf(out, size, "off");
    else
        snprintf(out, size, "%u..%u", (unsigned)(value >> 32), (unsigned)value);
}

static void format_exempt(const struct limits *limits, unsigned key, char *out, size_t size)
{
    uint64_t count = limits->value[key];
    size_t used = 0;

    snprintf(out, size, "off");
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

static void format_switch(const struct limits *limits, unsigned key, char *out, size_t size)
{
    snprintf(out, size, "%s", limits->value[key] ? "on" : "off");
}

/* In the largest unit that leaves a whole number. */
static void format_scaled(uint64_t value, const char *const units[], const uint64_t scales[],
                          const unsigned order[], char *out, size_t size)
{
    snprintf(out, size, "off");
    for (unsigned i = 0; value != LIMIT_OFF && units[i]; i++) {
        if (value % scales[order[i]] != 0)
            continue;
        snprintf(out, size, "%llu%s", (unsigned long long)(value / scales[order[i]]),
                 units[order[i]]);
        return;
    }
}

static void format_size(const struct limits *limits, unsigned key, char *out, size_t size)
{
    static const unsigned order[] = {0, 1, 2, 3};
    format_scaled(limits->value[key], size_units, size_scales, order, out, size);
}

static void format_time(const struct limits *limits, unsigned key, char *out, size_t size)
{
    static const unsigned order[] = {2, 1, 0};
    format_scaled(limits->value[key], time_units, time_scales, order, out, size);
}

static void format_backoff(const struct limits *limits, unsigned key, char *out, size_t size)
{
    uint64_t value = limits->value[key];
    struct limits part;
    char base[32], cap[32];
    if (value == LIMIT_OFF) {
        snprintf(out, size, "off");
        return;
    }
    part.value[key] = (value >> 32) * time_scales[0];
    format_time(&part, key, base, sizeof base);
    part.value[key] = (uint32_t)value * time_scales[0];
    format_time(&part, key, cap, sizeof cap);
    snprintf(out, size, "%s..%s", base, cap);
}

static void format_jitter(const struct limits *limits, unsigned key, char *out, size_t size)
{
    uint64_t choice = limits->value[key];
    snprintf(out, size, "%s", choice < NAMES(jitter_names) ? jitter_names[choice] : "?");
}

static void format_budget(const struct limits *limits, unsigned key, char *out, size_t size)
{
    uint64_t value = limits->value[key];
    if (value == LIMIT_OFF)
        snprintf(out, size, "off");
    else
        snprintf(out, size, "%g", (double)value / 1000);
}

static void format_queue_delay(const struct limits *limits, unsigned key, char *out, size_t size)
{
    if (limits->value[key] == QUEUE_DELAY_WITH_AUTO)
        snprintf(out, size, "auto");
    else
        format_time(limits, key, out, size);
}

static void format_share(const struct limits *limits, unsigned key, char *out, size_t size)
{
    if (limits->value[key] == LIMIT_OFF)
        snprintf(out, size, "off");
    else
        snprintf(out, size, "%u%%", (unsigned)limits->value[key]);
}

#define ALLOWED_BUFFER "4K to 1024G (bytes, or with K, M or G), or off"
#define ALLOWED_BYTE_RATE "1K to 1024G bytes per second (or with K, M or G), or off"
#define ALLOWED_COUNT "a whole number from 1 to 4294967295, or off"
#define ALLOWED_CEILING                                                                            \
    "a whole number from 1 to 4294967295, auto, auto:MIN..MAX (1 to 60000), or off"

const struct grammar grammar[LIMIT_KEYS] = {
    [LIMIT_CONNS] = {"conns", parse_ceiling_or_auto, format_ceiling_or_auto, ALLOWED_CEILING, true,
                     LIMIT_OFF},
    [LIMIT_TOTAL_CONNS] = {"total-conns", parse_ceiling_or_auto, format_ceiling_or_auto,
                           ALLOWED_CEILING, false, LIMIT_OFF},
    [LIMIT_PEER_CONNS] = {"peer-conns", parse_ceiling, format_number, ALLOWED_COUNT, false,
                          LIMIT_OFF},
    [LIMIT_ACCEPT_RATE] = {"accept-rate", parse_rate, format_rate,
                           "N or N/BURST connections per second, each 1 to 1000000000, or off",
                           false, LIMIT_OFF},
    [LIMIT_QUEUE] = {"queue", parse_queue, format_number,
                     "a whole number from 0 to 2147483647, or off", false, LIMIT_OFF},
    [LIMIT_QUEUE_DELAY] = {"queue-delay", parse_queue_delay, format_queue_delay,
                           "a time from 1ms to 1440m (with ms, s or m), auto, or off", false,
                           QUEUE_DELAY_WITH_AUTO},
    [LIMIT_WHEN_FULL] = {"when-full", parse_when_full, format_when_full, "hold, busy or reset",
                         false, WHEN_FULL_HOLD},
    [LIMIT_BUSY] = {"busy", parse_busy, format_busy,
                    "auto, http, tls, redis, memcached, smtp, ftp, mysql, postgres or text:STRING "
                    "(1 to 256 bytes; \\r \\n \\t \\\\ \\xHH)",
                    false, BUSY_AUTO},
    [LIMIT_RETRY_AFTER] = {"retry-after", parse_retry_after, format_retry_after,
                           "MIN..MAX seconds, each 0 to 86400 and MIN at most MAX, or off", false,
                           (uint64_t)RETRY_AFTER_DEFAULT_LEAST << 32 | RETRY_AFTER_DEFAULT_MOST},
    [LIMIT_SHED_SHARE] = {"shed-share", parse_share, format_share,
                          "a whole number from 1 to 100 (hundredths of a core), or off", false,
                          SHED_SHARE_STANDARD},
    [LIMIT_EXEMPT] = {"exempt", parse_exempt, format_exempt,
                      "up to 32 addresses or CIDRs with commas between, or off", false, 0},
    [LIMIT_STRICT] = {"strict", parse_switch, format_switch, "on or off", false, 0},
    [LIMIT_BUFFER] = {"buffer", parse_buffer, format_size, ALLOWED_BUFFER, true, LIMIT_OFF},
    [LIMIT_TOTAL_BUFFER] = {"total-buffer", parse_buffer, format_size, ALLOWED_BUFFER, false,
                            LIMIT_OFF},
    [LIMIT_CONN_BUFFER] = {"conn-buffer", parse_buffer, format_size, ALLOWED_BUFFER, false,
                           LIMIT_OFF},
    [LIMIT_SEND_RATE] = {"send-rate", parse_byte_rate, format_size, ALLOWED_BYTE_RATE, true,
                         LIMIT_OFF},
    [LIMIT_CONN_SEND_RATE] = {"conn-send-rate", parse_byte_rate, format_size, ALLOWED_BYTE_RATE,
                              false, LIMIT_OFF},
    [LIMIT_STALL] = {"stall", parse_stall, format_time,
                     "a time from 10ms to 1440m (with ms, s or m), or off", false, LIMIT_OFF},
    [LIMIT_CONNECT_CONNS] = {"connect-conns", parse_ceiling, format_number, ALLOWED_COUNT, true,
                             LIMIT_OFF},
    [LIMIT_CONNECT_RETRIES] = {"connect-retries", parse_ceiling, format_number, ALLOWED_COUNT,
                               false, LIMIT_OFF},
    [LIMIT_BACKOFF] = {"backoff", parse_backoff, format_backoff,
                       "BASE..CAP, times up to 60m (with ms, s or m), or off", false, LIMIT_OFF},
    [LIMIT_JITTER] = {"jitter", parse_jitter, format_jitter, "full, equal or none", false,
                      JITTER_FULL},
    [LIMIT_RETRY_BUDGET] = {"retry-budget", parse_budget, format_budget,
                            "retries for each connect, 0 to 100 (three decimals), or off", false,
                            RETRY_BUDGET_STANDARD},
    [LIMIT_PAUSE_READS] = {"pause-reads", parse_switch, format_switch, "on or off", false,
                           PAUSE_READS_WITH_BUFFER},
};
