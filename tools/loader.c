/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "loader.h"

#include "probe.skel.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#define BPFFS "/sys/fs/bpf"
#define BPFFS_MAGIC 0xcafe4a11 /* statfs(2): BPF_FS_MAGIC */
#define RECORDS_AT_ONCE 256
/* The oldest kernel on which it was seen to load and to agree with ss; 5.10 refuses it. */
#define LEAST_MAJOR 5
#define LEAST_MINOR 15

static const char *const pins[] = {"depth", "accept_wait", "sockets"};

struct loader {
    struct probe *skeleton;
    struct bpf_link *walk, *table;
    const char *missing[LOADER_FIGURES + 1];
};

bool loader_built(void)
{
    return true;
}

/* Programs that a kernel may lack, and what is not known without them. */
struct optional {
    const char *figure;
    size_t program, link; /* offsets in the skeleton */
};

#define OPTIONAL(member, text)                                                                     \
    {                                                                                              \
        text, offsetof(struct probe, progs.member), offsetof(struct probe, links.member)           \
    }
enum { ESTABLISHED, ACCEPT4, ACCEPT, DROPPED };
static const struct optional optionals[] = {
    OPTIONAL(connection_established, "accept wait, accept-queue peak between walks"),
    OPTIONAL(accept4_returned, "accept wait (accept4)"),
    OPTIONAL(accept_returned, "accept wait (accept)"),
    OPTIONAL(segment_dropped, "SYNs refused by the gate, apart from other drops"),
};
_Static_assert(sizeof optionals / sizeof *optionals == LOADER_FIGURES, "a program each");

static struct bpf_program *program_of(struct probe *skeleton, const struct optional *optional)
{
    return *(struct bpf_program **)(void *)((char *)skeleton + optional->program);
}

static struct bpf_link **link_of(struct probe *skeleton, const struct optional *optional)
{
    return (struct bpf_link **)(void *)((char *)skeleton + optional->link);
}

static int fail(char *why, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int fail(char *why, size_t size, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, size, format, arguments);
    va_end(arguments);
    return -1;
}

static int quiet(enum libbpf_print_level level, const char *format, va_list arguments)
{
    if (getenv("BPCTL_DEBUG"))
        return vfprintf(stderr, format, arguments);
    (void)level;
    return 0;
}

/* perf finds the tracepoints of system calls there; without it, only their figures are missing. */
static void prepare_tracefs(void)
{
    if (access("/sys/kernel/tracing/events", F_OK) != 0 &&
        access("/sys/kernel/debug/tracing/events", F_OK) != 0)
        (void)!mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, NULL);
}

static int prepare_bpffs(char *why, size_t size)
{
    struct statfs status;
    if (statfs(BPFFS, &status) < 0)
        return fail(why, size, BPFFS ": %s; this kernel has no bpf file system", strerror(errno));
    if ((unsigned long)status.f_type != BPFFS_MAGIC && mount("bpf", BPFFS, "bpf", 0, "mode=0700"))
        return fail(why, size, BPFFS ": bpffs is not mounted, and cannot be: %s", strerror(errno));
    if (mkdir(PROBE_DIRECTORY, 0755) < 0 && errno != EEXIST)
        return fail(why, size, PROBE_DIRECTORY ": %s", strerror(errno));
    return 0;
}

unsigned loader_clear_pins(void)
{
    unsigned count = 0;
    for (size_t i = 0; i < sizeof pins / sizeof *pins; i++) {
        char path[128];
        snprintf(path, sizeof path, PROBE_DIRECTORY "/%s", pins[i]);
        count += unlink(path) == 0;
    }
    rmdir(PROBE_DIRECTORY);
    return count;
}

/* Whether the program's signature is one that this kernel's tracepoint has. */
static bool kernel_gives_drop_reasons(void)
{
    struct btf *btf = btf__load_vmlinux_btf();
    bool gives = btf && btf__find_by_name_kind(btf, "skb_drop_reason", BTF_KIND_ENUM) > 0;
    btf__free(btf);
    return gives;
}

static bool loads(bool *wanted)
{
    struct probe *trial = probe__open();
    bool loaded = trial != NULL;
    for (size_t i = 0; loaded && i < LOADER_FIGURES; i++)
        bpf_program__set_autoload(program_of(trial, &optionals[i]), wanted[i]);
    loaded = loaded && probe__load(trial) == 0;
    int error = errno;
    probe__destroy(trial);
    errno = error;
    return loaded;
}

/* Leaves out, one by one, what the kernel does not take. False when it takes not even the rest. */
static bool find_out_what_loads(bool *wanted)
{
    for (size_t i = 0; i < LOADER_FIGURES; i++)
        wanted[i] = true;
    wanted[DROPPED] = kernel_gives_drop_reasons();
    if (loads(wanted))
        return true;
    bool none[LOADER_FIGURES] = {false};
    if (!loads(none))
        return false;
    for (size_t i = 0; i < LOADER_FIGURES; i++) {
        bool alone[LOADER_FIGURES] = {false};
        alone[i] = wanted[i];
        wanted[i] = wanted[i] && loads(alone);
    }
    return true;
}

void loader_trace_accepts(struct loader *loader, bool on)
{
    struct probe *skeleton = loader->skeleton;
    for (size_t i = ACCEPT4; i <= ACCEPT; i++) {
        struct bpf_link **link = link_of(skeleton, &optionals[i]);
        struct bpf_program *program = program_of(skeleton, &optionals[i]);
        if (on && !*link && bpf_program__fd(program) >= 0) {
            *link = bpf_program__attach(program);
        } else if (!on) {
            bpf_link__destroy(*link);
            *link = NULL;
        }
    }
}

static int attach(struct loader *loader, const bool *wanted, char *why, size_t size)
{
    struct probe *skeleton = loader->skeleton;
    size_t missing = 0;
    for (size_t i = 0; i < LOADER_FIGURES; i++) {
        struct bpf_link *link =
            wanted[i] ? bpf_program__attach(program_of(skeleton, &optionals[i])) : NULL;
        if (link)
            *link_of(skeleton, &optionals[i]) = link;
        else
            loader->missing[missing++] = optionals[i].figure;
    }
    loader_trace_accepts(loader, false);
    loader->walk = bpf_program__attach_iter(skeleton->progs.measure, NULL);
    loader->table = bpf_program__attach_iter(skeleton->progs.sockets, NULL);
    if (!loader->walk || !loader->table)
        return fail(why, size, "this kernel does not let an iterator over task files run: %s",
                    strerror(errno));
    return 0;
}

static int pin(struct loader *loader, char *why, size_t size)
{
    if (bpf_map__pin(loader->skeleton->maps.depth, PROBE_DIRECTORY "/depth") ||
        bpf_map__pin(loader->skeleton->maps.accept_wait, PROBE_DIRECTORY "/accept_wait") ||
        bpf_link__pin(loader->table, PROBE_DIRECTORY "/sockets"))
        return fail(why, size, PROBE_DIRECTORY ": cannot pin: %s", strerror(errno));
    return 0;
}

/* Distributions take parts of later kernels into theirs: it was tried before this is asked. */
static bool too_old(const char *release)
{
    unsigned major = 0, minor = 0;
    return sscanf(release, "%u.%u", &major, &minor) == 2 &&
           (major < LEAST_MAJOR || (major == LEAST_MAJOR && minor < LEAST_MINOR));
}

/* The kernel took not even the least of the probe. */
static int refused(int error, char *why, size_t size)
{
    struct utsname kernel = {.release = "?"};
    uname(&kernel);
    if (too_old(kernel.release))
        return fail(why, size, "the probe needs Linux %d.%d or later, and this is Linux %s (%s)",
                    LEAST_MAJOR, LEAST_MINOR, kernel.release, strerror(error));
    if (error == EPERM || error == EACCES)
        return fail(why, size,
                    "this kernel refuses the probe: %s; CAP_BPF, CAP_PERFMON or CAP_NET_ADMIN is "
                    "missing, or it is locked down (BPCTL_DEBUG=1 tells more)",
                    strerror(error));
    return fail(why, size,
                "this kernel (Linux %s) refuses the probe: %s (BPCTL_DEBUG=1 tells more)",
                kernel.release, strerror(error));
}

static int bring_up(struct loader *loader, char *why, size_t size)
{
    bool wanted[LOADER_FIGURES];
    if (geteuid() != 0)
        return fail(why, size,
                    "loading the probe needs root (CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN)");
    if (access("/sys/kernel/btf/vmlinux", R_OK) != 0)
        return fail(
            why, size,
            "this kernel has no BTF (/sys/kernel/btf/vmlinux); the probe needs Linux %d.%d or "
            "later, built with CONFIG_DEBUG_INFO_BTF",
            LEAST_MAJOR, LEAST_MINOR);
    if (prepare_bpffs(why, size) < 0)
        return -1;
    prepare_tracefs();
    if (!find_out_what_loads(wanted))
        return refused(errno, why, size);
    loader->skeleton = probe__open();
    for (size_t i = 0; loader->skeleton && i < LOADER_FIGURES; i++)
        bpf_program__set_autoload(program_of(loader->skeleton, &optionals[i]), wanted[i]);
    if (!loader->skeleton || probe__load(loader->skeleton))
        return refused(errno, why, size);
    if (attach(loader, wanted, why, size) < 0)
        return -1;
    return pin(loader, why, size);
}

struct loader *loader_start(char *why, size_t size)
{
    struct loader *loader = calloc(1, sizeof *loader);
    libbpf_set_print(quiet);
    if (!loader) {
        fail(why, size, "out of memory");
        return NULL;
    }
    if (bring_up(loader, why, size) < 0) {
        loader_stop(loader);
        return NULL;
    }
    return loader;
}

void loader_stop(struct loader *loader)
{
    if (loader->table)
        loader_clear_pins();
    bpf_link__destroy(loader->walk);
    bpf_link__destroy(loader->table);
    probe__destroy(loader->skeleton);
    free(loader);
}

const char *const *loader_missing(const struct loader *loader)
{
    return loader->missing;
}

bool loader_walk(struct loader *loader, void (*visit)(const struct socket_record *, void *),
                 void *context)
{
    static struct socket_record records[RECORDS_AT_ONCE];
    size_t have = 0;
    ssize_t got;
    int fd = bpf_iter_create(bpf_link__fd(loader->walk));
    if (fd < 0)
        return false;
    while ((got = read(fd, (char *)records + have, sizeof records - have)) > 0 ||
           (got < 0 && (errno == EINTR || errno == EAGAIN))) {
        if (got < 0)
            continue;
        have += (size_t)got;
        size_t whole = have / sizeof *records;
        for (size_t i = 0; i < whole; i++)
            visit(&records[i], context);
        have -= whole * sizeof *records;
        memmove(records, &records[whole], have);
    }
    close(fd);
    return got == 0;
}

union any_key {
    struct depth_key depth;
    struct accept_wait_key wait;
    struct listening_key listening;
};

union any_value {
    struct depth depth;
    struct accept_wait wait;
    struct listening listening;
};

#define ENTRIES_MOST                                                                               \
    (1U << 17) /* more than any map holds: a walk that started over comes to an end */

/* Goes through a hash map; `visit` may have the current entry removed. */
static void each(int map, bool (*visit)(const void *key, const void *value, void *context),
                 void *context)
{
    union any_key here, next;
    union any_value value;
    bool more = bpf_map_get_next_key(map, NULL, &here) == 0;
    for (unsigned i = 0; more && i < ENTRIES_MOST; i++) {
        bool remove = bpf_map_lookup_elem(map, &here, &value) == 0 && visit(&here, &value, context);
        /* Before it goes: after a key that is not there the kernel starts over. */
        more = bpf_map_get_next_key(map, &here, &next) == 0;
        if (remove)
            bpf_map_delete_elem(map, &here);
        here = next;
    }
}

struct wait_visit {
    bool (*visit)(const struct accept_wait_key *, const struct accept_wait *, void *);
    void *context;
};

static bool visit_wait(const void *key, const void *value, void *context)
{
    const struct wait_visit *what = context;
    return what->visit(key, value, what->context);
}

void loader_each_wait(struct loader *loader,
                      bool (*visit)(const struct accept_wait_key *, const struct accept_wait *,
                                    void *),
                      void *context)
{
    struct wait_visit what = {visit, context};
    each(bpf_map__fd(loader->skeleton->maps.accept_wait), visit_wait, &what);
}

bool loader_listening(struct loader *loader, const struct listening_key *key, __u64 socket,
                      struct listening *out)
{
    int map = bpf_map__fd(loader->skeleton->maps.listening);
    if (bpf_map_lookup_elem(map, key, out) == 0 && out->socket == socket)
        return true;
    *out = (struct listening){.socket = socket};
    bpf_map_update_elem(map, key, out, BPF_ANY);
    return false;
}

struct keep {
    bool (*listening)(const struct listening_key *, void *);
    bool (*depth)(const struct depth_key *, void *);
    void *context;
};

static bool unwanted_listening(const void *key, const void *value, void *context)
{
    const struct keep *keep = context;
    (void)value;
    return !keep->listening(key, keep->context);
}

void loader_forget_listening(struct loader *loader,
                             bool (*keep)(const struct listening_key *, void *), void *context)
{
    struct keep what = {.listening = keep, .context = context};
    each(bpf_map__fd(loader->skeleton->maps.listening), unwanted_listening, &what);
}

void loader_publish(struct loader *loader, const struct depth_key *key, const struct depth *depth)
{
    bpf_map_update_elem(bpf_map__fd(loader->skeleton->maps.depth), key, depth, BPF_ANY);
}

static bool unwanted_depth(const void *key, const void *value, void *context)
{
    const struct keep *keep = context;
    (void)value;
    return !keep->depth(key, keep->context);
}

void loader_prune(struct loader *loader, bool (*keep)(const struct depth_key *, void *),
                  void *context)
{
    struct keep what = {.depth = keep, .context = context};
    each(bpf_map__fd(loader->skeleton->maps.depth), unwanted_depth, &what);
}

struct depth_visit {
    void (*visit)(const struct depth_key *, const struct depth *, void *);
    void *context;
};

static bool visit_depth(const void *key, const void *value, void *context)
{
    const struct depth_visit *what = context;
    what->visit(key, value, what->context);
    return false;
}

int loader_read_depth(void (*visit)(const struct depth_key *, const struct depth *, void *),
                      void *context)
{
    struct depth_visit what = {visit, context};
    struct bpf_map_info info = {0};
    __u32 length = sizeof info;
    int map = bpf_obj_get(PROBE_DIRECTORY "/depth");
    if (map < 0)
        return -1;
    /* Another version's map is none of ours. */
    if (bpf_obj_get_info_by_fd(map, &info, &length) < 0 ||
        info.key_size != sizeof(struct depth_key) || info.value_size != sizeof(struct depth)) {
        close(map);
        errno = ENOENT;
        return -1;
    }
    each(map, visit_depth, &what);
    close(map);
    return 0;
}
