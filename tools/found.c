/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "found.h"

#include <inttypes.h>
#include <stdio.h>

static const char *verdict_text(uint32_t verdict)
{
    static const char *const texts[] = {
        [CONCURRENCY_UNTRIED] = "nothing measured yet",
        [CONCURRENCY_UNUSED] = "not reached, so left as it is",
        [CONCURRENCY_RAISED] = "raised: answers do not wait for each other",
        [CONCURRENCY_LOWERED] = "lowered: answers wait for each other",
        [CONCURRENCY_STEADY] = "steady",
        [CONCURRENCY_PROBING] = "lowered for a moment, to see how fast an answer can be",
    };
    _Static_assert(sizeof texts / sizeof *texts == CONCURRENCY_VERDICTS, "a text each");
    return verdict < CONCURRENCY_VERDICTS && texts[verdict] ? texts[verdict] : "?";
}

json_t *found_json(const struct found_view *found)
{
    return json_pack("{s:I, s:s, s:I, s:I, s:I}", "ceiling", (json_int_t)found->ceiling, "why",
                     verdict_text(found->verdict), "sojourn_us", (json_int_t)found->sojourn_us,
                     "least_sojourn_us", (json_int_t)found->least_us, "answers_per_s",
                     (json_int_t)found->answers_per_s);
}

void print_found(const char *whose, const struct found_view *found)
{
    printf("  %-14s now %" PRIu64 "; %s; an answer takes %.1f ms, %.1f at least; %u answers/s\n",
           whose, found->ceiling, verdict_text(found->verdict), found->sojourn_us / 1000.0,
           found->least_us / 1000.0, found->answers_per_s);
}
