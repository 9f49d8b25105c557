/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "shedding.h"

#include "busy.h"
#include "descriptors.h"
#include "real.h"
#include "service.h"
#include "spinlock.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MILLISECOND UINT64_C(1000000)
#define LINGER_MAX 512
#define LINGER_NS (2000 * MILLISECOND)
/* How long a client may take to say which protocol it speaks; then it is closed unanswered. */
#define REQUEST_NS (1000 * MILLISECOND)
#define ATTEND_EVERY_NS (1 * MILLISECOND)
#define EVENT_EVERY_NS (1000 * MILLISECOND)
#define PEEK_MAX 512

enum stage { STAGE_NONE, STAGE_AWAIT_REQUEST, STAGE_AWAIT_CLOSE };

static struct lingering {
    int fd;
    enum stage stage;
    uint64_t until_ns;
} lingering[LINGER_MAX];
static _Atomic uint32_t lingering_count;
static _Atomic uint64_t attend_next_ns;
static struct spinlock lock;

/* Closes it, whether it already lingers or was accepted a moment ago. */
static void let_go(int fd)
{
    if (descriptor_kind(descriptor_at(fd)) == DESCRIPTOR_OWN)
        descriptor_close_own(fd);
    else
        kernel_call(SYS_close, fd);
}

static void reset(int fd)
{
    struct linger hard = {.l_onoff = 1, .l_linger = 0};
    kernel_call(SYS_setsockopt, fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    let_go(fd);
}

static void count(enum counter counter, enum event_kind event)
{
    static _Atomic uint64_t told_ns, untold;
    uint64_t now = monotonic_ns(), before = atomic_load(&told_ns);

    service_count(counter, 1);
    atomic_fetch_add(&untold, 1);
    if ((before == 0 || now - before > EVENT_EVERY_NS) &&
        atomic_compare_exchange_strong(&told_ns, &before, now))
        service_event(event, atomic_exchange(&untold, 0), "a ceiling is reached");
}

/* Sends the answer, all of it or nothing: it fits in any send buffer. */
static bool answer(int fd, enum busy_protocol protocol)
{
    struct limits limits;
    char text[BUSY_REPLY_MAX];

    segment_read_limits(service.segment, &limits);
    size_t length = busy_compose(protocol, &limits, text, sizeof text);
    long sent = kernel_call(SYS_sendto, fd, text, length, MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0);
    if (sent != (long)length)
        return false;
    kernel_call(SYS_shutdown, fd, SHUT_WR);
    count(COUNTER_SHED_BUSY, EVENT_SHED_BUSY);
    return true;
}

enum request { REQUEST_NOT_YET, REQUEST_KNOWN, REQUEST_HOPELESS };

/* Finds out how to answer, from the operator's choice or from what the client has sent. */
static enum request look(int fd, enum busy_protocol *protocol)
{
    enum busy_reply chosen = (enum busy_reply)segment_limit(service.segment, LIMIT_BUSY);
    char sent[PEEK_MAX];

    if (busy_protocol_of(chosen, protocol))
        return REQUEST_KNOWN;
    long length =
        kernel_call(SYS_recvfrom, fd, sent, sizeof sent, MSG_PEEK | MSG_DONTWAIT, NULL, NULL);
    if (length < 0)
        return errno == EAGAIN ? REQUEST_NOT_YET : REQUEST_HOPELESS;
    if (length == 0)
        return REQUEST_HOPELESS;
    switch (busy_recognise(sent, (size_t)length, protocol)) {
    case BUSY_RECOGNISED:
        return REQUEST_KNOWN;
    case BUSY_UNDECIDED:
        return REQUEST_NOT_YET;
    default:
        return REQUEST_HOPELESS;
    }
}

/* Reads and drops what the client sent. True when there is no more to come. */
static bool drained(int fd)
{
    char dropped[4096];
    for (int i = 0; i < 16; i++) {
        long length =
            kernel_call(SYS_recvfrom, fd, dropped, sizeof dropped, MSG_DONTWAIT, NULL, NULL);
        if (length == 0)
            return true;
        if (length < 0)
            return errno != EAGAIN && errno != EINTR;
    }
    return false;
}

/* One step; the stage to go on with, or STAGE_NONE when the connection is closed. */
static enum stage advance(int fd, enum stage stage, bool out_of_time)
{
    enum busy_protocol protocol;

    if (stage == STAGE_AWAIT_REQUEST) {
        enum request request = look(fd, &protocol);
        if (request == REQUEST_NOT_YET && !out_of_time)
            return stage;
        if (request != REQUEST_KNOWN || !answer(fd, protocol)) {
            count(COUNTER_SHED_RESET, EVENT_SHED_RESET);
            reset(fd);
            return STAGE_NONE;
        }
        stage = STAGE_AWAIT_CLOSE;
        out_of_time = false;
    }
    if (!drained(fd) && !out_of_time)
        return stage;
    let_go(fd);
    return STAGE_NONE;
}

static uint64_t patience(enum stage stage)
{
    return stage == STAGE_AWAIT_REQUEST ? REQUEST_NS : LINGER_NS;
}

static bool make_linger(int fd, enum stage stage)
{
    bool done = false;
    spinlock_take(&lock);
    for (unsigned i = 0; i < LINGER_MAX && !done; i++) {
        if (lingering[i].stage != STAGE_NONE)
            continue;
        lingering[i].fd = fd;
        lingering[i].stage = stage;
        lingering[i].until_ns = monotonic_ns() + patience(stage);
        descriptor_put(fd, descriptor_make(DESCRIPTOR_OWN, i, 0));
        atomic_fetch_add(&lingering_count, 1);
        done = true;
    }
    spinlock_give(&lock);
    return done;
}

void shedding_refuse(int fd, enum when_full how)
{
    int saved = errno;
    descriptor_put(fd, 0); /* the trace of an unseen close, if there is one */
    /* It must not outlive an exec in a program that cannot know of it. */
    kernel_call(SYS_fcntl, fd, F_SETFD, FD_CLOEXEC);
    if (how == WHEN_FULL_BUSY) {
        enum stage stage = advance(fd, STAGE_AWAIT_REQUEST, false);
        if (stage != STAGE_NONE)
            fd = descriptor_move_high(fd);
        if (stage != STAGE_NONE && !make_linger(fd, stage)) {
            if (stage == STAGE_AWAIT_REQUEST) {
                count(COUNTER_SHED_RESET, EVENT_SHED_RESET);
                reset(fd);
            } else {
                let_go(fd); /* answered; with no input left unread the answer survives */
            }
        }
    } else {
        count(COUNTER_SHED_RESET, EVENT_SHED_RESET);
        reset(fd);
    }
    errno = saved;
}

bool shedding_lingering(void)
{
    return atomic_load_explicit(&lingering_count, memory_order_relaxed) != 0;
}

void shedding_attend(void)
{
    uint64_t now, due;
    if (!shedding_lingering())
        return;
    now = monotonic_ns();
    due = atomic_load(&attend_next_ns);
    if (now < due || !atomic_compare_exchange_strong(&attend_next_ns, &due, now + ATTEND_EVERY_NS))
        return;
    int saved = errno;
    spinlock_take(&lock);
    for (unsigned i = 0; i < LINGER_MAX; i++) {
        struct lingering *entry = &lingering[i];
        if (entry->stage == STAGE_NONE)
            continue;
        enum stage stage = advance(entry->fd, entry->stage, now >= entry->until_ns);
        if (stage != entry->stage)
            entry->until_ns = now + patience(stage);
        entry->stage = stage;
        if (stage == STAGE_NONE)
            atomic_fetch_sub(&lingering_count, 1);
    }
    spinlock_give(&lock);
    errno = saved;
}

void shedding_forget(int fd)
{
    spinlock_take(&lock);
    for (unsigned i = 0; i < LINGER_MAX; i++) {
        if (lingering[i].stage == STAGE_NONE || lingering[i].fd != fd)
            continue;
        lingering[i].stage = STAGE_NONE;
        atomic_fetch_sub(&lingering_count, 1);
    }
    spinlock_give(&lock);
}

void shedding_after_fork_in_child(void)
{
    spinlock_reset(&lock);
    for (unsigned i = 0; i < LINGER_MAX; i++) {
        if (lingering[i].stage != STAGE_NONE)
            let_go(lingering[i].fd);
        lingering[i].stage = STAGE_NONE;
    }
    atomic_store(&lingering_count, 0);
}
