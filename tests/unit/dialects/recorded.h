/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Conversations with real servers (tests/fuzz/record.py), and what is made of their requests, in a
 * letter for each: s silent, x silent and the last, r a request that may be refused, t one inside a
 * transaction. For the tests of dialects.
 */
#ifndef TESTS_RECORDED_H
#define TESTS_RECORDED_H

#include "../../fuzz/conversation.h"

#include <stdio.h>

#include <cmocka.h>

struct recorded {
    const char *name; /* of a file in tests/fuzz/corpus/ */
    const char *letters;
    enum request_stream_state state; /* at the end */
};

struct letters {
    char text[4096];
    size_t count;
};

static inline void recorded_letter(void *context, const struct request_stream *stream)
{
    struct letters *letters = context;
    char refusal[REQUEST_REFUSAL_MAX], letter = 'r';
    if (stream->flags & SESSION_TRANSACTION)
        letter = 't';
    if (stream->flags & REQUEST_SILENT)
        letter = stream->flags & REQUEST_CLOSES ? 'x' : 's';
    struct limits limits;
    limits_defaults(&limits);
    size_t length = request_refuse(stream, &limits, false, refusal, sizeof refusal);
    /* What is not to be refused cannot be, and the rest can unless it stands behind another. */
    if (letter != 'r')
        assert_int_equal(length, 0);
    assert_true(letters->count + 1 < sizeof letters->text);
    letters->text[letters->count++] = letter;
}

/* The letters of a conversation whose turns are cut into pieces of up to `longest` bytes. */
static inline struct letters recorded_letters(const uint8_t *data, size_t size, size_t longest,
                                              struct request_stream *stream)
{
    struct limits limits;
    limits_defaults(&limits);
    struct letters letters = {.count = 0};
    struct conversation seen = {
        .stream = *stream, .limits = &limits, .ended = recorded_letter, .context = &letters};
    conversation_run(&seen, data, size, longest, (uint32_t)size);
    assert_false(seen.ran_away);
    *stream = seen.stream;
    return letters;
}

static inline size_t recorded_read(const char *name, uint8_t *data, size_t room)
{
    char path[256];
    snprintf(path, sizeof path, "tests/fuzz/corpus/%s", name);
    FILE *file = fopen(path, "rb");
    if (!file)
        fail_msg("%s cannot be read: run this where the sources are", path);
    size_t size = fread(data, 1, room, file);
    fclose(file);
    assert_true(size < room);
    return size;
}

/* Each is what it should be, whole and cut in many ways. */
static inline void recorded_check(const struct recorded *recorded, struct request_stream begins)
{
    static uint8_t data[1 << 17];
    size_t size = recorded_read(recorded->name, data, sizeof data);
    for (size_t longest = 0; longest < 40; longest++) {
        struct request_stream stream = begins;
        struct letters letters = recorded_letters(data, size, longest, &stream);
        if (strcmp(letters.text, recorded->letters) != 0)
            fail_msg("%s, cut to %zu: %s, not %s", recorded->name, longest, letters.text,
                     recorded->letters);
        assert_int_equal(stream.state, recorded->state);
    }
}

#endif
