/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "fd/witness.h"

#include "base/proc.h"
#include "base/real.h"
#include "process/descriptors.h"
#include "segment/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>

#define LINE_MOST 128
#define CHUNK 4096

/* Whether the kernel lists what a set watches: tried once, for one that does not would have every
 * connection look as if nobody held it. */
enum ability { UNTRIED, ABLE, UNABLE };
static _Atomic int ability;

/* The set that goes on watching, and a number for it, new for each: 0 while there is none. */
static _Atomic int lasting = -1;
static _Atomic uint32_t lasting_number;

/* In it, so that a list shows whether the number still is that set's: a program may close what it
 * does not know of without the shim seeing it. */
static _Atomic int sentinel = -1;
#define SENTINEL_KEY UINT64_MAX

/* What this process watches: for each slot the number of the set and the generation, or 0. */
static _Atomic uint64_t watched[SEGMENT_CONNS];
static _Atomic uint32_t watched_end;

/* Of one look, one at a time: what was watched when it began, and which of that is listed. */
static uint64_t watched_before[SEGMENT_CONNS];
static bool listed[SEGMENT_CONNS], sentinel_listed;
static _Atomic bool looking;

static uint64_t key_of(uint32_t slot, uint32_t generation)
{
    return (uint64_t)generation << 32 | slot;
}

static int close_own(int fd)
{
    return fd >= 0 ? (int)kernel_call(SYS_close, fd) : 0;
}

static int open_list(int set)
{
    char path[PROC_PATH_MAX];
    proc_path(path, "/proc/thread-self/fdinfo/", (uint32_t)set, "");
    return (int)kernel_call(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
}

/* The key in a line as proc_pid_fdinfo(5) has it: "tfd: 5 events: 19 data: 7a42 ...". */
static bool key_in(const char *line, uint64_t *key)
{
    static const char label[] = "data:";
    const char *at = strncmp(line, "tfd:", 4) == 0 ? strstr(line, label) : NULL;
    if (!at)
        return false;
    *key = 0;
    for (at += sizeof label - 1; *at == ' '; at++)
        ;
    for (; (*at >= '0' && *at <= '9') || (*at >= 'a' && *at <= 'f'); at++)
        *key = *key << 4 | (uint64_t)(*at <= '9' ? *at - '0' : *at - 'a' + 10);
    return true;
}

/* Visits the keys of what the set lists; false when that could not be read to its end. The kernel
 * writes the whole list at once, while nothing in the set changes (fs/eventpoll.c, ep_show_fdinfo).
 */
static bool visit_list(int set, void (*visit)(uint64_t key, void *context), void *context)
{
    char chunk[CHUNK] = "", line[LINE_MOST + 1];
    unsigned length = 0;
    bool begun = false;
    long got;
    int list = open_list(set);

    if (list < 0)
        return false;
    while ((got = kernel_call(SYS_read, list, chunk, sizeof chunk)) > 0) {
        begun = true;
        for (long i = 0; i < got; i++) {
            uint64_t key;
            if (chunk[i] != '\n') {
                line[length] = chunk[i];
                length += length < LINE_MOST;
                continue;
            }
            line[length] = '\0';
            length = 0;
            if (key_in(line, &key))
                visit(key, context);
        }
    }
    close_own(list);
    return begun && got == 0;
}

static void note_found(uint64_t key, void *context)
{
    (void)key;
    *(bool *)context = true;
}

static int make_set(void)
{
    return atomic_load(&ability) == UNABLE ? -1
                                           : (int)kernel_call(SYS_epoll_create1, EPOLL_CLOEXEC);
}

/* Nothing is to be reported of it: what is watched is whether it is there. */
static bool add(int set, int fd, uint64_t key)
{
    struct epoll_event event = {.events = 0, .data.u64 = key};
    return kernel_call(SYS_epoll_ctl, set, EPOLL_CTL_ADD, fd, &event) == 0 || errno == EEXIST;
}

/* Keeps it where a program does not look for its own. */
static int own(int fd)
{
    fd = descriptor_move_high(fd);
    descriptor_put(fd, descriptor_make(DESCRIPTOR_OWN, 0, 0));
    return fd;
}

/* The set that goes on watching; -1 when there can be none. */
static int lasting_set(void)
{
    int before = atomic_load(&lasting), made, inside;
    if (before >= 0)
        return before;
    made = make_set();
    inside = make_set();
    if (made < 0 || inside < 0 || !add(made, inside, SENTINEL_KEY)) {
        close_own(made);
        close_own(inside);
        return -1;
    }
    made = own(made);
    /* The number first: no set is ever seen with that of one before it. */
    atomic_fetch_add(&lasting_number, 1);
    if (!atomic_compare_exchange_strong(&lasting, &before, made)) {
        descriptor_close_own(made);
        close_own(inside);
        return before;
    }
    descriptor_close_own(atomic_exchange(&sentinel, own(inside)));
    return made;
}

static uint64_t watch_word(uint32_t number, uint32_t generation)
{
    return (uint64_t)number << 32 | generation;
}

static void watch_lastingly(int fd, uint32_t slot, uint32_t generation)
{
    int set = lasting_set();
    uint32_t number = atomic_load(&lasting_number), end = atomic_load(&watched_end);
    if (set < 0 || descriptor_kind(descriptor_at(set)) != DESCRIPTOR_OWN ||
        !add(set, fd, key_of(slot, generation)))
        return;
    while (end <= slot && !atomic_compare_exchange_weak(&watched_end, &end, slot + 1))
        ;
    if (atomic_load(&lasting) == set && atomic_load(&lasting_number) == number)
        atomic_store(&watched[slot], watch_word(number, generation));
}

int witness_watch(int fd, uint32_t slot, uint32_t generation)
{
    bool found = false;
    int set = slot < SEGMENT_CONNS ? make_set() : -1;
    if (set < 0)
        return -1;
    if (!add(set, fd, key_of(slot, generation))) {
        close_own(set);
        return -1;
    }
    if (atomic_load(&ability) == UNTRIED && visit_list(set, note_found, &found))
        atomic_store(&ability, found ? ABLE : UNABLE);
    if (atomic_load(&ability) != ABLE) {
        close_own(set);
        return -1;
    }
    watch_lastingly(fd, slot, generation);
    return set;
}

void witness_drop(int set)
{
    close_own(set);
}

enum witness_answer witness_ask(int set)
{
    bool found = false;
    if (set < 0)
        return WITNESS_UNKNOWN;
    bool read = visit_list(set, note_found, &found);
    close_own(set);
    if (found)
        return WITNESS_HELD;
    return read ? WITNESS_GONE : WITNESS_UNKNOWN;
}

bool witness_watches(uint32_t slot, uint32_t generation)
{
    return slot < SEGMENT_CONNS && atomic_load(&lasting) >= 0 &&
           atomic_load(&watched[slot]) == watch_word(atomic_load(&lasting_number), generation);
}

static void note_listed(uint64_t key, void *context)
{
    (void)context;
    uint32_t slot = (uint32_t)key;
    if (key == SENTINEL_KEY)
        sentinel_listed = true;
    else if (slot < SEGMENT_CONNS && (uint32_t)watched_before[slot] == key >> 32)
        listed[slot] = true;
}

/* What begins to be watched meanwhile has another word then, and is left to the next look. */
static bool look_at(int set, uint32_t end)
{
    for (uint32_t slot = 0; slot < end; slot++) {
        watched_before[slot] = atomic_load(&watched[slot]);
        listed[slot] = false;
    }
    sentinel_listed = false;
    if (!visit_list(set, note_listed, NULL))
        return false;
    if (!sentinel_listed)
        witness_forget(set); /* the number is another file's */
    return sentinel_listed;
}

void witness_look(void (*gone)(uint32_t slot, uint32_t generation))
{
    uint32_t end = atomic_load(&watched_end), number = atomic_load(&lasting_number);
    int set = atomic_load(&lasting);
    if (set < 0 || atomic_exchange(&looking, true))
        return;
    bool looked = look_at(set, end) && atomic_load(&lasting_number) == number;
    for (uint32_t slot = 0; slot < end && looked; slot++) {
        uint64_t word = watched_before[slot];
        if (word >> 32 != number || listed[slot] ||
            !atomic_compare_exchange_strong(&watched[slot], &word, 0))
            continue;
        gone(slot, (uint32_t)word);
    }
    atomic_store(&looking, false);
}

void witness_forget(int fd)
{
    int expected = fd;
    atomic_compare_exchange_strong(&lasting, &expected, -1);
}

void witness_after_fork_in_child(void)
{
    atomic_store(&looking, false);
}
