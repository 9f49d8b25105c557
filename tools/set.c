/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "change.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* `web/123` → "web", 123. False when what follows the slash is no pid. */
static bool split(const char *target, char *name, size_t size, uint32_t *pid)
{
    const char *slash = strchr(target, '/');
    size_t length = slash ? (size_t)(slash - target) : strlen(target);
    char *end = NULL;

    *pid = 0;
    snprintf(name, size, "%.*s", (int)(length < size ? length : size - 1), target);
    if (!slash)
        return true;
    unsigned long number = slash[1] >= '1' && slash[1] <= '9' ? strtoul(slash + 1, &end, 10) : 0;
    *pid = (uint32_t)number;
    return number > 0 && number <= INT32_MAX && *end == '\0';
}

int command_set(int argc, char **argv)
{
    static const struct option options[] = {{"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    struct service_file service;
    char name[SERVICE_NAME_MAX + 1], why[CHANGE_WHY_MAX];
    uint32_t pid;

    int option = getopt_long(argc, argv, "+h", options, NULL);
    if (option != -1)
        return option == 'h' ? help_of("set") : bad_option(argv);
    if (argc - optind < 2)
        return usage_of("set");
    if (!split(argv[optind], name, sizeof name, &pid))
        return complain(EXIT_USAGE, "%s: what follows the slash is not a process id", argv[optind]);
    if (!service_open(name, &service))
        return EXIT_FAILED;
    enum exit_code code = change_limits(&service, pid, argv + optind + 1, why);
    service_close(&service);
    return code == EXIT_DONE ? EXIT_DONE : complain(code, "%s", why);
}
