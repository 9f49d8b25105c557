/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * bpctl probe: loads the eBPF probe and leaves two processes behind: one that feeds it, and one
 * that takes the pins away when that one ends, however it ends.
 */
#include "commands.h"
#include "feeder.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LOCK_PATH "/run/backpressure-probe"
#define ENDS_SECONDS 10
#define SAID_MAX 1024
#define MISSING "this kernel does not give: "

static volatile sig_atomic_t stop;

static void ask_to_stop(int signal_number)
{
    (void)signal_number;
    stop = 1;
}

/* The lock file, opened; the lock is whoever's feeds the probe. -1 when it cannot be opened. */
static int open_lock(bool create)
{
    return open(LOCK_PATH, O_RDWR | O_CLOEXEC | O_NOFOLLOW | (create ? O_CREAT : 0), 0644);
}

/* Who feeds the probe; 0 when nobody does. */
static pid_t running(int lock)
{
    char text[32] = "";
    if (lock < 0)
        return 0;
    if (flock(lock, LOCK_EX | LOCK_NB) == 0) {
        flock(lock, LOCK_UN);
        return 0;
    }
    ssize_t length = pread(lock, text, sizeof text - 1, 0);
    return length > 0 ? (pid_t)atoi(text) : -1;
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = ask_to_stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    action.sa_handler = SIG_IGN;
    sigaction(SIGHUP, &action, NULL);
    sigaction(SIGPIPE, &action, NULL);
}

/* Loads, says through `report` and in the lock's file how that went, and feeds until told to stop.
 */
static int feed(int lock, int report)
{
    char why[LOADER_WHY];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct loader *loader = loader_start(why, sizeof why);
    struct feeder *feeder = loader ? feeder_new(loader) : NULL;
    if (!feeder) {
        dprintf(report, "!%s", loader ? "out of memory" : why);
        return EXIT_FAILED;
    }
    feeder_walk(feeder, NULL);
    dprintf(report, "+");
    for (const char *const *missing = loader_missing(loader); *missing; missing++) {
        dprintf(report, MISSING "%s\n", *missing);
        dprintf(lock, MISSING "%s\n", *missing);
    }
    close(report);
    feeder_run(feeder, &stop);
    feeder_free(feeder);
    loader_stop(loader);
    return EXIT_DONE;
}

/* Waits for the one that feeds, and cleans up after it. */
static void guard(int lock, int report)
{
    int status;
    pid_t feeder = ftruncate(lock, 0) == 0 ? fork() : -1;
    if (feeder == 0) {
        dprintf(lock, "%d\n", (int)getpid());
        _exit(feed(lock, report));
    }
    close(report);
    while (waitpid(feeder, &status, 0) < 0 && errno == EINTR)
        if (stop)
            kill(feeder, SIGTERM);
    loader_clear_pins();
    unlink(LOCK_PATH);
    _exit(EXIT_DONE);
}

static int start(void)
{
    char said[SAID_MAX] = "";
    size_t length = 0;
    int report[2];

    if (geteuid() != 0)
        return complain(EXIT_FAILED,
                        "probe start: needs root (CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN)");
    int lock = open_lock(true);
    if (lock < 0)
        return complain(EXIT_FAILED, "%s: %s", LOCK_PATH, strerror(errno));
    pid_t other = running(lock);
    if (other || flock(lock, LOCK_EX | LOCK_NB) < 0)
        return complain(EXIT_FAILED, "the probe runs already, fed by process %d", (int)other);
    if (loader_clear_pins())
        fprintf(stderr, "bpctl: pins that an earlier probe left behind were replaced\n");
    if (pipe2(report, O_CLOEXEC) < 0)
        return complain(EXIT_FAILED, "no pipe: %s", strerror(errno));
    pid_t guardian = fork();
    if (guardian == 0) {
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        setsid();
        for (int fd = 0; fd < 3; fd++)
            dup2(null, fd);
        if (chdir("/") < 0)
            _exit(EXIT_FAILED);
        close(report[0]);
        catch_signals();
        guard(lock, report[1]);
    }
    close(report[1]);
    for (ssize_t got; (got = read(report[0], said + length, sizeof said - 1 - length)) > 0;)
        length += (size_t)got;
    if (said[0] != '+')
        return complain(EXIT_FAILED, "%s",
                        said[0] ? said + 1 : "the probe's process ended at once");
    puts("the probe runs; its maps are under " PROBE_DIRECTORY);
    fputs(said + 1, stdout);
    return EXIT_DONE;
}

static int stop_it(void)
{
    int lock = open_lock(false);
    pid_t feeder = running(lock);
    if (feeder > 0 && kill(feeder, SIGTERM) < 0 && errno == EPERM)
        return complain(EXIT_FAILED, "probe stop: needs root");
    if (feeder == 0) {
        unsigned left = loader_clear_pins();
        unlink(LOCK_PATH);
        return complain(EXIT_FAILED, left ? "the probe does not run; what it left was removed"
                                          : "the probe does not run");
    }
    struct timespec pause = {.tv_nsec = 10000000};
    for (int i = 0; i < ENDS_SECONDS * 100 && running(lock); i++)
        nanosleep(&pause, NULL);
    if (running(lock))
        return complain(EXIT_FAILED, "process %d, which feeds the probe, does not end",
                        (int)feeder);
    puts("the probe is unloaded");
    return EXIT_DONE;
}

static void count(const struct depth_key *key, const struct depth *depth, void *context)
{
    (void)key;
    (void)depth;
    ++*(unsigned *)context;
}

static int status(void)
{
    int lock = open_lock(false);
    pid_t feeder = running(lock);
    unsigned entries = 0;
    if (feeder == 0) {
        bool pinned = access(PROBE_DIRECTORY "/depth", F_OK) == 0;
        return complain(EXIT_FAILED,
                        !loader_built() ? "this bpctl was built without the probe"
                        : pinned
                            ? "the probe does not run, but its pins are left; `bpctl probe stop` "
                              "removes them"
                            : "the probe does not run");
    }
    char text[SAID_MAX] = "";
    ssize_t length = pread(lock, text, sizeof text - 1, 0);
    const char *missing = length > 0 ? strchr(text, '\n') : NULL;
    printf("the probe runs, fed by process %d\n%s", (int)feeder, missing ? missing + 1 : "");
    if (loader_read_depth(count, &entries) == 0)
        printf("%u processes and ports in " PROBE_DIRECTORY "/depth\n", entries);
    else
        printf(PROBE_DIRECTORY "/depth: %s\n", strerror(errno));
    return EXIT_DONE;
}

int command_probe(int argc, char **argv)
{
    static const struct option options[] = {{"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    static const struct {
        const char *name;
        int (*run)(void);
    } actions[] = {{"start", start}, {"stop", stop_it}, {"status", status}};

    int option = getopt_long(argc, argv, "h", options, NULL);
    if (option != -1)
        return option == 'h' ? help_of("probe") : bad_option(argv);
    for (size_t i = 0; optind + 1 == argc && i < sizeof actions / sizeof *actions; i++)
        if (strcmp(argv[optind], actions[i].name) == 0)
            return actions[i].run();
    return usage_of("probe");
}
