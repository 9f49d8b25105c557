/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "connect/backoff.h"

#include "base/address.h"
#include "base/chance.h"
#include "policy/retry_schedule.h"
#include "process/processes.h"
#include "process/service.h"
#include "segment/growth.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/un.h>

#define MILLISECOND UINT64_C(1000000)
#define SECOND (1000 * MILLISECOND)
#define PROBES 32
#define STANDARD_BASE_MS 100
#define STANDARD_CAP_MS 10000
#define FORGOTTEN_NS (600 * SECOND) /* without a failure */
#define WINDOW_LONGEST_NS (3600 * SECOND)

bool backoff_wanted(void)
{
    uint64_t range = segment_limit(service.segment, LIMIT_BACKOFF);
    if (range != BACKOFF_WITH_RETRIES)
        return range != LIMIT_OFF;
    return segment_limit(service.segment, LIMIT_CONNECT_RETRIES) != LIMIT_OFF;
}

bool backoff_may_pass(int error)
{
    return error == ECONNREFUSED || error == ECONNRESET || error == ETIMEDOUT ||
           error == EHOSTUNREACH || error == EAGAIN;
}

/* --- the schedule --- */

uint64_t backoff_draw(uint32_t retry)
{
    uint64_t range = segment_limit(service.segment, LIMIT_BACKOFF);
    if (range == LIMIT_OFF)
        return 0;
    uint64_t base = range == BACKOFF_WITH_RETRIES ? STANDARD_BASE_MS : range >> 32;
    uint64_t cap = range == BACKOFF_WITH_RETRIES ? STANDARD_CAP_MS : (uint32_t)range;
    return retry_jittered(retry_longest(base, cap, retry) * MILLISECOND,
                          (enum jitter)segment_limit(service.segment, LIMIT_JITTER), chance_up_to);
}

/* --- destinations --- */

struct key {
    uint64_t word[3];
};

/* FNV-1a: paths are told apart, not protected. */
static uint64_t hash(const char *bytes, size_t length, uint64_t seed)
{
    for (size_t i = 0; i < length; i++)
        seed = (seed ^ (uint8_t)bytes[i]) * UINT64_C(0x100000001b3);
    return seed;
}

/* False for an address that is too short to be one. */
static bool key_of(const struct sockaddr *address, socklen_t length, struct key *key)
{
    memset(key, 0, sizeof *key);
    if (address->sa_family == AF_INET && length >= sizeof(struct sockaddr_in)) {
        const struct sockaddr_in *in = (const void *)address;
        key->word[1] = ntohl(in->sin_addr.s_addr);
        key->word[2] = (uint64_t)AF_INET << 32 | ntohs(in->sin_port);
        return true;
    }
    if (address->sa_family == AF_INET6 && length >= offsetof(struct sockaddr_in6, sin6_scope_id)) {
        const struct sockaddr_in6 *in6 = (const void *)address;
        memcpy(key->word, &in6->sin6_addr, sizeof in6->sin6_addr);
        key->word[2] = (uint64_t)AF_INET6 << 32 | ntohs(in6->sin6_port);
        return true;
    }
    if (address->sa_family != AF_UNIX || length <= offsetof(struct sockaddr_un, sun_path))
        return false;
    const char *path = ((const struct sockaddr_un *)(const void *)address)->sun_path;
    size_t room = length - offsetof(struct sockaddr_un, sun_path);
    size_t used = path[0] ? strnlen(path, room) : room; /* unix(7): abstract names have no end */
    key->word[0] = hash(path, used, UINT64_C(0xcbf29ce484222325));
    key->word[1] = hash(path, used, UINT64_C(0x84222325cbf29ce4));
    key->word[2] = (uint64_t)AF_UNIX << 32;
    return true;
}

static struct segment_destination *at(int destination)
{
    return destination >= 0 && destination < SEGMENT_DESTINATIONS
               ? &service.segment->destination[destination]
               : NULL;
}

static bool is(const struct segment_destination *entry, const struct key *key)
{
    return atomic_load(&entry->state) == DESTINATION_USED &&
           atomic_load(&entry->key[0]) == key->word[0] &&
           atomic_load(&entry->key[1]) == key->word[1] &&
           atomic_load(&entry->key[2]) == key->word[2];
}

static bool may_be_taken(const struct segment_destination *entry, uint64_t state, uint64_t now)
{
    uint64_t failed = atomic_load(&entry->failed_ns);
    if (state == DESTINATION_USED)
        return failed + FORGOTTEN_NS <= now || failed > now;
    return state == DESTINATION_FREE || processes_judge(state) == LIVENESS_GONE;
}

/* Takes an entry that is free, or whose destination has not failed for long, or whose writer was
 * killed. */
static bool claim(struct segment_destination *entry, uint64_t self, uint64_t now)
{
    uint64_t state = atomic_load(&entry->state);
    return may_be_taken(entry, state, now) &&
           atomic_compare_exchange_strong(&entry->state, &state, self);
}

int backoff_destination(const struct sockaddr *address, socklen_t length)
{
    struct key key;
    char text[SEGMENT_DESTINATION_TEXT];
    uint64_t self = processes_self();
    if (!key_of(address, length, &key) ||
        !growth_reach(service.segment, GROWING_DESTINATIONS, SEGMENT_DESTINATIONS - 1))
        return -1;
    uint64_t mixed = key.word[0] * 3 + key.word[1] * 5 + key.word[2] * 7, now = monotonic_ns();
    uint32_t start = (uint32_t)(mixed * UINT64_C(0x9e3779b97f4a7c15) >> 40) % SEGMENT_DESTINATIONS;
    for (uint32_t i = 0; i < PROBES; i++)
        if (is(at((int)((start + i) % SEGMENT_DESTINATIONS)), &key))
            return (int)((start + i) % SEGMENT_DESTINATIONS);
    if (processes_judge(self) != LIVENESS_RUNS)
        return -1; /* it has no entry, so that nobody would know of its end */
    for (uint32_t i = 0; i < PROBES; i++) {
        int index = (int)((start + i) % SEGMENT_DESTINATIONS);
        struct segment_destination *entry = at(index);
        if (!claim(entry, self, now))
            continue;
        for (unsigned j = 0; j < 3; j++)
            atomic_store(&entry->key[j], key.word[j]);
        address_text(address, length, text, sizeof text);
        words_store(entry->address, text, sizeof text);
        atomic_store(&entry->failures, 0);
        atomic_store(&entry->until_ns, 0);
        atomic_store(&entry->failed_ns, now);
        atomic_store(&entry->state, DESTINATION_USED);
        return index;
    }
    return -1;
}

uint64_t backoff_window(int destination, int *error)
{
    struct segment_destination *entry = at(destination);
    if (!entry || !backoff_wanted())
        return 0;
    uint64_t until = atomic_load(&entry->until_ns), now = monotonic_ns();
    if (until <= now || until - now > WINDOW_LONGEST_NS)
        return 0;
    int last = (int)atomic_load(&entry->error);
    *error = backoff_may_pass(last) ? last : ECONNREFUSED;
    return until - now;
}

uint64_t backoff_draw_for(int destination)
{
    struct segment_destination *entry = at(destination);
    uint32_t failures = entry ? atomic_load(&entry->failures) : 1;
    return backoff_draw(failures ? failures - 1 : 0);
}

void backoff_failed(int destination, int error)
{
    struct segment_destination *entry = at(destination);
    if (!entry || !service_active() || !backoff_wanted())
        return;
    uint64_t now = monotonic_ns(), until = atomic_load(&entry->until_ns);
    atomic_store(&entry->error, (uint32_t)error);
    atomic_store(&entry->failed_ns, now);
    /* Many fail in one window: that is one failure of the destination. */
    if (until > now && until - now <= WINDOW_LONGEST_NS)
        return;
    uint32_t failures = atomic_load(&entry->failures);
    if (!atomic_compare_exchange_strong(&entry->until_ns, &until, now + backoff_draw(failures)))
        return;
    atomic_store(&entry->failures, failures < RETRY_DOUBLINGS_MOST ? failures + 1 : failures);
    if (failures == 0) {
        char text[SEGMENT_DESTINATION_TEXT];
        words_load(text, entry->address, sizeof text);
        text[sizeof text - 1] = '\0';
        service_event(EVENT_BACKOFF, (uint64_t)error, text);
    }
}

void backoff_succeeded(int destination)
{
    struct segment_destination *entry = at(destination);
    if (!entry || !service_active() || atomic_load(&entry->failures) == 0)
        return;
    atomic_store(&entry->failures, 0);
    atomic_store(&entry->until_ns, 0);
}

/* --- the budget: this process's own --- */

static struct retry_budget budget;

void backoff_connects(void)
{
    retry_budget_connects(&budget, monotonic_ns() / SECOND);
}

bool backoff_may_retry(void)
{
    return retry_budget_take(&budget, monotonic_ns() / SECOND,
                             segment_limit(service.segment, LIMIT_RETRY_BUDGET),
                             segment_limit(service.segment, LIMIT_CONNECT_RETRIES));
}
