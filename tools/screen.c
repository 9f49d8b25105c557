/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "screen.h"
#include "pids.h"

#include "commands.h"

#include <ctype.h>
#include <inttypes.h>
#include <locale.h>
#include <ncurses.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BAR 20
#define FEWEST_LINES 8
#define FEWEST_COLUMNS 40
#define DETAIL_LEAST 9 /* lines below the services */

enum { COLOR_CALM = 1, COLOR_NEAR, COLOR_FULL };

static SCREEN *terminal;

bool screen_open(void)
{
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)) {
        complain(EXIT_FAILED,
                 "top: not on a terminal; `bpctl show NAME` prints a service once, `bpctl ls` all");
        return false;
    }
    setlocale(LC_ALL, "");
    terminal = newterm(NULL, stdout, stdin);
    if (!terminal) {
        const char *kind = getenv("TERM");
        complain(EXIT_FAILED,
                 "top: cannot use a terminal of kind %.40s (TERM); `bpctl show NAME` prints a "
                 "service once",
                 kind && *kind ? kind : "unknown");
        return false;
    }
    cbreak();
    noecho();
    keypad(stdscr, TRUE);
    curs_set(0);
    set_escdelay(50);
    if (has_colors()) {
        start_color();
        use_default_colors();
        init_pair(COLOR_CALM, COLOR_GREEN, -1);
        init_pair(COLOR_NEAR, COLOR_YELLOW, -1);
        init_pair(COLOR_FULL, COLOR_RED, -1);
    }
    return true;
}

/* getch says the same for a read that ended, one that failed and one that nothing came for; a
 * terminal that hung up polls so for good (poll(2), POLLHUP). */
bool screen_is_gone(void)
{
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    return poll(&input, 1, 0) > 0 && (input.revents & (POLLHUP | POLLERR | POLLNVAL)) != 0;
}

void screen_close(void)
{
    endwin();
    delscreen(terminal);
}

/* --- figures --- */

/* In four or five columns, so that a table stays one: 9999, 12.3K, 4.5M. */
static const char *short_figure(double value, double thousand, char *out, size_t size)
{
    static const char units[] = "KMGT";
    unsigned unit = 0;
    if (value < 9999.5) {
        snprintf(out, size, value > 0 && value < 9.95 ? "%.1f" : "%.0f", value);
        return out;
    }
    for (value /= thousand; value >= 999.5 && unit < sizeof units - 2; unit++)
        value /= thousand;
    snprintf(out, size, value < 99.95 ? "%.1f%c" : "%.0f%c", value, units[unit]);
    return out;
}

static const char *count_text(double value, char *out, size_t size)
{
    if (value < 99999.5)
        snprintf(out, size, "%.0f", value);
    else
        short_figure(value, 1000, out, size);
    return out;
}

static const char *time_text(double us, char *out, size_t size)
{
    if (us < 1000)
        snprintf(out, size, "%.0f us", us);
    else if (us < 1000000)
        snprintf(out, size, us < 9950 ? "%.1f ms" : "%.0f ms", us / 1000);
    else
        snprintf(out, size, "%.1f s", us / 1000000);
    return out;
}

/* --- lines: each is cut at the right edge, and nothing is drawn below the last --- */

static int line, bottom;

static void put_line(int attributes, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void put_line(int attributes, const char *format, ...)
{
    char text[512];
    va_list arguments;
    if (line >= bottom)
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    attron(attributes);
    mvaddnstr(line, 0, text, COLS);
    if (attributes & A_REVERSE)
        mvchgat(line, 0, -1, (attr_t)attributes, 0, NULL);
    attroff(attributes);
    line++;
}

static void put_bar(const struct fullness *full)
{
    char used[24], ceiling[24], figures[64];
    double share = full->ceiling > 0 ? full->used / full->ceiling : full->used > 0;
    int width = COLS < 60 ? BAR / 2 : BAR;
    int filled = share >= 1 ? width : (int)(share * width + 0.5);
    int color = share >= 0.95 ? COLOR_FULL : share >= 0.7 ? COLOR_NEAR : COLOR_CALM;

    if (line >= bottom)
        return;
    if (full->unit == UNIT_BYTES) {
        short_figure(full->used, 1024, used, sizeof used);
        short_figure(full->ceiling, 1024, ceiling, sizeof ceiling);
    } else {
        count_text(full->used, used, sizeof used);
        count_text(full->ceiling, ceiling, sizeof ceiling);
    }
    snprintf(figures, sizeof figures, "%s/%s%s", used, ceiling,
             full->unit == UNIT_RATE ? "/s" : "");
    mvprintw(line, 0, "  %-13s [", full->what);
    attron(has_colors() ? COLOR_PAIR(color) : A_BOLD);
    for (int i = 0; i < filled; i++)
        addch('#');
    attroff(has_colors() ? COLOR_PAIR(color) : A_BOLD);
    for (int i = filled; i < width; i++)
        addch('-');
    printw("] %4.0f%%  %-15s", share * 100, figures);
    addnstr(full->whose, COLS - getcurx(stdscr) > 0 ? COLS - getcurx(stdscr) : 0);
    line++;
}

/* --- the parts --- */

static void put_heading(const struct screen *screen)
{
    char clock[32] = "";
    unsigned processes = 0;
    time_t now = time(NULL);
    struct tm local;
    for (unsigned i = 0; i < screen->services; i++)
        processes += screen->service[i].view->processes;
    if (localtime_r(&now, &local))
        strftime(clock, sizeof clock, "%H:%M:%S", &local);
    put_line(A_BOLD, "bpctl top  %s  %u service%s, %u process%s", clock, screen->services,
             screen->services == 1 ? "" : "s", processes, processes == 1 ? "" : "es");
    put_line(A_UNDERLINE, "%-13s %5s %7s %8s %7s %7s %8s %7s  %s", "SERVICE", "PROCS", "CONNS",
             "ADMIT/s", "HELD/s", "SHED/s", "PAUSED/s", "RETRY/s", "DOOR");
}

/* In capitals when it is not open: that is what people look for. */
static const char *door(enum admission_switch admission, char *out, size_t size)
{
    snprintf(out, size, "%s", admission_name(admission));
    for (char *c = out; *c && admission != ADMISSION_OPEN; c++)
        *c = (char)toupper((unsigned char)*c);
    return out;
}

static void put_service(const struct watched *service, bool selected)
{
    const struct rates *rates = &service->rates;
    char admitted[16], held[16], shed[16], paused[16], retries[16], conns[16], door_text[16];
    put_line(selected ? A_REVERSE : 0, "%-13.13s %5u %7s %8s %7s %7s %8s %7s  %s", service->name,
             service->view->processes,
             count_text((double)service->view->conns, conns, sizeof conns),
             short_figure(rates->admitted, 1000, admitted, sizeof admitted),
             short_figure(rates->held, 1000, held, sizeof held),
             short_figure(rates->shed, 1000, shed, sizeof shed),
             short_figure(rates->reads_paused, 1000, paused, sizeof paused),
             short_figure(rates->connect_retries, 1000, retries, sizeof retries),
             door(service->view->admission, door_text, sizeof door_text));
}

static void put_times(const char *what, const struct histogram_reading *times, const char *none)
{
    char p50[24], p99[24];
    if (times->count == 0)
        put_line(0, "  %-13s %s", what, none);
    else
        put_line(0, "  %-13s p50 %-8s p99 %-8s of %" PRIu64 " measured", what,
                 time_text(histogram_quantile_us(times, 0.50), p50, sizeof p50),
                 time_text(histogram_quantile_us(times, 0.99), p99, sizeof p99), times->count);
}

/* Nothing where no limit on requests was ever set: then they are not looked at. */
static void put_requests(const struct service_view *view, const struct rates *rates)
{
    const struct requests_view *requests = &view->requests;
    char flight[24], waiting[24], streams[24], begun[16], held[16], shed[16];
    if (!requests_concern(view))
        return;
    put_line(0, "  %-13s %s, %s waiting, %s streams; /s: %s begun, %s held, %s shed", "in flight",
             count_text((double)requests->in_flight, flight, sizeof flight),
             count_text((double)requests->waiting, waiting, sizeof waiting),
             count_text((double)requests->streams, streams, sizeof streams),
             short_figure(rates->requests_begun, 1000, begun, sizeof begun),
             short_figure(rates->requests_held, 1000, held, sizeof held),
             short_figure(rates->requests_shed, 1000, shed, sizeof shed));
    put_times("sojourn", &rates->request_sojourn, "none began");
    put_times("response", &rates->response, "no answers");
}

static void put_limits(const struct service_view *view)
{
    struct limits defaults;
    char value[LIMIT_VALUE_MAX], usual[LIMIT_VALUE_MAX], text[512];
    size_t used = 0;
    limits_defaults(&defaults);
    text[0] = '\0';
    for (unsigned key = 0; key < LIMIT_KEYS && used < sizeof text; key++) {
        limits_format(&view->limits, key, value, sizeof value);
        limits_format(&defaults, key, usual, sizeof usual);
        if (strcmp(value, usual) != 0)
            used += (size_t)snprintf(text + used, sizeof text - used, " %s=%.60s",
                                     limits_key_name(key), value);
    }
    put_line(0, "  limits       %s", used ? text : " none");
}

static int busiest_first(const void *left, const void *right)
{
    const struct process_view *a = left, *b = right;
    if (a->conns != b->conns)
        return a->conns < b->conns ? 1 : -1;
    uint64_t accepted = a->counter[COUNTER_ACCEPTED], others = b->counter[COUNTER_ACCEPTED];
    return (accepted < others) - (accepted > others);
}

static void put_detail(const struct watched *service)
{
    static struct fullness full[FULLNESS_MAX];
    struct service_view *view = service->view;
    qsort(view->process, view->processes, sizeof *view->process, busiest_first);
    unsigned count = rates_fullness(view, &service->rates, full);

    line++;
    put_line(A_BOLD, "%s", service->name);
    put_limits(view);
    for (unsigned i = 0; i < count; i++)
        put_bar(&full[i]);
    put_requests(view, &service->rates);
    put_times("accept wait", &service->rates.accept_wait, "nobody came");
    put_times("read to write", &service->rates.sojourn, "no answers");
    if (view->destinations)
        put_line(0, "  %u destination%s in backoff", view->destinations,
                 view->destinations == 1 ? "" : "s");
    line++;
    put_line(A_UNDERLINE, "  %8s %-16s %7s %4s %9s %9s %9s %8s", "PID", "COMMAND", "CONNS", "REQS",
             "ACCEPTED", "SHED", "SEND-Q", "PAUSED");
    for (unsigned i = 0; i < view->processes; i++) {
        const struct process_view *process = &view->process[i];
        const uint64_t *counter = process->counter;
        char buffer[16], flight[16], pid[PID_TEXT_MAX];
        pid_text(process, pid);
        put_line(0, "  %8s %-16s %7" PRIu64 " %4s %9" PRIu64 " %9" PRIu64 " %9s %8" PRIu64, pid,
                 process->command, process->conns,
                 count_text((double)process->requests.in_flight, flight, sizeof flight),
                 counter[COUNTER_ACCEPTED], shed_in_all(counter),
                 short_figure((double)counter[COUNTER_BUFFER], 1024, buffer, sizeof buffer),
                 counter[COUNTER_READS_PAUSED]);
    }
}

static void put_foot(const struct screen *screen)
{
    bottom = LINES;
    line = LINES - 1;
    if (screen->asked)
        put_line(A_BOLD, "%s%s_", screen->prompt, screen->asked);
    else if (screen->message[0])
        put_line(A_BOLD, "%s", screen->message);
    else
        put_line(A_REVERSE, "up/down select  l change a limit  p pause  r resume  d drain  q quit");
}

void screen_draw(struct screen *screen)
{
    erase();
    line = 0;
    bottom = LINES - 1;
    if (LINES < FEWEST_LINES || COLS < FEWEST_COLUMNS) {
        put_line(0, "too small: %d x %d wanted", FEWEST_COLUMNS, FEWEST_LINES);
        refresh();
        return;
    }
    put_heading(screen);
    unsigned room = (unsigned)(LINES - 3 > DETAIL_LEAST + 2 ? LINES - 3 - DETAIL_LEAST : 1);
    if (screen->selected < screen->first_shown)
        screen->first_shown = screen->selected;
    if (screen->selected >= screen->first_shown + room)
        screen->first_shown = screen->selected - room + 1;
    for (unsigned i = screen->first_shown; i < screen->services && i < screen->first_shown + room;
         i++)
        put_service(&screen->service[i], i == screen->selected);
    if (screen->services == 0)
        put_line(0, "no service runs; `bpctl run` starts one");
    else
        put_detail(&screen->service[screen->selected]);
    put_foot(screen);
    refresh();
}
