/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "loader.h"

#include <errno.h>
#include <stdio.h>

bool loader_built(void)
{
    return false;
}

struct loader *loader_start(char *why, size_t size)
{
    snprintf(why, size,
             "this bpctl was built without the probe (clang, bpftool or libbpf-dev was missing)");
    return NULL;
}

void loader_stop(struct loader *loader)
{
    (void)loader;
}

unsigned loader_clear_pins(void)
{
    return 0;
}

const char *const *loader_missing(const struct loader *loader)
{
    static const char *const none[] = {NULL};
    (void)loader;
    return none;
}

void loader_trace_accepts(struct loader *loader, bool on)
{
    (void)loader;
    (void)on;
}

bool loader_walk(struct loader *loader, void (*visit)(const struct socket_record *, void *),
                 void *context)
{
    (void)loader;
    (void)visit;
    (void)context;
    return false;
}

void loader_each_wait(struct loader *loader,
                      bool (*visit)(const struct accept_wait_key *, const struct accept_wait *,
                                    void *),
                      void *context)
{
    (void)loader;
    (void)visit;
    (void)context;
}

bool loader_listening(struct loader *loader, const struct listening_key *key, __u64 socket,
                      struct listening *out)
{
    (void)loader;
    (void)key;
    (void)socket;
    (void)out;
    return false;
}

void loader_forget_listening(struct loader *loader,
                             bool (*keep)(const struct listening_key *, void *), void *context)
{
    (void)loader;
    (void)keep;
    (void)context;
}

void loader_publish(struct loader *loader, const struct depth_key *key, const struct depth *depth)
{
    (void)loader;
    (void)key;
    (void)depth;
}

void loader_prune(struct loader *loader, bool (*keep)(const struct depth_key *, void *),
                  void *context)
{
    (void)loader;
    (void)keep;
    (void)context;
}

int loader_read_depth(void (*visit)(const struct depth_key *, const struct depth *, void *),
                      void *context)
{
    (void)visit;
    (void)context;
    errno = ENOENT;
    return -1;
}
