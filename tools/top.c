/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * bpctl top: looks at the services every second, and does what keys say.
 */
#include "change.h"
#include "screen.h"
#include "truncation.h"

#include <errno.h>
#include <getopt.h>
#include <ncurses.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_EVERY_NS UINT64_C(1000000000)
#define SERVICES_MAX 256
#define TYPED_MAX 256
#define ESCAPE 27
#define PAIRS_MAX 32

struct top {
    struct screen screen;
    const char *only; /* the service that was named, or NULL: all */
    struct watched service[SERVICES_MAX];
    char typed[TYPED_MAX];
};

/* --- looking --- */

static struct watched *watched_of(struct top *top, const struct service_file *file)
{
    for (unsigned i = 0; i < top->screen.services; i++)
        if (top->service[i].owner == file->owner && strcmp(top->service[i].name, file->name) == 0)
            return &top->service[i];
    if (top->screen.services == SERVICES_MAX)
        return NULL;
    struct watched *new = &top->service[top->screen.services];
    *new = (struct watched){.owner = file->owner,
                            .view = malloc(sizeof *new->view),
                            .before = malloc(sizeof *new->before)};
    if (!new->view || !new->before) {
        free(new->view);
        free(new->before);
        return NULL;
    }
    snprintf(new->name, sizeof new->name, "%s", file->name);
    top->screen.services++;
    return new;
}

static void look_at(struct service_file *file, enum segment_result result, void *context)
{
    struct top *top = context;
    if (result != SEGMENT_OK || (top->only && strcmp(top->only, file->name) != 0) ||
        service_processes(file) == 0)
        return;
    struct watched *service = watched_of(top, file);
    if (!service)
        return;
    struct service_view *before = service->before;
    uint64_t now = monotonic_ns();
    service->before = service->view;
    service->view = before;
    service_watch(file);
    service_view(file, service->view);
    service->seen = true;
    if (service->looked_ns)
        rates_between(service->before, service->view, (double)(now - service->looked_ns) / 1e9,
                      &service->rates);
    service->looked_ns = now;
}

static void forget_ended(struct top *top)
{
    struct screen *screen = &top->screen;
    for (unsigned i = 0; i < screen->services;) {
        if (top->service[i].seen) {
            i++;
            continue;
        }
        free(top->service[i].view);
        free(top->service[i].before);
        screen->services--;
        memmove(&top->service[i], &top->service[i + 1],
                (screen->services - i) * sizeof top->service[0]);
        if (screen->selected > i)
            screen->selected--;
    }
    if (screen->selected >= screen->services)
        screen->selected = screen->services ? screen->services - 1 : 0;
}

static void look(struct top *top)
{
    for (unsigned i = 0; i < top->screen.services; i++)
        top->service[i].seen = false;
    services_each(look_at, top);
    forget_ended(top);
}

/* --- keys --- */

static bool open_selected(struct top *top, struct service_file *file)
{
    struct screen *screen = &top->screen;
    if (screen->services == 0)
        return false;
    const struct watched *service = &top->service[screen->selected];
    if (service_open_of(service->name, service->owner, file))
        return true;
    snprintf(screen->message, sizeof screen->message, "%s: has gone", service->name);
    return false;
}

static void turn(struct top *top, enum admission_switch to, const char *done)
{
    struct service_file file;
    char why[CHANGE_WHY_MAX];
    if (!open_selected(top, &file))
        return;
    if (change_admission(&file, to, why) == EXIT_DONE)
        snprintf(top->screen.message, sizeof top->screen.message, "%s: %s", file.name, done);
    else
        snprintf(top->screen.message, sizeof top->screen.message, "%s", why);
    service_close(&file);
}

static void change(struct top *top)
{
    struct service_file file;
    char why[CHANGE_WHY_MAX], typed[TYPED_MAX], *pairs[PAIRS_MAX + 1] = {NULL}, *rest = typed;
    unsigned count = 0;

    snprintf(typed, sizeof typed, "%s", top->typed);
    for (char *pair; count < PAIRS_MAX && (pair = strsep(&rest, " "));)
        if (*pair)
            pairs[count++] = pair;
    if (count == 0 || !open_selected(top, &file))
        return;
    if (change_limits(&file, 0, pairs, why) == EXIT_DONE)
        snprintf(top->screen.message, sizeof top->screen.message, "%s: %s set", file.name,
                 top->typed);
    else
        snprintf(top->screen.message, sizeof top->screen.message, "%s", why);
    service_close(&file);
}

/* A key while a limit is typed. */
static void type(struct top *top, int key)
{
    size_t length = strlen(top->typed);
    if (key == '\n' || key == '\r' || key == KEY_ENTER) {
        top->screen.asked = NULL;
        change(top);
    } else if (key == ESCAPE) {
        top->screen.asked = NULL;
    } else if ((key == KEY_BACKSPACE || key == 127 || key == '\b') && length > 0) {
        top->typed[length - 1] = '\0';
    } else if (key >= ' ' && key <= '~' && length + 1 < sizeof top->typed) {
        top->typed[length] = (char)key;
        top->typed[length + 1] = '\0';
    }
}

static void ask_for_limit(struct top *top)
{
    static char prompt[SERVICE_NAME_MAX + 32];
    if (top->screen.services == 0)
        return;
    snprintf(prompt, sizeof prompt, "%s, LIMIT=VALUE: ", top->service[top->screen.selected].name);
    top->typed[0] = '\0';
    top->screen.prompt = prompt;
    top->screen.asked = top->typed;
}

/* Does what `key` says; false to quit. */
static bool obey(struct top *top, int key)
{
    struct screen *screen = &top->screen;
    if (screen->asked) {
        type(top, key);
        return true;
    }
    if (key != KEY_RESIZE)
        screen->message[0] = '\0';
    switch (key) {
    case 'q':
        return false;
    case KEY_UP:
    case 'k':
        screen->selected -= screen->selected > 0;
        break;
    case KEY_DOWN:
    case 'j':
        screen->selected += screen->selected + 1 < screen->services;
        break;
    case 'l':
    case 's':
        ask_for_limit(top);
        break;
    case 'p':
        turn(top, ADMISSION_PAUSED, "paused; r admits clients again");
        break;
    case 'r':
        turn(top, ADMISSION_OPEN, "admits clients");
        break;
    case 'd':
        turn(top, ADMISSION_DRAINING, "draining; r admits clients again");
        break;
    default: /* a resize among them: ncurses has the new size, and all is drawn anew */
        break;
    }
    return true;
}

/* Until the user leaves; false when the terminal went first. */
static bool watch(struct top *top)
{
    uint64_t next = 0;
    int key = ERR;
    do {
        uint64_t now = monotonic_ns();
        if (now >= next) {
            look(top);
            next = now + LOOK_EVERY_NS;
        }
        screen_draw(&top->screen);
        now = monotonic_ns();
        timeout(next > now ? (int)((next - now) / 1000000) + 1 : 0);
        errno = 0;
        key = getch();
        bool failed = key == ERR && errno != 0 && errno != EINTR && errno != EAGAIN;
        if (failed || (key == ERR && screen_is_gone()))
            return false;
    } while (key == ERR || obey(top, key));
    return true;
}

int command_top(int argc, char **argv)
{
    static const struct option options[] = {{"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    struct service_file file;

    int option = getopt_long(argc, argv, "h", options, NULL);
    if (option != -1)
        return option == 'h' ? help_of("top") : bad_option(argv);
    if (argc - optind > 1)
        return usage_of("top");
    struct top *top = calloc(1, sizeof *top);
    if (!top)
        return complain(EXIT_FAILED, "out of memory");
    top->screen.service = top->service;
    top->only = argv[optind];
    if (top->only && !service_open(top->only, &file)) {
        free(top);
        return EXIT_FAILED;
    }
    if (top->only)
        service_close(&file);
    if (!screen_open()) {
        free(top);
        return EXIT_FAILED;
    }
    truncation_reads_zeros();
    bool left = watch(top);
    screen_close();
    for (unsigned i = 0; i < top->screen.services; i++) {
        free(top->service[i].view);
        free(top->service[i].before);
    }
    free(top);
    return left ? EXIT_DONE : EXIT_FAILED;
}
