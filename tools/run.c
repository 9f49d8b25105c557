/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "commands.h"
#include "reach.h"
#include "services.h"

#include "../shim/process/joining.h"

#include <errno.h>
#include <getopt.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIBRARY "libbackpressure.so"
#define LINE_MAX_LENGTH 4096
#define ENVIRONMENT_MAX (LIMIT_KEYS * LIMIT_VALUE_MAX)

/* Beside bpctl, as built; in the libdir beside its bindir, as installed; or where it was told. */
static bool find_library(char *out, size_t size)
{
    static const char *const places[] = {"", "../lib/", "../lib64/"};
    char self[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);

    for (size_t i = 0; length > 0 && i < sizeof places / sizeof *places; i++) {
        self[length] = '\0';
        char *slash = strrchr(self, '/');
        snprintf(out, size, "%.*s/%s" LIBRARY, (int)(slash - self), self, places[i]);
        if (access(out, R_OK) == 0)
            return true;
    }
    snprintf(out, size, "%s/" LIBRARY, BACKPRESSURE_LIBDIR);
    return access(out, R_OK) == 0;
}

static int read_file(const char *path, struct limits_source *source)
{
    char line[LINE_MAX_LENGTH];
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    if (!file)
        return complain(EXIT_USAGE, "%s: %s", path, strerror(errno));
    for (unsigned number = 1; fgets(line, sizeof line, file); number++) {
        size_t length = strcspn(line, "\n");
        if (line[length] != '\n' && !feof(file)) {
            fclose(file);
            return complain(EXIT_USAGE, "%s:%u: line longer than %d bytes", path, number,
                            LINE_MAX_LENGTH - 2);
        }
        line[length] = '\0';
        if (!limits_take_line(source, line)) {
            fclose(file);
            return complain(EXIT_USAGE, "%s:%u: %s", path, number, source->error);
        }
    }
    int status = ferror(file)
                     ? complain(EXIT_USAGE, "%s: cannot be read: %s", path, strerror(errno))
                     : EXIT_DONE;
    if (file != stdin)
        fclose(file);
    return status;
}

static bool append(char *out, size_t size, const char *text)
{
    size_t used = strlen(out), length = strlen(text);
    if (used + length >= size)
        return false;
    memcpy(out + used, text, length + 1);
    return true;
}

/* As limits_take_words reads it: quotes group, and each kind may stand within the other. */
static bool add_pair(char *out, size_t size, const char *key, const char *value)
{
    bool fits =
        append(out, size, out[0] ? " " : "") && append(out, size, key) && append(out, size, "=");
    if (!strpbrk(value, " '\""))
        return fits && append(out, size, value);
    fits = fits && append(out, size, "'");
    for (; *value && fits; value++) {
        const char alone[] = {*value, '\0'};
        fits = append(out, size, *value == '\'' ? "'\"'\"'" : alone);
    }
    return fits && append(out, size, "'");
}

/* What was given, and nothing else: defaults are the library's. */
static bool compose(char *out, size_t size, const char *name, const struct limits_source *source)
{
    char value[LIMIT_VALUE_MAX];

    out[0] = '\0';
    if (!add_pair(out, size, "name", name))
        return false;
    for (unsigned key = 0; key < LIMIT_KEYS; key++) {
        if (!(source->given >> key & 1))
            continue;
        limits_format(&source->limits, key, value, sizeof value);
        if (!add_pair(out, size, limits_key_name(key), value))
            return false;
    }
    return true;
}

/* The name that the command's own gives: `nginx` for /usr/sbin/nginx. */
static void name_after(const char *command, char name[SERVICE_NAME_MAX])
{
    const char *slash = strrchr(command, '/');
    snprintf(name, SERVICE_NAME_MAX, "%s", slash ? slash + 1 : command);
    for (char *at = name; *at; at++) {
        char alone[] = {*at, '\0'};
        if (!limits_name_valid(alone) && !(*at == '.' && at > name))
            *at = '_';
    }
    if (!limits_name_valid(name))
        snprintf(name, SERVICE_NAME_MAX, "service");
}

/* The first limit that differs, told as it is there and as it was given here. */
static bool differ(const struct limits *there, const struct limits *here, char *out, size_t size)
{
    char value[LIMIT_VALUE_MAX], given[LIMIT_VALUE_MAX];
    for (unsigned key = 0; key < LIMIT_KEYS; key++) {
        limits_format(there, key, value, sizeof value);
        limits_format(here, key, given, sizeof given);
        if (strcmp(value, given) == 0)
            continue;
        snprintf(out, size, "%s=%.60s there, %.60s here", limits_key_name(key), value, given);
        return true;
    }
    return false;
}

/* Workers are started one by one under one name: the same limits as it was started with, or as it
 * has now, join the service. Others would lose silently. */
static int check_joinable(const char *name, struct service_file *service,
                          const struct limits *limits)
{
    struct limits now, first;
    char difference[256];
    if (service_processes(service) == 0)
        return EXIT_DONE;
    segment_read_limits(service->segment, &now);
    words_load(&first, service->segment->limit_first, sizeof first);
    limits_bound(&first);
    if (!differ(&first, limits, difference, sizeof difference) ||
        !differ(&now, limits, difference, sizeof difference))
        return EXIT_DONE;
    return complain(EXIT_FAILED,
                    "%s: runs already, under other limits (%s); change them with `bpctl set %s`, "
                    "or choose another --name",
                    name, difference, name);
}

static int check_free(const char *name, const struct limits *limits, bool limits_given)
{
    char directory[SEGMENT_PATH_MAX], path[SEGMENT_PATH_MAX + SERVICE_NAME_MAX];
    struct joined joined;
    int status = EXIT_DONE;

    enum segment_result result = segment_directory(geteuid(), true, directory, sizeof directory);
    if (result != SEGMENT_OK)
        return complain(EXIT_FAILED, "%s: %s", directory, segment_result_text(result));
    snprintf(path, sizeof path, "%s/%s", directory, name);
    result = segment_open_or_find(path, &joined);
    struct service_file service = {.segment = joined.segment, .fd = joined.fd};
    if (result == SEGMENT_OK && limits_given)
        status = check_joinable(name, &service, limits);
    else if (result != SEGMENT_OK && result != SEGMENT_ABSENT)
        status = complain(EXIT_FAILED, "%s: %s (%s); remove that file, or choose another --name",
                          name, segment_result_text(result), path);
    service_close(&service);
    return status;
}

static int preload(const char *library)
{
    const char *before = getenv("LD_PRELOAD");
    char *value = NULL;
    if (strpbrk(library, " :"))
        return complain(EXIT_FAILED, "%s: ld.so cannot preload from a path with blanks or colons",
                        library);
    if (asprintf(&value, "%s%s%s", library, before && *before ? ":" : "", before ? before : "") <
            0 ||
        setenv("LD_PRELOAD", value, 1) < 0)
        return complain(EXIT_FAILED, "%s", strerror(errno));
    free(value);
    return EXIT_DONE;
}

static int start(const char *name, const struct limits_source *source, char **command)
{
    static char environment[ENVIRONMENT_MAX];
    char library[PATH_MAX + sizeof LIBRARY + 16], why[160];
    struct program program;

    if (!find_library(library, sizeof library))
        return complain(EXIT_FAILED, LIBRARY " is neither beside bpctl nor in %s",
                        BACKPRESSURE_LIBDIR);
    if (!compose(environment, sizeof environment, name, source) ||
        setenv("BACKPRESSURE", environment, 1) < 0)
        return complain(EXIT_FAILED, "the limits do not fit into the environment");
    bool reached = reach_program(command[0], &program, why, sizeof why);
    if (!reached) {
        if (source->limits.value[LIMIT_STRICT] == 1)
            return complain(EXIT_FAILED, "%s: %s; not started, because of strict=on", command[0],
                            why);
        complain(EXIT_DONE, "%s: %s: it runs without limits", command[0], why);
    }
    /* Where it does not load, it may still load in what the program starts. */
    int status = !reached && reach_stops(&program) ? EXIT_DONE : preload(library);
    if (status != EXIT_DONE)
        return status;
    execvp(command[0], command);
    return complain(EXIT_FAILED, "%s: %s", command[0], strerror(errno));
}

static const char *configuration_directory(void)
{
    const char *chosen = secure_getenv("BACKPRESSURE_CONFIG_DIR");
    return chosen && *chosen ? chosen : BACKPRESSURE_SYSCONFDIR "/backpressure";
}

/* NAME.conf of the configuration directory, if it is there, on top of the defaults. */
static int read_configuration(const char *name, struct limits_source *source)
{
    char path[PATH_MAX];
    struct limits defaults;
    limits_defaults(&defaults);
    limits_source_init(source, &defaults);
    snprintf(path, sizeof path, "%s/%s.conf", configuration_directory(), name);
    if (access(path, F_OK) < 0 && errno == ENOENT)
        return EXIT_DONE;
    int status = read_file(path, source);
    if (status == EXIT_DONE && source->name[0] && strcmp(source->name, name) != 0)
        status = complain(EXIT_USAGE, "%s: name=%s: contradicts its own name", path, source->name);
    return status;
}

static int bad_name(const char *name)
{
    return complain(EXIT_USAGE,
                    "--name %.80s: not a service name; allowed: 1 to %d of letters, digits, '.', "
                    "'_' and '-', not starting with '.'",
                    name, SERVICE_NAME_MAX - 1);
}

int command_run(int argc, char **argv)
{
    static const struct option options[] = {
        {"name", required_argument, NULL, 'n'},
        {"file", required_argument, NULL, 'f'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    static struct limits_source configured, from_file, given;
    const char *given_name = NULL, *file = NULL;
    struct limits limits;
    char name[SERVICE_NAME_MAX];

    for (int option; (option = getopt_long(argc, argv, "+n:f:h", options, NULL)) != -1;) {
        if (option == 'n')
            given_name = optarg;
        else if (option == 'f')
            file = optarg;
        else
            return option == 'h' ? help_of("run") : bad_option(argv);
    }
    limits_defaults(&limits);
    limits_source_init(&from_file, &limits);
    if (file && read_file(file, &from_file) != EXIT_DONE)
        return EXIT_USAGE;
    /* What only contradicts together shows when the sources are put together. */
    limits_source_init(&given, &from_file.limits);
    bool separated = optind > 1 && strcmp(argv[optind - 1], "--") == 0;
    for (; !separated && optind < argc && strchr(argv[optind], '='); optind++)
        if (!limits_take(&given, argv[optind], strlen(argv[optind]), true))
            return complain(EXIT_USAGE, "%s", given.error);
    if (!separated && optind < argc && strcmp(argv[optind], "--") == 0)
        optind++;
    else if (!separated && optind < argc)
        return complain(EXIT_USAGE, "%s: neither LIMIT=VALUE nor `--` before the command",
                        argv[optind]);
    if (optind >= argc)
        return usage_of("run");
    if (given_name && !limits_name_valid(given_name))
        return bad_name(given_name);
    if (given_name && given.name[0] && strcmp(given.name, given_name) != 0)
        return complain(EXIT_USAGE, "name=%s: contradicts --name %s", given.name, given_name);
    if (!given_name)
        given_name = given.name[0] ? given.name : from_file.name[0] ? from_file.name : NULL;
    if (given_name)
        snprintf(name, sizeof name, "%s", given_name);
    else
        name_after(argv[optind], name);
    if (read_configuration(name, &configured) != EXIT_DONE)
        return EXIT_USAGE;
    limits_add(&configured, &from_file);
    limits_add(&configured, &given);
    int status = check_free(name, &configured.limits, given.given || from_file.given);
    return status == EXIT_DONE ? start(name, &configured, argv + optind) : status;
}
