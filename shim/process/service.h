/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The service that this process belongs to: its segment, and the process's own entry in it.
 */
#ifndef BACKPRESSURE_SERVICE_H
#define BACKPRESSURE_SERVICE_H

#include "base/internal.h"
#include "segment/segment.h"

#include <pthread.h>

/* Why ceilings on connections do not hold in this process. */
enum {
    SERVICE_DETACHED = 1,  /* and what was done to the program's listeners is not undone yet */
    SERVICE_SANDBOXED = 2, /* its seccomp filters forbid what they take: see sandbox.h */
};

struct service {
    struct segment *segment;
    _Atomic bool active;
    _Atomic uint32_t hindered; /* SERVICE_DETACHED and SERVICE_SANDBOXED */
    uint32_t self; /* index of this process; 0 is shared by those that found the table full */
    uint32_t pid;
    uint64_t pid_namespace, started; /* as in liveness.h */
    bool foreign_network;
};

extern INTERNAL struct service service;

/*
 * Not 0 while a vfork child runs on this thread's stack, in its parent's memory: what it does to
 * its own descriptors must not reach the parent's tables.
 */
extern _Thread_local int in_vfork_child __attribute__((tls_model("initial-exec")));

/* Whether the shim does anything at all here. False before it joined, and after it detached. */
static inline bool service_active(void)
{
    return atomic_load_explicit(&service.active, memory_order_relaxed);
}

static inline struct segment_process *service_self(void)
{
    return &service.segment->process[service.self];
}

static inline void service_count(enum counter counter, uint64_t amount)
{
    atomic_fetch_add_explicit(&service_self()->counter[counter], amount, memory_order_relaxed);
}

/* A limit as it holds for this process. */
static inline uint64_t service_limit(enum limit_key key)
{
    return segment_process_limit(service.segment, service_self(), key);
}

/* Records an event of this process. */
void service_event(enum event_kind kind, uint64_t amount, const char *text);

/* Joins the service that the environment names; on failure says so in one line and stays off.
 * Returns the descriptor of the segment's file, which the caller keeps, or -1. */
int service_start(void);

/*
 * Lets go of a segment that was damaged: private zeroes take its place, so that every later access
 * is harmless, and the program goes on without limits. Async-signal-safe. Says `why` once.
 * False when a seccomp filter forbids mmap: the segment's memory is still there, then.
 */
bool service_detach(const char *why);

/* Whether the service is active and its segment in order; lets go of one that was overwritten. */
static inline bool service_intact(void)
{
    if (!service_active())
        return false;
    if (__builtin_expect(segment_intact(service.segment), 1))
        return true;
    service_detach("its control segment was overwritten");
    return false;
}

/* Says that the segment's file lost its name, on stderr and as an event. */
void service_say_name_is_lost(void);

/* One line on stderr, `backpressure: ...`. Async-signal-safe. */
void service_say(const char *text, const char *detail);

#endif
