/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "exposition.h"

#include "pids.h"
#include "services.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum metric_type { GAUGE, COUNTER, HISTOGRAM };

struct service {
    char name[SERVICE_NAME_MAX];
    char user[64];
    struct service_view *view;
};

struct page {
    FILE *out;
    bool openmetrics;
    struct service *service;
    unsigned services, room;
};

struct family {
    const char *name; /* without _total */
    const char *unit; /* the name ends in it; NULL: none */
    enum metric_type type;
    const char *help;
    void (*samples)(const struct page *page, const struct family *family,
                    const struct service *service);
    unsigned what; /* a counter, or a limit's unit */
};

/* --- lines --- */

/* A label's value: OpenMetrics escapes these three, and a view has printable ASCII only. */
static void put_label(const struct page *page, const char *name, const char *value)
{
    fprintf(page->out, ",%s=\"", name);
    for (; *value; value++) {
        if (*value == '"' || *value == '\\')
            fputc('\\', page->out);
        fputc(*value, page->out);
    }
    fputc('"', page->out);
}

static void begin(const struct page *page, const struct family *family, const char *suffix,
                  const struct service *service)
{
    fprintf(page->out, "backpressure_%s%s{service=\"%s\"", family->name, suffix, service->name);
    put_label(page, "user", service->user);
}

static void end(const struct page *page, double value)
{
    fprintf(page->out, "} %.15g\n", value);
}

static void put(const struct page *page, const struct family *family, const char *suffix,
                const struct service *service, double value)
{
    begin(page, family, suffix, service);
    end(page, value);
}

/* --- samples --- */

static void put_info(const struct page *page, const struct family *family,
                     const struct service *service)
{
    begin(page, family, "", service);
    put_label(page, "version", BACKPRESSURE_VERSION);
    end(page, 1);
}

static void put_conns(const struct page *page, const struct family *family,
                      const struct service *service)
{
    put(page, family, "", service, (double)service->view->conns);
}

static void put_outbound(const struct page *page, const struct family *family,
                         const struct service *service)
{
    uint64_t outbound = 0;
    for (unsigned i = 0; i < service->view->processes; i++)
        outbound += service->view->process[i].outbound;
    put(page, family, "", service, (double)outbound);
}

static void put_processes(const struct page *page, const struct family *family,
                          const struct service *service)
{
    put(page, family, "", service, service->view->processes);
}

static void put_open(const struct page *page, const struct family *family,
                     const struct service *service)
{
    put(page, family, "", service, service->view->admission == ADMISSION_OPEN);
}

static void put_backoff(const struct page *page, const struct family *family,
                        const struct service *service)
{
    put(page, family, "", service, service->view->destinations);
}

static void put_total(const struct page *page, const struct family *family,
                      const struct service *service)
{
    put(page, family, family->type == COUNTER ? "_total" : "", service,
        (double)service->view->totals[family->what]);
}

struct shed_way {
    const char *how;
    enum counter counter;
};

static void put_ways(const struct page *page, const struct family *family,
                     const struct service *service, const struct shed_way *ways, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        begin(page, family, "_total", service);
        put_label(page, "how", ways[i].how);
        end(page, (double)service->view->totals[ways[i].counter]);
    }
}

static void put_shed(const struct page *page, const struct family *family,
                     const struct service *service)
{
    static const struct shed_way ways[] = {
        {"busy", COUNTER_SHED_BUSY}, {"reset", COUNTER_SHED_RESET}, {"late", COUNTER_SHED_LATE}};
    put_ways(page, family, service, ways, sizeof ways / sizeof *ways);
}

static void put_requests_shed(const struct page *page, const struct family *family,
                              const struct service *service)
{
    static const struct shed_way ways[] = {{"busy", COUNTER_REQUESTS_SHED_BUSY},
                                           {"reset", COUNTER_REQUESTS_SHED_RESET},
                                           {"late", COUNTER_REQUESTS_SHED_LATE}};
    put_ways(page, family, service, ways, sizeof ways / sizeof *ways);
}

enum { IN_FLIGHT, WAITING, STREAMS };

static uint64_t figure_of(const struct requests_view *requests, unsigned what)
{
    return what == IN_FLIGHT ? requests->in_flight
           : what == WAITING ? requests->waiting
                             : requests->streams;
}

static void put_requests(const struct page *page, const struct family *family,
                         const struct service *service)
{
    put(page, family, "", service, (double)figure_of(&service->view->requests, family->what));
}

static void put_limits(const struct page *page, const struct family *family,
                       const struct service *service)
{
    const struct service_view *view = service->view;
    for (unsigned key = 0; key < LIMIT_KEYS; key++) {
        uint64_t limit = view->limits.value[key];
        if (limits_unit(key) != (enum limit_unit)family->what || limit == LIMIT_OFF ||
            limit == QUEUE_DELAY_WITH_AUTO)
            continue;
        double value = (double)limit;
        if (limit_is_auto(limit) && limits_key_per_process(key))
            continue; /* each process finds its own: below */
        if (limit_is_auto(limit))
            value = (double)(key == LIMIT_TOTAL_CONNS ? view->found : view->requests.found).ceiling;
        else if (family->what == LIMIT_UNIT_SECONDS)
            value /= 1e9;
        else if (family->what == LIMIT_UNIT_RATE || family->what == LIMIT_UNIT_REQUEST_RATE)
            value = (double)(limit >> 32);
        begin(page, family, "", service);
        put_label(page, "limit", limits_key_name(key));
        end(page, value);
    }
}

static void label_process(const struct page *page, const struct process_view *process)
{
    char pid[PID_TEXT_MAX];
    pid_text(process, pid);
    put_label(page, "pid", pid);
    put_label(page, "command", process->command);
}

static void put_process_conns(const struct page *page, const struct family *family,
                              const struct service *service)
{
    for (unsigned i = 0; i < service->view->processes; i++) {
        begin(page, family, "", service);
        label_process(page, &service->view->process[i]);
        end(page, (double)service->view->process[i].conns);
    }
}

static void put_process_buffer(const struct page *page, const struct family *family,
                               const struct service *service)
{
    for (unsigned i = 0; i < service->view->processes; i++) {
        begin(page, family, "", service);
        label_process(page, &service->view->process[i]);
        end(page, (double)service->view->process[i].counter[COUNTER_BUFFER]);
    }
}

static void put_process_requests(const struct page *page, const struct family *family,
                                 const struct service *service)
{
    for (unsigned i = 0; i < service->view->processes; i++) {
        const struct process_view *process = &service->view->process[i];
        begin(page, family, "", service);
        label_process(page, process);
        end(page, (double)figure_of(&process->requests, family->what));
    }
}

static void put_process_ceiling(const struct page *page, const struct family *family,
                                const struct service *service)
{
    enum limit_key key = (enum limit_key)family->what;
    for (unsigned i = 0; i < service->view->processes; i++) {
        const struct process_view *process = &service->view->process[i];
        const struct found_view *found =
            key == LIMIT_CONNS ? &process->found : &process->requests.found;
        uint64_t limit = limit_of_process(service->view, process, key);
        if (limit == LIMIT_OFF)
            continue;
        begin(page, family, "", service);
        label_process(page, process);
        end(page, (double)(limit_is_auto(limit) ? found->ceiling : limit));
    }
}

static void put_queue(const struct page *page, const struct family *family,
                      const struct service *service)
{
    for (unsigned i = 0; i < service->view->listeners; i++) {
        const struct listener_view *listener = &service->view->listener[i];
        begin(page, family, "", service);
        put_label(page, "address", listener->address);
        end(page, family->what ? listener->queue_max : listener->queue);
    }
}

enum { ACCEPT_WAIT, DURATION, REQUEST_SOJOURN, RESPONSE, TIMES };

static void put_times(const struct page *page, const struct family *family,
                      const struct service *service)
{
    const struct histogram_reading *every[TIMES] = {
        [ACCEPT_WAIT] = &service->view->accept_wait,
        [DURATION] = &service->view->sojourn,
        [REQUEST_SOJOURN] = &service->view->requests.sojourn,
        [RESPONSE] = &service->view->requests.response,
    };
    const struct histogram_reading *times = every[family->what];
    uint64_t below = 0;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        char bound[32] = "+Inf";
        if (i < HISTOGRAM_BOUNDS)
            snprintf(bound, sizeof bound, page->openmetrics ? "%#.6g" : "%.6g",
                     histogram_bound_us[i] / 1e6);
        below += times->bucket[i];
        begin(page, family, "_bucket", service);
        put_label(page, "le", bound);
        end(page, (double)below);
    }
    put(page, family, "_count", service, (double)times->count);
    put(page, family, "_sum", service, (double)times->sum_us / 1e6);
}

/* --- families --- */

static const struct family families[] = {
    {"service_info", NULL, GAUGE, "A service, and the bpctl that tells of it.", put_info, 0},
    {"processes", NULL, GAUGE, "Processes of the service.", put_processes, 0},
    {"admission_open", NULL, GAUGE, "1 while clients are admitted, 0 while paused or draining.",
     put_open, 0},
    {"connections", NULL, GAUGE, "Accepted connections that are open.", put_conns, 0},
    {"connections_peak", NULL, GAUGE, "Most accepted connections that were open at once.",
     put_total, COUNTER_CONNS_PEAK},
    {"connections_accepted", NULL, COUNTER, "Connections admitted.", put_total, COUNTER_ACCEPTED},
    {"admissions_held", NULL, COUNTER, "Times that admission waited for a place.", put_total,
     COUNTER_HELD},
    {"connections_shed", NULL, COUNTER,
     "Connections turned away: answered busy, reset, or late (over queue-delay).", put_shed, 0},
    {"connections_exempted", NULL, COUNTER, "Connections admitted without being counted.",
     put_total, COUNTER_EXEMPTED},
    {"connections_untracked", NULL, COUNTER, "Connections admitted although a table was full.",
     put_total, COUNTER_UNTRACKED},
    {"slots_recovered", NULL, COUNTER,
     "Places whose connection was closed unseen, found by comparing with the kernel.", put_total,
     COUNTER_FOUND},
    {"send_queue_bytes", "bytes", GAUGE, "Bytes queued for sending in the kernel.", put_total,
     COUNTER_BUFFER},
    {"send_queue_peak_bytes", "bytes", GAUGE, "Most bytes queued for sending at once.", put_total,
     COUNTER_BUFFER_PEAK},
    {"reads_paused", NULL, COUNTER,
     "Times that a client was not read from since its answers waited.", put_total,
     COUNTER_READS_PAUSED},
    {"stalls_reset", NULL, COUNTER, "Connections reset since their output stood still.", put_total,
     COUNTER_STALLS_RESET},
    {"outbound_connections", NULL, GAUGE, "Connections that the service made and that are open.",
     put_outbound, 0},
    {"connects", NULL, COUNTER, "Connects of the service to others.", put_total, COUNTER_CONNECTS},
    {"connect_retries", NULL, COUNTER, "Connects that were tried again.", put_total,
     COUNTER_CONNECT_RETRIES},
    {"destinations_in_backoff", NULL, GAUGE,
     "Destinations that failed and have not succeeded since.", put_backoff, 0},
    {"limit_connections", NULL, GAUGE,
     "Limits on numbers of connections that are set, as they stand where they find themselves.",
     put_limits, LIMIT_UNIT_CONNECTIONS},
    {"limit_bytes", "bytes", GAUGE, "Limits on bytes queued for sending that are set.", put_limits,
     LIMIT_UNIT_BYTES},
    {"limit_seconds", "seconds", GAUGE, "Limits on times that are set.", put_limits,
     LIMIT_UNIT_SECONDS},
    {"limit_bytes_per_second", NULL, GAUGE, "Limits on rates of sending that are set.", put_limits,
     LIMIT_UNIT_BYTES_PER_SECOND},
    {"limit_connections_per_second", NULL, GAUGE, "accept-rate, where it is set.", put_limits,
     LIMIT_UNIT_RATE},
    {"process_connections", NULL, GAUGE, "Accepted connections that a process has open.",
     put_process_conns, 0},
    {"process_connections_limit", NULL, GAUGE, "conns, as it stands for a process.",
     put_process_ceiling, LIMIT_CONNS},
    {"process_send_queue_bytes", "bytes", GAUGE, "Bytes that a process has queued for sending.",
     put_process_buffer, 0},
    {"accept_queue_connections", NULL, GAUGE, "Clients in a listener's accept queue.", put_queue,
     0},
    {"accept_queue_limit_connections", NULL, GAUGE,
     "Clients that fit in a listener's accept queue.", put_queue, 1},
    {"accept_wait_seconds", "seconds", HISTOGRAM,
     "How long clients were in the accept queue; a sample of those accepted.", put_times, 0},
    {"request_duration_seconds", "seconds", HISTOGRAM,
     "From a request's arrival to the first byte of its answer; a sample, while somebody looks.",
     put_times, DURATION},
    {"requests_in_flight", NULL, GAUGE,
     "Requests begun and not answered to the end, where a limit on requests is set.", put_requests,
     IN_FLIGHT},
    {"requests_in_flight_peak", NULL, GAUGE, "Most requests in flight at once.", put_total,
     COUNTER_REQUESTS_IN_FLIGHT_PEAK},
    {"requests_waiting", NULL, GAUGE, "Requests that wait in their connections for their turn.",
     put_requests, WAITING},
    {"streams", NULL, GAUGE,
     "Connections that no limit on requests concerns: what they carry is not requests and answers.",
     put_requests, STREAMS},
    {"requests_begun", NULL, COUNTER, "Requests that the program was let begin.", put_total,
     COUNTER_REQUESTS_BEGUN},
    {"requests_held", NULL, COUNTER, "Requests that waited in their connections for their turn.",
     put_total, COUNTER_REQUESTS_HELD},
    {"requests_shed", NULL, COUNTER,
     "Requests turned away: answered busy, reset, or late (over queue-delay).", put_requests_shed,
     0},
    {"requests_exempt", NULL, COUNTER, "Requests begun without being counted (exempt-request).",
     put_total, COUNTER_REQUESTS_EXEMPT},
    {"idle_closed", NULL, COUNTER,
     "Connections with nothing in flight that were closed since others needed their slots.",
     put_total, COUNTER_IDLE_CLOSED},
    {"headers_timed_out", NULL, COUNTER,
     "Connections closed since a request's head did not end within header-timeout.", put_total,
     COUNTER_HEADERS_TIMED_OUT},
    {"process_requests_in_flight", NULL, GAUGE, "Requests in flight in a process.",
     put_process_requests, IN_FLIGHT},
    {"process_requests_waiting", NULL, GAUGE, "Requests that wait for their turn in a process.",
     put_process_requests, WAITING},
    {"process_streams", NULL, GAUGE, "Streams of a process.", put_process_requests, STREAMS},
    {"process_requests_limit", NULL, GAUGE, "requests, as it stands for a process.",
     put_process_ceiling, LIMIT_REQUESTS},
    {"limit_requests", NULL, GAUGE,
     "Limits on numbers of requests that are set, as they stand where they find themselves.",
     put_limits, LIMIT_UNIT_REQUESTS},
    {"limit_requests_per_second", NULL, GAUGE, "request-rate, where it is set.", put_limits,
     LIMIT_UNIT_REQUEST_RATE},
    {"request_sojourn_seconds", "seconds", HISTOGRAM,
     "How long requests waited in their connections before they began.", put_times,
     REQUEST_SOJOURN},
    {"request_response_seconds", "seconds", HISTOGRAM,
     "From a request's begin to the first byte of its answer.", put_times, RESPONSE},
};

static void put_family(const struct page *page, const struct family *family)
{
    static const char *const types[] = {
        [GAUGE] = "gauge", [COUNTER] = "counter", [HISTOGRAM] = "histogram"};
    const char *type = types[family->type];
    /* In the older format a family has the name of its samples. */
    const char *suffix = !page->openmetrics && family->type == COUNTER ? "_total" : "";
    fprintf(page->out, "# HELP backpressure_%s%s %s\n# TYPE backpressure_%s%s %s\n", family->name,
            suffix, family->help, family->name, suffix, type);
    if (page->openmetrics && family->unit)
        fprintf(page->out, "# UNIT backpressure_%s %s\n", family->name, family->unit);
    for (unsigned i = 0; i < page->services; i++)
        family->samples(page, family, &page->service[i]);
}

/* --- the page --- */

static void add_service(struct service_file *file, enum segment_result result, void *context)
{
    struct page *page = context;
    if (result != SEGMENT_OK || service_processes(file) == 0)
        return;
    if (page->services == page->room) {
        unsigned room = page->room ? page->room * 2 : 8;
        struct service *grown = realloc(page->service, room * sizeof *grown);
        if (!grown)
            return;
        page->service = grown;
        page->room = room;
    }
    struct service *service = &page->service[page->services];
    service->view = malloc(sizeof *service->view);
    if (!service->view)
        return;
    service_watch(file);
    service_view(file, service->view);
    snprintf(service->name, sizeof service->name, "%s", file->name);
    owner_name(file->owner, service->user, sizeof service->user);
    page->services++;
}

char *exposition(bool openmetrics, size_t *size)
{
    struct page page = {.openmetrics = openmetrics};
    char *text = NULL;

    page.out = open_memstream(&text, size);
    if (!page.out)
        return NULL;
    services_each(add_service, &page);
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        put_family(&page, &families[i]);
    fputs("# EOF\n", page.out); /* a comment to the older format */
    bool failed = fclose(page.out) != 0;
    for (unsigned i = 0; i < page.services; i++)
        free(page.service[i].view);
    free(page.service);
    if (failed) {
        free(text);
        return NULL;
    }
    return text;
}
