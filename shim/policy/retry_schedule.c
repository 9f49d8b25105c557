/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "policy/retry_schedule.h"

#define LEAST 10
#define THOUSANDTHS 1000

uint64_t retry_jittered(uint64_t longest, enum jitter jitter, uint64_t (*draw)(uint64_t most))
{
    switch (jitter) {
    case JITTER_NONE:
        return longest;
    case JITTER_EQUAL:
        return longest / 2 + draw(longest - longest / 2);
    default:
        return draw(longest);
    }
}

/* The place of this second; what is in it from an earlier one is gone. */
static unsigned place_of(struct retry_budget *budget, uint64_t second)
{
    unsigned i = second % RETRY_BUDGET_SECONDS;
    uint64_t before = atomic_load(&budget->late[i].second);
    if (before != second &&
        atomic_compare_exchange_strong(&budget->late[i].second, &before, second)) {
        atomic_store(&budget->late[i].connects, 0);
        atomic_store(&budget->late[i].retries, 0);
    }
    return i;
}

void retry_budget_connects(struct retry_budget *budget, uint64_t second)
{
    atomic_fetch_add(&budget->late[place_of(budget, second)].connects, 1);
}

bool retry_budget_take(struct retry_budget *budget, uint64_t second, uint64_t thousandths,
                       uint64_t each)
{
    uint64_t connects = 0, retries = 0;
    unsigned place = place_of(budget, second);
    for (unsigned i = 0; thousandths != LIMIT_OFF && i < RETRY_BUDGET_SECONDS; i++) {
        if (atomic_load(&budget->late[i].second) + RETRY_BUDGET_SECONDS <= second)
            continue;
        connects += atomic_load(&budget->late[i].connects);
        retries += atomic_load(&budget->late[i].retries);
    }
    each = each == LIMIT_OFF || each < LEAST ? LEAST : each;
    if (thousandths != LIMIT_OFF && retries >= each + connects * thousandths / THOUSANDTHS)
        return false;
    atomic_fetch_add(&budget->late[place].retries, 1);
    return true;
}
