/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "limits/limits.h"

#include "limits/grammar.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static bool fail(struct limits_source *source, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static bool fail(struct limits_source *source, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(source->error, sizeof source->error, format, arguments);
    va_end(arguments);
    /* What was given is quoted back: it must not break the one line, nor reach the terminal raw. */
    for (char *c = source->error; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    return false;
}

void limits_defaults(struct limits *limits)
{
    memset(limits, 0, sizeof *limits);
    for (unsigned key = 0; key < LIMIT_KEYS; key++)
        limits->value[key] = limit_rows[key].standard;
}

void limits_source_init(struct limits_source *source, const struct limits *base)
{
    memset(source, 0, sizeof *source);
    source->limits = *base;
}

bool limits_name_valid(const char *name)
{
    size_t length = strlen(name);
    if (length == 0 || length >= SERVICE_NAME_MAX || name[0] == '.')
        return false;
    return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") ==
           length;
}

static bool take_name(struct limits_source *source, struct span value)
{
    char name[SERVICE_NAME_MAX] = "";
    if (value.length < sizeof name)
        memcpy(name, value.start, value.length);
    if (!limits_name_valid(name))
        return fail(source,
                    "name=%.*s: not a service name; allowed: 1 to %d of letters, digits, "
                    "'.', '_' and '-', not starting with '.'",
                    (int)(value.length < 80 ? value.length : 80), value.start,
                    SERVICE_NAME_MAX - 1);
    if (source->name[0] && strcmp(source->name, name) != 0)
        return fail(source, "name=%s: contradicts name=%s", name, source->name);
    memcpy(source->name, name, sizeof name);
    return true;
}

static bool unknown_key(struct limits_source *source, struct span key, bool allow_name)
{
    char list[LIMIT_ERROR_MAX] = "";
    size_t used = 0;
    for (unsigned i = 0; i < LIMIT_KEYS; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "",
                                 limit_rows[i].name);
    return fail(source, "%.*s: unknown limit; allowed: %s%s",
                (int)(key.length < 80 ? key.length : 80), key.start, allow_name ? "name, " : "",
                list);
}

/* `off` and `auto` are the same everywhere; 0 is `off` where it is not a value. */
static bool read_value(struct limits *limits, unsigned key, struct span value)
{
    const struct limit_row *row = &limit_rows[key];
    uint64_t off = grammar_off(row->kind);

    if (off != NO_OFF && (span_is(value, "off") || (row->least > 0 && span_is(value, "0")))) {
        if (row->kind == KIND_NETWORKS)
            memset(limits->exempt, 0, sizeof limits->exempt);
        if (row->kind == KIND_PATHS)
            memset(limits->exempt_request, 0, sizeof limits->exempt_request);
        limits->value[key] = off;
        return true;
    }
    if (row->automatic != NO_AUTO && span_is(value, "auto")) {
        limits->value[key] = row->automatic;
        return true;
    }
    return grammar_read(limits, key, value);
}

static bool take_limit(struct limits_source *source, unsigned key, struct span value)
{
    struct limits changed = source->limits;
    const char *name = limit_rows[key].name;
    int shown = (int)(value.length < 80 ? value.length : 80);

    if (!read_value(&changed, key, value)) {
        char allowed[LIMIT_ERROR_MAX];
        limits_allowed(key, allowed);
        return fail(source, "%s=%.*s: bad value; allowed: %s", name, shown, value.start, allowed);
    }
    if (source->given >> key & 1 && memcmp(&changed, &source->limits, sizeof changed) != 0) {
        char before[LIMIT_VALUE_MAX];
        limits_format(&source->limits, key, before, sizeof before);
        return fail(source, "%s=%.*s: contradicts %s=%.80s given before; allowed: one value", name,
                    shown, value.start, name, before);
    }
    source->limits = changed;
    source->given |= UINT64_C(1) << key;
    return true;
}

bool limits_take(struct limits_source *source, const char *pair, size_t length, bool allow_name)
{
    struct span whole = {pair, length}, key, value;
    if (!span_split(whole, "=", &key, &value) || key.length == 0)
        return fail(source, "%.*s: not a limit; allowed: LIMIT=VALUE",
                    (int)(length < 80 ? length : 80), pair);
    if (allow_name && span_is(key, "name"))
        return take_name(source, value);
    for (unsigned i = 0; i < LIMIT_KEYS; i++)
        if (span_is(key, limit_rows[i].name))
            return take_limit(source, i, value);
    return unknown_key(source, key, allow_name);
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\v' || c == '\f';
}

bool limits_take_words(struct limits_source *source, const char *text, bool allow_name)
{
    char word[LIMIT_VALUE_MAX];
    struct limits_source trial = *source;

    while (*text) {
        size_t length = 0;
        char quote = 0;
        while (is_blank(*text))
            text++;
        if (!*text)
            break;
        for (; *text && (quote || !is_blank(*text)); text++) {
            if (quote ? *text == quote : *text == '"' || *text == '\'') {
                quote = quote ? 0 : *text;
                continue;
            }
            if (length == sizeof word)
                return fail(source, "%.40s...: too long; allowed: %zu bytes", word, sizeof word);
            word[length++] = *text;
        }
        if (quote)
            return fail(source, "%.*s: a quote (%c) is not closed",
                        (int)(length < 80 ? length : 80), word, quote);
        if (!limits_take(&trial, word, length, allow_name))
            return fail(source, "%s", trial.error);
    }
    *source = trial;
    return true;
}

bool limits_take_line(struct limits_source *source, const char *line)
{
    size_t length = strlen(line), equals;
    char pair[LIMIT_VALUE_MAX];

    while (length && is_blank(line[length - 1]))
        length--;
    while (length && is_blank(*line)) {
        line++;
        length--;
    }
    if (length == 0 || *line == '#')
        return true;
    if (length > sizeof pair)
        return fail(source, "%.40s...: too long; allowed: %zu bytes", line, sizeof pair);
    /* Blanks around the first '=' are a habit of configuration files. */
    for (equals = 0; equals < length && line[equals] != '='; equals++)
        ;
    size_t key = equals, value = equals + 1, used = 0;
    while (key && is_blank(line[key - 1]))
        key--;
    while (value < length && is_blank(line[value]))
        value++;
    memcpy(pair, line, key);
    used = key;
    if (equals < length) {
        pair[used++] = '=';
        if (value < length) {
            memcpy(pair + used, line + value, length - value);
            used += length - value;
        }
    }
    return limits_take(source, pair, used, true);
}

void limits_add(struct limits_source *target, const struct limits_source *source)
{
    for (unsigned i = 0; i < LIMIT_KEYS; i++)
        if (source->given >> i & 1)
            target->limits.value[i] = source->limits.value[i];
    if (source->given >> LIMIT_EXEMPT & 1)
        memcpy(target->limits.exempt, source->limits.exempt, sizeof target->limits.exempt);
    if (source->given >> LIMIT_BUSY & 1) {
        target->limits.text_length = source->limits.text_length;
        memcpy(target->limits.text, source->limits.text, sizeof target->limits.text);
    }
    if (source->given >> LIMIT_EXEMPT_REQUEST & 1)
        memcpy(target->limits.exempt_request, source->limits.exempt_request,
               sizeof target->limits.exempt_request);
    target->given |= source->given;
}

const char *limits_key_name(unsigned key)
{
    return key < LIMIT_KEYS ? limit_rows[key].name : NULL;
}

const char *limits_text(unsigned key)
{
    return key < LIMIT_KEYS ? limit_rows[key].text : NULL;
}

enum limit_unit limits_unit(unsigned key)
{
    return key < LIMIT_KEYS ? limit_rows[key].unit : LIMIT_UNIT_NONE;
}

bool limits_key_per_process(unsigned key)
{
    return key < LIMIT_KEYS && limit_rows[key].per_process;
}

static bool has_auto(unsigned key)
{
    return limit_rows[key].automatic != NO_AUTO;
}

static bool has_off(unsigned key)
{
    return grammar_off(limit_rows[key].kind) != NO_OFF;
}

static void append(char out[LIMIT_ERROR_MAX], const char *text)
{
    size_t used = strlen(out);
    snprintf(out + used, LIMIT_ERROR_MAX - used, "%s", text);
}

void limits_allowed(unsigned key, char out[LIMIT_ERROR_MAX])
{
    out[0] = '\0';
    if (key >= LIMIT_KEYS)
        return;
    grammar_describe(key, out, LIMIT_ERROR_MAX);
    bool alone =
        limit_rows[key].kind == KIND_SWITCH; /* no commas within, and so none before `or` */
    if (has_auto(key))
        append(out, has_off(key) ? ", auto" : " or auto");
    if (has_off(key))
        append(out, alone && !has_auto(key) ? " or off" : ", or off");
}

void limits_words(unsigned key, char out[LIMIT_ERROR_MAX])
{
    struct words words = key < LIMIT_KEYS ? grammar_words(key) : (struct words){NULL, 0};
    out[0] = '\0';
    if (key >= LIMIT_KEYS)
        return;
    for (size_t i = 0; i < words.count; i++) {
        if (!words.word[i])
            continue;
        append(out, out[0] ? " " : "");
        append(out, words.word[i]);
    }
    if (limit_rows[key].kind == KIND_REPLY)
        append(out, " text:");
    if (limit_rows[key].kind == KIND_SWITCH)
        append(out, "on");
    if (has_auto(key))
        append(out, out[0] ? " auto" : "auto");
    if (has_off(key))
        append(out, out[0] ? " off" : "off");
}

void limits_syntax(unsigned key, char out[LIMIT_ERROR_MAX])
{
    out[0] = '\0';
    if (key < LIMIT_KEYS && limit_rows[key].syntax) {
        append(out, limit_rows[key].syntax);
        append(out, has_off(key) ? "|off" : "");
        return;
    }
    limits_words(key, out);
    for (char *blank = out; (blank = strchr(blank, ' '));)
        *blank = '|';
    if (key == LIMIT_BUSY)
        append(out, "STRING");
}

void limits_format(const struct limits *limits, unsigned key, char *out, size_t size)
{
    out[0] = '\0';
    if (key >= LIMIT_KEYS)
        return;
    if (has_off(key) && limits->value[key] == grammar_off(limit_rows[key].kind))
        snprintf(out, size, "off");
    else if (has_auto(key) && limits->value[key] == limit_rows[key].automatic)
        snprintf(out, size, "auto");
    else
        grammar_write(limits, key, out, size);
}

bool limits_exempt(const struct limits *limits, const uint8_t address[16])
{
    uint64_t count = limits->value[LIMIT_EXEMPT];
    for (uint64_t i = 0; i < count && i < LIMIT_NETWORKS_MAX; i++) {
        const struct network *network = &limits->exempt[i];
        uint64_t bits = network->prefix_bits <= 128 ? network->prefix_bits : 128;
        if (memcmp(address, network->address, bits / 8) != 0)
            continue;
        uint8_t mask = (uint8_t)(0xff00 >> bits % 8);
        if (bits % 8 == 0 || ((address[bits / 8] ^ network->address[bits / 8]) & mask) == 0)
            return true;
    }
    return false;
}
