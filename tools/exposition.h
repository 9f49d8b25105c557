/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The services as metrics: OpenMetrics 1.0, or the text format that Prometheus had before it, in
 * which a counter's family is called like its samples, and which promtool and the textfile
 * collector read. Both end in `# EOF`, so that a page that was cut is seen.
 *
 * Names, base units and suffixes follow prometheus.io/docs/practices/naming.
 */
#ifndef BPCTL_EXPOSITION_H
#define BPCTL_EXPOSITION_H

#include <stdbool.h>
#include <stddef.h>

#define OPENMETRICS_TYPE "application/openmetrics-text; version=1.0.0; charset=utf-8"
#define PROMETHEUS_TYPE "text/plain; version=0.0.4; charset=utf-8"

/*
 * All services that the caller may read, as text that the caller frees; `size` gets its length.
 * NULL when memory is short. Looking makes the services time their answers for some minutes.
 */
char *exposition(bool openmetrics, size_t *size);

#endif
