/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every row of limits.def, by its own bounds: what is allowed is taken, kept, written and read
 * again as the same value; what is beyond is refused; `off`, `0` and `auto` mean what the row says.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "limits/grammar.h"
#include "limits/limits.h"

static struct limits_source source;

static const struct limit_row *row_of(void **state)
{
    struct limits defaults;
    limits_defaults(&defaults);
    limits_source_init(&source, &defaults);
    return &limit_rows[(uintptr_t)*state];
}

static bool take(const char *name, const char *value)
{
    char pair[LIMIT_VALUE_MAX + SERVICE_NAME_MAX];
    struct limits defaults;
    limits_defaults(&defaults);
    limits_source_init(&source, &defaults);
    int length = snprintf(pair, sizeof pair, "%s=%s", name, value);
    return limits_take(&source, pair, (size_t)length, false);
}

/* Takes it, and again what it is written as: the same limits. */
static uint64_t goes_round(unsigned key, const char *value)
{
    char written[LIMIT_VALUE_MAX];
    if (!take(limit_rows[key].name, value))
        fail_msg("%s", source.error);
    assert_true(source.given == UINT64_C(1) << key);
    struct limits first = source.limits;
    limits_format(&first, key, written, sizeof written);
    if (!take(limit_rows[key].name, written))
        fail_msg("%s, written as %s: %s", value, written, source.error);
    assert_memory_equal(&source.limits, &first, sizeof first);
    return first.value[key];
}

static void is_refused(unsigned key, const char *value)
{
    char allowed[LIMIT_ERROR_MAX];
    if (take(limit_rows[key].name, value))
        fail_msg("%s=%s was taken", limit_rows[key].name, value);
    limits_allowed(key, allowed);
    assert_non_null(strstr(source.error, allowed));
}

static void row_is_whole(void **state)
{
    const struct limit_row *row = row_of(state);
    unsigned key = (unsigned)(uintptr_t)*state;
    char said[LIMIT_ERROR_MAX];
    assert_non_null(row->name);
    assert_true(strlen(row->name) > 0);
    assert_true(row->kind < KINDS);
    assert_true(row->least <= row->most);
    assert_non_null(limits_text(key));
    assert_true(strlen(row->text) > 0 && row->text[strlen(row->text) - 1] == '.');
    limits_allowed(key, said);
    assert_true(strlen(said) > 0);
    limits_syntax(key, said);
    assert_true(strlen(said) > 0);
    for (unsigned other = 0; other < key; other++)
        assert_string_not_equal(limit_rows[other].name, row->name);
}

static void off_and_auto_are_as_the_row_says(void **state)
{
    const struct limit_row *row = row_of(state);
    unsigned key = (unsigned)(uintptr_t)*state;
    uint64_t off = grammar_off(row->kind);
    char allowed[LIMIT_ERROR_MAX];

    limits_allowed(key, allowed);
    assert_int_equal(strstr(allowed, "off") != NULL, off != NO_OFF);
    if (off == NO_OFF) {
        is_refused(key, "off");
        is_refused(key, "0");
    } else {
        assert_true(goes_round(key, "off") == off);
        assert_int_equal(goes_round(key, "0") == off, row->least > 0);
    }
    if (row->automatic != NO_AUTO)
        assert_true(goes_round(key, "auto") == row->automatic);
    else if (row->kind != KIND_REPLY)
        is_refused(key, "auto");
}

static void default_can_be_given(void **state)
{
    const struct limit_row *row = row_of(state);
    unsigned key = (unsigned)(uintptr_t)*state;
    char value[LIMIT_VALUE_MAX];
    struct limits defaults;
    limits_defaults(&defaults);
    limits_format(&defaults, key, value, sizeof value);
    assert_true(goes_round(key, value) == row->standard);
    assert_memory_equal(&source.limits, &defaults, sizeof defaults);
}

/* A number as this kind is typed, in its smallest unit. */
static const char *typed(const struct limit_row *row, uint64_t number)
{
    static char text[64];
    switch (row->kind) {
    case KIND_TIME:
        snprintf(text, sizeof text, "%llums", (unsigned long long)(number / MILLISECOND_NS));
        return text;
    case KIND_TIMES:
        snprintf(text, sizeof text, "1ms..%llums", (unsigned long long)(number / MILLISECOND_NS));
        return text;
    case KIND_FRACTION:
        snprintf(text, sizeof text, "%llu.%03u", (unsigned long long)(number / THOUSANDTHS),
                 (unsigned)(number % THOUSANDTHS));
        return text;
    default:
        snprintf(text, sizeof text, "%llu", (unsigned long long)number);
        return text;
    }
}

static uint64_t step_of(const struct limit_row *row)
{
    return row->kind == KIND_TIME || row->kind == KIND_TIMES ? MILLISECOND_NS : 1;
}

static void bounds_hold(void **state)
{
    const struct limit_row *row = row_of(state);
    unsigned key = (unsigned)(uintptr_t)*state;
    uint64_t step = step_of(row);

    if (row->kind == KIND_SWITCH || row->kind == KIND_CHOICE || row->kind == KIND_REPLY ||
        row->kind == KIND_NETWORKS || row->kind == KIND_PATHS)
        return;
    goes_round(key, typed(row, row->least));
    goes_round(key, typed(row, row->least + step));
    goes_round(key, typed(row, row->most - step));
    goes_round(key, typed(row, row->most));
    is_refused(key, typed(row, row->most + step));
    is_refused(key, "-1");
    is_refused(key, "99999999999999999999");
    is_refused(key, "18446744073709551615"); /* what LIMIT_OFF is stored as */
    if (row->least > step)
        is_refused(key, typed(row, row->least - step));
}

static void words_are_taken(void **state)
{
    const struct limit_row *row = row_of(state);
    unsigned key = (unsigned)(uintptr_t)*state;
    char words[LIMIT_ERROR_MAX], allowed[LIMIT_ERROR_MAX];
    limits_words(key, words);
    limits_allowed(key, allowed);
    for (char *rest = words, *word; (word = strsep(&rest, " "));) {
        if (!*word)
            continue;
        assert_non_null(strstr(allowed, word));
        goes_round(key, strcmp(word, "text:") == 0 ? "text:don't say \"busy\" \\r\\n " : word);
    }
    is_refused(key, "nonsense");
    is_refused(key, "");
    struct words choices = grammar_words(key);
    assert_int_equal(choices.count > 1, row->kind == KIND_CHOICE || row->kind == KIND_REPLY);
    for (size_t i = 0; i < choices.count && row->kind == KIND_CHOICE; i++)
        assert_non_null(choices.word[i]);
}

static void auto_ranges_hold(void **state)
{
    const struct limit_row *row = row_of(state);
    unsigned key = (unsigned)(uintptr_t)*state;
    char standard[64];
    if (row->kind != KIND_CEILING)
        return;
    snprintf(standard, sizeof standard, "auto:%d..%d", AUTO_LEAST, AUTO_MOST);
    assert_true(goes_round(key, standard) == row->automatic);
    assert_true(goes_round(key, "auto:1..60000") == LIMIT_AUTO(1, 60000));
    assert_true(goes_round(key, "7..8") == LIMIT_AUTO(7, 8));
    is_refused(key, "auto:0..5");
    is_refused(key, "auto:1..60001");
    is_refused(key, "auto:6..5");
}

static void networks_hold(void **state)
{
    const struct limit_row *row = row_of(state);
    unsigned key = (unsigned)(uintptr_t)*state;
    char list[LIMIT_VALUE_MAX] = "";
    if (row->kind != KIND_NETWORKS)
        return;
    for (uint64_t i = 0; i < row->most; i++)
        strcat(strcat(list, i ? "," : ""), "2001:db8:1111:2222:3333:4444:5555:6666/127");
    assert_true(goes_round(key, list) == row->most);
    is_refused(key, strcat(list, ",::1"));
    assert_true(goes_round(key, "0.0.0.0/0") == 1);
    /* `off` leaves no network behind. */
    assert_true(take(row->name, "10.0.0.0/8"));
    struct limits_source after;
    limits_source_init(&after, &source.limits);
    assert_true(limits_take(&after, "exempt=off", 10, false));
    struct limits defaults;
    limits_defaults(&defaults);
    assert_memory_equal(&after.limits, &defaults, sizeof defaults);
}

static void paths_hold(void **state)
{
    const struct limit_row *row = row_of(state);
    unsigned key = (unsigned)(uintptr_t)*state;
    char list[LIMIT_VALUE_MAX] = "";
    if (row->kind != KIND_PATHS)
        return;
    for (uint64_t i = 0; i < row->most; i++)
        strcat(strcat(list, i ? "," : ""), "/15-characters-");
    assert_true(goes_round(key, list) == row->most);
    is_refused(key, strcat(list, ",/"));
    /* One path as long as all may be together, and one longer. */
    memset(list, 'x', LIMIT_PATHS_BYTES);
    list[0] = '/';
    list[LIMIT_PATHS_BYTES - 1] = '\0';
    assert_true(goes_round(key, list) == 1);
    list[LIMIT_PATHS_BYTES - 1] = 'x';
    list[LIMIT_PATHS_BYTES] = '\0';
    is_refused(key, list);
    /* `off` leaves no path behind. */
    char pair[LIMIT_VALUE_MAX];
    assert_true(take(row->name, "/a,/b"));
    struct limits_source after;
    limits_source_init(&after, &source.limits);
    int length = snprintf(pair, sizeof pair, "%s=off", row->name);
    assert_true(limits_take(&after, pair, (size_t)length, false));
    struct limits defaults;
    limits_defaults(&defaults);
    assert_memory_equal(&after.limits, &defaults, sizeof defaults);
}

/* What is written never shows anything but a value, even of damaged numbers, and always ends. */
static void damaged_numbers_are_written(void **state)
{
    static const uint64_t numbers[] = {
        0, 1, UINT32_MAX, UINT64_C(1) << 63, UINT64_MAX, UINT64_MAX - 1, UINT64_MAX - 2};
    unsigned key = (unsigned)(uintptr_t)*state;
    char written[LIMIT_VALUE_MAX];
    struct limits limits;
    row_of(state);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        limits_defaults(&limits);
        limits.value[key] = numbers[i];
        limits.text_length = numbers[i];
        memset(written, 'x', sizeof written);
        limits_format(&limits, key, written, sizeof written);
        assert_true(memchr(written, '\0', sizeof written) != NULL);
        assert_true(written[0] != '\0' && !strpbrk(written, "\n\r\t"));
    }
}

int main(void)
{
#define TESTS_A_ROW 9
    static struct CMUnitTest tests[LIMIT_KEYS * TESTS_A_ROW];
    static char names[LIMIT_KEYS * TESTS_A_ROW][96];
    static const struct {
        const char *name;
        CMUnitTestFunction test;
    } each[TESTS_A_ROW] = {
        {"the row is whole", row_is_whole},
        {"off and auto", off_and_auto_are_as_the_row_says},
        {"the default can be given", default_can_be_given},
        {"bounds", bounds_hold},
        {"words", words_are_taken},
        {"auto ranges", auto_ranges_hold},
        {"networks", networks_hold},
        {"paths", paths_hold},
        {"damaged numbers", damaged_numbers_are_written},
    };
    size_t count = 0;
    for (uintptr_t key = 0; key < LIMIT_KEYS; key++)
        for (size_t i = 0; i < TESTS_A_ROW; i++, count++) {
            snprintf(names[count], sizeof names[count], "%s: %s",
                     limit_rows[key].name ? limit_rows[key].name : "?", each[i].name);
            tests[count] = (struct CMUnitTest){
                .name = names[count], .test_func = each[i].test, .initial_state = (void *)key};
        }
    return cmocka_run_group_tests_name("rows of limits", tests, NULL, NULL);
}
