/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "services.h"

#include "commands.h"
#include "nameless.h"
#include "truncation.h"

#include "../shim/process/joining.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHARED_MEMORY "/dev/shm"
#define DIRECTORY_PREFIX "backpressure."

const char *segment_result_text(enum segment_result result)
{
    switch (result) {
    case SEGMENT_OK:
        return "in order";
    case SEGMENT_ABSENT:
        return "no such service";
    case SEGMENT_DENIED:
        return "not accessible to this user";
    case SEGMENT_DAMAGED:
        return "its control segment is truncated or overwritten";
    case SEGMENT_OTHER_VERSION:
        return "its control segment was made by another version of the shim";
    default:
        return strerror(errno);
    }
}

static bool open_nameless(const char *name, bool any_owner, uid_t owner,
                          struct service_file *service)
{
    struct nameless_wanted wanted = {.name = name, .any_owner = any_owner, .owner = owner};
    return nameless_find(&wanted, service);
}

static enum segment_result open_in(const char *directory, uid_t owner, const char *name,
                                   struct service_file *service)
{
    memset(service, 0, sizeof *service);
    service->fd = -1;
    service->owner = owner;
    snprintf(service->name, sizeof service->name, "%s", name);
    if ((size_t)snprintf(service->path, sizeof service->path, "%s/%s", directory, name) >=
        sizeof service->path)
        return SEGMENT_ABSENT;
    enum segment_result result = segment_open(service->path, &service->segment, &service->fd);
    if (result == SEGMENT_OK)
        truncation_mapped(service->segment);
    return result;
}

/* Calls `visit` with each directory of segments: the caller's own first. */
static void each_directory(void (*visit)(const char *directory, uid_t owner, void *context),
                           void *context)
{
    char own[SEGMENT_PATH_MAX], path[SEGMENT_PATH_MAX];
    bool chosen = secure_getenv("BACKPRESSURE_DIR") != NULL;

    if (segment_directory(geteuid(), false, own, sizeof own) == SEGMENT_OK)
        visit(own, geteuid(), context);
    DIR *directory = chosen ? NULL : opendir(SHARED_MEMORY);
    if (!directory)
        return;
    for (struct dirent *entry; (entry = readdir(directory));) {
        char *end;
        struct stat status;
        if (strncmp(entry->d_name, DIRECTORY_PREFIX, strlen(DIRECTORY_PREFIX)) != 0)
            continue;
        unsigned long owner = strtoul(entry->d_name + strlen(DIRECTORY_PREFIX), &end, 10);
        if (*end || owner == geteuid())
            continue;
        snprintf(path, sizeof path, "%s/%.200s", SHARED_MEMORY, entry->d_name);
        if (lstat(path, &status) == 0 && S_ISDIR(status.st_mode) && status.st_uid == owner &&
            !(status.st_mode & 022) && access(path, R_OK | X_OK) == 0)
            visit(path, (uid_t)owner, context);
    }
    closedir(directory);
}

struct search {
    const char *name;
    struct service_file *service;
    enum segment_result result;
};

enum activity { ACTIVITY_ENDED, ACTIVITY_LIVES, ACTIVITY_AT_WORK };

/* A launcher that changes the user and executes the server (su, start-stop-daemon) leaves a service
 * of its own user behind, in which nobody listens or connects. */
static enum activity activity_of(const struct service_file *service)
{
    const struct segment *segment = service->segment;
    struct onlooker onlooker = service_onlooker(service);
    uint32_t used = atomic_load(&segment->processes_used);
    bool lives = false, connects = false;
    for (uint32_t i = 0; i < used && i < SEGMENT_PROCESSES; i++) {
        if (liveness_of_entry(segment, i, &onlooker) == LIVENESS_GONE)
            continue;
        lives = true;
        connects |= atomic_load(&segment->process[i].counter[COUNTER_CONNECTS]) > 0;
    }
    if (!lives)
        return ACTIVITY_ENDED;
    bool serves = atomic_load(&segment->listeners_used) > 0 || gauge_count(&segment->conns) > 0;
    return serves || connects ? ACTIVITY_AT_WORK : ACTIVITY_LIVES;
}

/* The caller's own comes first, but for another's at work under the name when the own one is not.
 */
static void look_in(const char *directory, uid_t owner, void *context)
{
    struct search *search = context;
    struct service_file found;
    enum segment_result result = open_in(directory, owner, search->name, &found);
    bool better = search->result != SEGMENT_OK ||
                  (result == SEGMENT_OK && activity_of(&found) > activity_of(search->service));
    if (result == SEGMENT_ABSENT || !better) {
        service_close(&found);
        return;
    }
    if (search->result == SEGMENT_OK)
        service_close(search->service);
    *search->service = found;
    search->result = result;
}

bool service_open(const char *name, struct service_file *service)
{
    struct search search = {name, service, SEGMENT_ABSENT};
    if (!limits_name_valid(name)) {
        complain(EXIT_FAILED, "%.80s: not a service name", name);
        return false;
    }
    each_directory(look_in, &search);
    bool ended = search.result != SEGMENT_OK || activity_of(service) == ACTIVITY_ENDED;
    struct service_file lost;
    if (ended && open_nameless(name, true, 0, &lost)) {
        if (search.result == SEGMENT_OK)
            service_close(service);
        *service = lost;
        return true;
    }
    if (search.result == SEGMENT_OK)
        return true;
    if (search.result == SEGMENT_ABSENT)
        complain(EXIT_FAILED, "%s: no such service; `bpctl ls` lists those there are", name);
    else
        complain(EXIT_FAILED, "%s: %s (%s)", name, segment_result_text(search.result),
                 service->path);
    return false;
}

struct owned {
    struct search search;
    uid_t owner;
};

static void look_for_owner(const char *directory, uid_t owner, void *context)
{
    struct owned *owned = context;
    struct search *search = &owned->search;
    if (owner != owned->owner || search->result == SEGMENT_OK)
        return;
    search->result = open_in(directory, owner, search->name, search->service);
    if (search->result != SEGMENT_OK)
        service_close(search->service);
}

bool service_open_of(const char *name, uid_t owner, struct service_file *service)
{
    struct owned owned = {{name, service, SEGMENT_ABSENT}, owner};
    if (limits_name_valid(name))
        each_directory(look_for_owner, &owned);
    return owned.search.result == SEGMENT_OK || open_nameless(name, false, owner, service);
}

struct visiting {
    void (*visit)(struct service_file *service, enum segment_result result, void *context);
    void *context;
};

static void visit_directory(const char *path, uid_t owner, void *context)
{
    const struct visiting *visiting = context;
    struct dirent **names;
    int count = scandir(path, &names, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        struct service_file service;
        const char *name = names[i]->d_name;
        if (limits_name_valid(name) && strstr(name, ".new") == NULL) {
            enum segment_result result = open_in(path, owner, name, &service);
            visiting->visit(&service, result, visiting->context);
            service_close(&service);
        }
        free(names[i]);
    }
    if (count >= 0)
        free(names);
}

void services_each(void (*visit)(struct service_file *, enum segment_result, void *), void *context)
{
    struct visiting visiting = {visit, context};
    each_directory(visit_directory, &visiting);
    nameless_each(visit, context);
}

void service_watch(const struct service_file *service)
{
    struct segment *segment = service->segment;
    uint64_t now = monotonic_ns();
    uint64_t until = atomic_exchange(&segment->timed_until_ns, now + SEGMENT_WATCH_NS);
    uint32_t used = atomic_load(&segment->processes_used);
    bool at_work = until > now && until - now <= SEGMENT_WATCH_NS;
    for (uint32_t i = 0; !at_work && i < used && i < SEGMENT_PROCESSES; i++)
        atomic_fetch_add(&segment->process[i].override_sequence, 1);
}

/* The directory's lock keeps a service from starting in this file meanwhile; -1 without it. */
static int lock_directory_of(const struct service_file *service)
{
    char directory[SEGMENT_PATH_MAX];
    snprintf(directory, sizeof directory, "%s", service->path);
    *strrchr(directory, '/') = '\0';
    return segment_lock_directory(directory);
}

/* A write lease is granted on a file that nobody else has open or mapped: fcntl(2). */
bool service_clear_unused(const struct service_file *service)
{
    struct stat status;
    int lock = lock_directory_of(service);
    if (lock < 0)
        return false;
    int fd = open(service->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    bool cleared = fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode) &&
                   fcntl(fd, F_SETLEASE, F_WRLCK) == 0 && unlink(service->path) == 0;
    if (fd >= 0)
        close(fd);
    close(lock);
    return cleared;
}

void service_clear(const struct service_file *service)
{
    struct stat now, seen;
    int lock = lock_directory_of(service);
    if (lock < 0)
        return;
    if (service_processes(service) == 0 && lstat(service->path, &now) == 0 &&
        fstat(service->fd, &seen) == 0 && now.st_ino == seen.st_ino && now.st_dev == seen.st_dev)
        unlink(service->path);
    close(lock);
}

void clean_text(const _Atomic uint64_t *words, size_t length, char *out, size_t size)
{
    char raw[256];
    size_t used = length < sizeof raw ? length : sizeof raw, end = 0;
    words_load(raw, words, used);
    while (end < used && end + 1 < size && raw[end]) {
        out[end] = raw[end] >= ' ' && raw[end] <= '~' ? raw[end] : '?';
        end++;
    }
    out[end] = '\0';
}

uint64_t shed_in_all(const uint64_t counter[COUNTERS])
{
    return counter[COUNTER_SHED_BUSY] + counter[COUNTER_SHED_RESET] + counter[COUNTER_SHED_LATE];
}

uint64_t requests_shed_in_all(const uint64_t counter[COUNTERS])
{
    return counter[COUNTER_REQUESTS_SHED_BUSY] + counter[COUNTER_REQUESTS_SHED_RESET] +
           counter[COUNTER_REQUESTS_SHED_LATE];
}

bool requests_concern(const struct service_view *view)
{
    static const enum limit_key keys[] = {LIMIT_REQUESTS, LIMIT_TOTAL_REQUESTS, LIMIT_REQUEST_RATE};
    if (view->totals[COUNTER_REQUESTS_BEGUN] || requests_shed_in_all(view->totals))
        return true;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (view->limits.value[keys[i]] != LIMIT_OFF)
            return true;
    for (unsigned i = 0; i < view->processes; i++)
        if (limit_of_process(view, &view->process[i], LIMIT_REQUESTS) != LIMIT_OFF)
            return true;
    return false;
}

void owner_name(uid_t owner, char *out, size_t size)
{
    const struct passwd *user = getpwuid(owner);
    if (user)
        snprintf(out, size, "%s", user->pw_name);
    else
        snprintf(out, size, "%u", owner);
}

static const char *obstacle(int error)
{
    return error == ENOENT ? "its modules, or it, are missing" : strerror(error);
}

const char *blindness(const struct service_view *view, char *out, size_t size)
{
    if (view->sockdiag_error == 0)
        return NULL;
    if (view->holdings_error == 0)
        snprintf(out, size,
                 "sock_diag cannot be asked (%s): what was closed unseen is looked for in /proc",
                 obstacle(view->sockdiag_error));
    else
        snprintf(out, size,
                 "neither sock_diag (%s) nor /proc (%s) can be asked: what other programs inherit "
                 "is not counted",
                 obstacle(view->sockdiag_error), obstacle(view->holdings_error));
    return out;
}

const char *counter_name(unsigned counter)
{
#define COUNTER(id, name, kind) [COUNTER_##id] = name,
    static const char *const names[COUNTERS] = {
#include "../shim/segment/counters.def"
    };
#undef COUNTER
    return counter < COUNTERS ? names[counter] : NULL;
}

const char *admission_name(enum admission_switch admission)
{
    static const char *const names[] = {
        [ADMISSION_OPEN] = "open",
        [ADMISSION_PAUSED] = "paused",
        [ADMISSION_DRAINING] = "draining",
    };
    _Static_assert(sizeof names / sizeof *names == ADMISSION_SWITCHES, "a name each");
    return admission < ADMISSION_SWITCHES ? names[admission] : "?";
}
