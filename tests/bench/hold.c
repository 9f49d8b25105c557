/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What holding costs, and how soon the next client is in: figures for people, not assertions.
 *
 *   hold [SECONDS [RECIPE]...]
 */
#include "../servers/crowd.h"
#include "../servers/recipes.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CEILING 20
#define CLIENTS 200
#define ROUNDS 20
#define PROCESSES_MAX 1024

/* Nanoseconds on a processor, of all threads of one process: proc(5), schedstat. */
static double runtime_of(pid_t pid)
{
    char path[128];
    double seconds = 0;
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    for (struct dirent *task; tasks && (task = readdir(tasks));) {
        unsigned long long nanoseconds;
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/schedstat", (int)pid, task->d_name);
        FILE *file = task->d_name[0] == '.' ? NULL : fopen(path, "re");
        if (file && fscanf(file, "%llu", &nanoseconds) == 1)
            seconds += (double)nanoseconds / 1e9;
        if (file)
            fclose(file);
    }
    if (tasks)
        closedir(tasks);
    return seconds;
}

static double runtime(const struct server *server)
{
    static pid_t all[PROCESSES_MAX];
    size_t count = descendants(server->pid, all, PROCESSES_MAX);
    double seconds = 0;
    for (size_t i = 0; i < count; i++)
        seconds += runtime_of(all[i]);
    return seconds;
}

/* Lets the crowd stand for `seconds`; the server's share of one processor meanwhile, in percent. */
static double share_over(const struct server *server, double seconds)
{
    struct timespec pause = {.tv_sec = (time_t)seconds,
                             .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    double before = runtime(server), started = seconds_now();
    nanosleep(&pause, NULL);
    return 100 * (runtime(server) - before) / (seconds_now() - started);
}

static int compare(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, compare);
    return values[count / 2];
}

/* Milliseconds from one client leaving to the next being answered. */
static double leave_one(struct crowd *crowd)
{
    size_t before = crowd_count(crowd, CLIENT_SERVED), chosen = (size_t)rand() % before, i = 0;
    for (; i < crowd->count; i++)
        if (crowd->client[i].state == CLIENT_SERVED && chosen-- == 0)
            break;
    double started = seconds_now();
    close(crowd->client[i].fd);
    crowd->client[i].fd = -1;
    crowd->client[i].state = CLIENT_LEFT;
    while (crowd_count(crowd, CLIENT_SERVED) < before && seconds_now() < started + 10)
        crowd_step(crowd, 1000);
    return 1000 * (seconds_now() - started);
}

/* Milliseconds from starting `bpctl set` to the next client being answered. */
static double raise_limit(const struct server *server, struct crowd *crowd, unsigned to)
{
    char limit[32], out[256];
    snprintf(limit, sizeof limit, "total-conns=%u", to);
    double started = seconds_now();
    bpctl(server, out, sizeof out, (const char *const[]){"set", server->name, limit, NULL});
    while (crowd_count(crowd, CLIENT_SERVED) < to && seconds_now() < started + 10)
        crowd_step(crowd, 1000);
    return 1000 * (seconds_now() - started);
}

static void measure(const struct recipe *recipe, double seconds)
{
    static const char *const limits[] = {"total-conns=20", NULL};
    double freed[ROUNDS], raised[ROUNDS];
    struct server server;
    struct crowd crowd;

    if (!recipe_available(recipe) || !recipe_start(recipe, &server, limits))
        return;
    total_becomes(&server, "conns", 0, 10000);
    double idle = share_over(&server, seconds);
    struct sockaddr_in address = loopback(server.port);
    crowd_start(&crowd, CLIENTS, (struct sockaddr *)&address, sizeof address, NULL, 0,
                recipe->request, recipe->request_length);
    crowd_until(&crowd, CLIENT_SERVED, CEILING, 30000);
    double held = share_over(&server, seconds);
    for (size_t i = 0; i < ROUNDS; i++)
        freed[i] = leave_one(&crowd);
    for (unsigned i = 0; i < ROUNDS; i++)
        raised[i] = raise_limit(&server, &crowd, CEILING + i + 1);
    double freed_median = median(freed, ROUNDS), raised_median = median(raised, ROUNDS);
    printf("%-16s %8.2f %8.2f %8.2f   %8.1f %8.1f   %8.1f %8.1f\n", recipe->name, idle, held,
           held - idle, freed_median, freed[ROUNDS - 1], raised_median, raised[ROUNDS - 1]);
    fflush(stdout);
    crowd_end(&crowd);
    server_stop(&server);
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 5;
    printf("%-16s %26s   %17s   %17s\n%-16s %8s %8s %8s   %8s %8s   %8s %8s\n", "",
           "processor, percent", "slot freed, ms", "bpctl set, ms", "server", "idle", "held",
           "growth", "median", "worst", "median", "worst");
    for (size_t i = 0; i < recipes_count; i++) {
        bool wanted = argc < 3;
        for (int j = 2; j < argc; j++)
            wanted |= strcmp(argv[j], recipes[i].name) == 0;
        if (wanted)
            measure(&recipes[i], seconds);
    }
    return 0;
}
