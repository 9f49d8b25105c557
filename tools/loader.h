/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The eBPF probe as bpctl sees it: loading and pinning it, walking the sockets, reading its maps.
 * loader_absent.c stands in when bpctl was built without clang, bpftool or libbpf.
 */
#ifndef BPCTL_LOADER_H
#define BPCTL_LOADER_H

#include "../bpf/probe.h"

#include <stdbool.h>
#include <stddef.h>

#define LOADER_WHY 256
#define LOADER_FIGURES 4 /* programs that a kernel may lack */

struct loader;

/* Whether the probe is in this bpctl. */
bool loader_built(void);

/*
 * Loads and attaches the probe and pins `depth`, `accept_wait` and `sockets`, mounting bpffs if
 * need be. NULL, with one line in `why`, when that cannot be. Ended with loader_stop, which unpins.
 */
struct loader *loader_start(char *why, size_t size);
void loader_stop(struct loader *loader);

/* Removes pins that nobody stands behind any more; how many there were. */
unsigned loader_clear_pins(void);

/* The names of the figures that this kernel does not give, NULL-terminated. */
const char *const *loader_missing(const struct loader *loader);

/* Traces accept, for the waits, or stops doing so: it costs every system call on the machine a
 * little. */
void loader_trace_accepts(struct loader *loader, bool on);

/* Visits every stream socket of every process once. False when the walk broke off. */
bool loader_walk(struct loader *loader, void (*visit)(const struct socket_record *, void *),
                 void *context);

/* Visits all of a map's entries; the visitor may have the current one removed by returning true. */
void loader_each_wait(struct loader *loader,
                      bool (*visit)(const struct accept_wait_key *, const struct accept_wait *,
                                    void *),
                      void *context);

/* What the programs counted for a listening socket, which they learn of by this; false: nothing
 * yet. */
bool loader_listening(struct loader *loader, const struct listening_key *key, __u64 socket,
                      struct listening *out);
void loader_forget_listening(struct loader *loader,
                             bool (*keep)(const struct listening_key *, void *), void *context);

/* Publishes one entry of `depth`; removes those that `keep` does not want. */
void loader_publish(struct loader *loader, const struct depth_key *key, const struct depth *depth);
void loader_prune(struct loader *loader, bool (*keep)(const struct depth_key *, void *),
                  void *context);

/*
 * Reads the pinned map `depth`. 0; or -1, with errno ENOENT when it is not pinned, EPERM or EACCES
 * when the caller may not.
 */
int loader_read_depth(void (*visit)(const struct depth_key *, const struct depth *, void *),
                      void *context);

#endif
