/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "accept/shedding.h"

#include "accept/exemption.h"
#include "accept/waiting_room.h"

#include "base/due.h"
#include "base/polling.h"
#include "base/real.h"
#include "base/spinlock.h"
#include "dialects/busy.h"
#include "process/descriptors.h"
#include "process/service.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define MILLISECOND UINT64_C(1000000)
#define LINGER_MAX 512
/* Of the descriptors that are left to the program: one in so many may be lent to a refusal. */
#define DESCRIPTORS_A_REFUSAL 8
#define LINGER_NS (2000 * MILLISECOND)
/* How long a client may take to say which protocol it speaks; then it is closed unanswered. */
#define REQUEST_NS (1000 * MILLISECOND)
#define ATTEND_EVERY_NS (2 * MILLISECOND)
#define PEEK_MAX 2048

enum stage { STAGE_NONE, STAGE_AWAIT_REQUEST, STAGE_AWAIT_CLOSE };

static struct lingering {
    int fd;
    enum stage stage;
    bool late;
    enum when_full how;
    uint32_t listener; /* SHEDDING_KNOWN: its request is not exempt */
    uint64_t until_ns;
} lingering[LINGER_MAX];
_Atomic uint32_t shedding_lingering_count;
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

static void count(enum counter counter, enum event_kind event, const char *why)
{
    static _Atomic uint64_t told_ns, untold;
    service_count(counter, 1);
    atomic_fetch_add(&untold, 1);
    if (due_to_tell(&told_ns))
        service_event(event, atomic_exchange(&untold, 0), why);
}

/* Everybody is counted once, under the first that holds. */
static void count_refusal(bool late, bool by_reset)
{
    if (late)
        count(COUNTER_SHED_LATE, EVENT_SHED_LATE, "waited longer than queue-delay");
    else if (by_reset)
        count(COUNTER_SHED_RESET, EVENT_SHED_RESET, "a ceiling is reached");
    else
        count(COUNTER_SHED_BUSY, EVENT_SHED_BUSY, "a ceiling is reached");
}

/* Sends the answer, all of it or nothing: it fits in any send buffer. */
static bool answer(int fd, enum busy_protocol protocol, const struct busy_client *client)
{
    struct limits limits;
    char text[BUSY_REPLY_MAX];

    segment_read_limits(service.segment, &limits);
    size_t length = busy_compose(protocol, &limits, client, text, sizeof text);
    /* The last word waits for the FIN that follows at once, and leaves in one segment with it. */
    int more = protocol == BUSY_IN_POSTGRES_NEGOTIATION ? 0 : MSG_MORE;
    long sent =
        kernel_call(SYS_sendto, fd, text, length, MSG_DONTWAIT | MSG_NOSIGNAL | more, NULL, 0);
    return length > 0 && sent == (long)length;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_storage address = {0};
    socklen_t length = sizeof address;
    if (kernel_call(SYS_getsockname, fd, &address, &length) < 0)
        return 0;
    if (address.ss_family == AF_INET)
        return ntohs(((const struct sockaddr_in *)&address)->sin_port);
    return address.ss_family == AF_INET6 ? ntohs(((const struct sockaddr_in6 *)&address)->sin6_port)
                                         : 0;
}

/* recv(2) with MSG_TRUNC drops a stream's bytes without copying them: tcp(7). */
static void drop(int fd, size_t length)
{
    char unused[1];
    kernel_call(SYS_recvfrom, fd, unused, length, MSG_TRUNC | MSG_DONTWAIT, NULL, NULL);
}

enum request { REQUEST_NOT_YET, REQUEST_ANSWERED, REQUEST_FINISHED, REQUEST_HOPELESS };

/* Looks at what the client has sent, and answers when that is enough. */
static enum request respond(int fd, bool out_of_time)
{
    char sent[PEEK_MAX];
    enum busy_protocol protocol;
    enum busy_reply chosen = (enum busy_reply)segment_limit(service.segment, LIMIT_BUSY);
    struct busy_client client = {
        .sent = sent, .program = program_invocation_short_name, .out_of_time = out_of_time};

    for (;;) {
        long length =
            kernel_call(SYS_recvfrom, fd, sent, sizeof sent, MSG_PEEK | MSG_DONTWAIT, NULL, NULL);
        if (length == 0 || (length < 0 && errno != EAGAIN))
            return REQUEST_HOPELESS;
        client.length = length > 0 ? (size_t)length : 0;
        client.port = client.length == 0 && chosen == BUSY_AUTO ? port_of(fd) : 0;
        enum busy_recognition known = busy_recognise(chosen, &client, &protocol);
        if (known == BUSY_UNKNOWN || (known == BUSY_UNDECIDED && out_of_time))
            return REQUEST_HOPELESS;
        if (known == BUSY_UNDECIDED)
            return REQUEST_NOT_YET;
        bool finished = busy_has_all(protocol, &client);
        if (client.length && (finished || protocol == BUSY_IN_POSTGRES_NEGOTIATION))
            drop(fd, client.length);
        if (!answer(fd, protocol, &client))
            return REQUEST_HOPELESS;
        if (protocol != BUSY_IN_POSTGRES_NEGOTIATION)
            return finished ? REQUEST_FINISHED : REQUEST_ANSWERED;
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

/* Lets it in, or has it wait, after all. */
static bool park(int fd, const struct lingering *who, enum guest_kind kind)
{
    struct sockaddr_storage from = {0};
    socklen_t length = sizeof from;
    struct guest guest = {.kind = kind, .since_ns = monotonic_ns()};
    kernel_call(SYS_getpeername, fd, &from, &length);
    guest.key = peer_table_key(&from);
    bool ours = descriptor_kind(descriptor_at(fd)) == DESCRIPTOR_OWN;
    descriptor what = ours ? descriptor_take(fd) : 0;
    if (waiting_room_park(who->listener, fd, guest))
        return true;
    if (ours)
        descriptor_put(fd, what);
    return false;
}

/* What becomes of somebody whose request may be exempt. True when that is settled, and `stage` says
 * how. */
static bool settle_exempt(int fd, const struct lingering *who, bool out_of_time, enum stage *stage)
{
    if (who->listener == SHEDDING_KNOWN)
        return false;
    enum busy_recognition exempt = exemption_by_request(fd);
    if (exempt == BUSY_UNDECIDED && !out_of_time)
        return true;
    *stage = STAGE_NONE;
    if (exempt == BUSY_RECOGNISED)
        return park(fd, who, GUEST_EXEMPT);
    return who->how == WHEN_FULL_HOLD && park(fd, who, GUEST_HELD);
}

/* One step; the stage to go on with, or STAGE_NONE when the connection is closed. */
static enum stage advance(int fd, enum stage stage, bool out_of_time, const struct lingering *who)
{
    if (stage == STAGE_AWAIT_REQUEST) {
        if (settle_exempt(fd, who, out_of_time, &stage))
            return stage;
        enum request request =
            who->how == WHEN_FULL_RESET ? REQUEST_HOPELESS : respond(fd, out_of_time);
        if (request == REQUEST_NOT_YET)
            return STAGE_AWAIT_REQUEST;
        count_refusal(who->late, request == REQUEST_HOPELESS);
        if (request == REQUEST_HOPELESS)
            reset(fd);
        else if (request == REQUEST_FINISHED)
            let_go(fd);
        else
            kernel_call(SYS_shutdown, fd, SHUT_WR);
        if (request != REQUEST_ANSWERED)
            return STAGE_NONE;
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

/* Waits for nothing more: answers or resets who has not heard yet, and closes. With no input left
 * unread an answer survives that. */
static void finish(int fd, enum stage stage, const struct lingering *who)
{
    while (stage != STAGE_NONE)
        stage = advance(fd, stage, true, who);
}

/* --- those who linger; the lock is held --- */

static void end_lingering(struct lingering *entry)
{
    finish(entry->fd, entry->stage, entry);
    entry->stage = STAGE_NONE;
    atomic_fetch_sub(&shedding_lingering_count, 1);
}

/* The first to be ended when there is no room for all: who is silent, for longest. */
static struct lingering *least_hopeful(void)
{
    struct lingering *least = NULL;
    for (unsigned i = 0; i < LINGER_MAX; i++) {
        struct lingering *entry = &lingering[i];
        if (entry->stage != STAGE_NONE &&
            (!least || entry->stage < least->stage ||
             (entry->stage == least->stage && entry->until_ns < least->until_ns)))
            least = entry;
    }
    return least;
}

static struct lingering *free_entry(void)
{
    unsigned i = 0;
    while (i < LINGER_MAX && lingering[i].stage != STAGE_NONE)
        i++;
    return i < LINGER_MAX ? &lingering[i] : NULL;
}

/* How many may linger. The kernel gave the lowest number that was free: all below are taken, and
 * what is above, up to the limit as it is now, is left, but for what lingers there. */
static uint32_t lingering_most(int lowest)
{
    struct rlimit limit = {.rlim_cur = 0};
    kernel_call(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &limit);
    rlim_t left = limit.rlim_cur > (rlim_t)lowest ? limit.rlim_cur - (rlim_t)lowest : 0;
    rlim_t most = left / DESCRIPTORS_A_REFUSAL;
    return most < LINGER_MAX ? (uint32_t)most : LINGER_MAX;
}

/* The descriptor is moved out of the program's way; false when no more may linger. */
static bool make_linger(int fd, enum stage stage, const struct lingering *who)
{
    uint32_t most = lingering_most(fd);
    if (most == 0)
        return false;
    /* Not with the lock held: whose trace it finds at the number may be one that lingers. */
    fd = descriptor_move_high(fd);
    spinlock_take(&lock);
    while (atomic_load(&shedding_lingering_count) >= most)
        end_lingering(least_hopeful());
    struct lingering *entry = free_entry();
    *entry = *who;
    entry->fd = fd;
    entry->stage = stage;
    entry->until_ns = monotonic_ns() + patience(stage);
    descriptor_put(fd, descriptor_make(DESCRIPTOR_OWN, (uint32_t)(entry - lingering), 0));
    atomic_fetch_add(&shedding_lingering_count, 1);
    spinlock_give(&lock);
    return true;
}

bool shedding_give_back(void)
{
    bool any = false;
    int saved = errno;
    spinlock_take(&lock);
    for (unsigned i = 0; i < LINGER_MAX; i++) {
        if (lingering[i].stage == STAGE_NONE)
            continue;
        end_lingering(&lingering[i]);
        any = true;
    }
    spinlock_give(&lock);
    errno = saved;
    return any;
}

/* --- refusing --- */

static void refuse_by_reset(int fd, bool late)
{
    count_refusal(late, true);
    reset(fd);
}

static void refuse_by_answer(int fd, const struct lingering *who, bool attended)
{
    enum stage stage = advance(fd, STAGE_AWAIT_REQUEST, !attended, who);
    if (stage != STAGE_NONE && !make_linger(fd, stage, who))
        finish(fd, stage, who);
}

void shedding_refuse(int fd, uint32_t listener, enum when_full how, bool late, bool attended)
{
    int saved = errno;
    struct lingering who = {.late = late, .how = how, .listener = listener};
    descriptor_put(fd, 0); /* the trace of an unseen close, if there is one */
    bool may_be_exempt = listener != SHEDDING_KNOWN && exemption_by_request(fd) != BUSY_UNKNOWN;
    if (how != WHEN_FULL_RESET || may_be_exempt)
        refuse_by_answer(fd, &who, attended);
    else
        refuse_by_reset(fd, late);
    errno = saved;
}

void shedding_linger(int fd)
{
    int saved = errno;
    descriptor_put(fd, 0);
    struct lingering who = {.how = WHEN_FULL_BUSY, .listener = SHEDDING_KNOWN};
    if (!make_linger(fd, STAGE_AWAIT_CLOSE, &who))
        finish(fd, STAGE_AWAIT_CLOSE, &who);
    errno = saved;
}

/* One look at all of them; only those that did something, or are out of time, cost more. */
static void attend_all(uint64_t now)
{
    struct pollfd fds[LINGER_MAX];
    unsigned place[LINGER_MAX], entries = 0;

    for (unsigned i = 0; i < LINGER_MAX; i++) {
        if (lingering[i].stage == STAGE_NONE)
            continue;
        fds[entries] = (struct pollfd){.fd = lingering[i].fd, .events = POLLIN};
        place[entries++] = i;
    }
    polling_now(fds, entries);
    for (unsigned i = 0; i < entries; i++) {
        struct lingering *entry = &lingering[place[i]];
        bool out_of_time = now >= entry->until_ns;
        if (!fds[i].revents && !out_of_time)
            continue;
        /* POLLHUP: both sides are closed, so that what is unread is answered with no reset. */
        bool over = entry->stage == STAGE_AWAIT_CLOSE && fds[i].revents & POLLHUP;
        if (over)
            let_go(entry->fd);
        enum stage stage = over ? STAGE_NONE : advance(entry->fd, entry->stage, out_of_time, entry);
        if (stage != entry->stage)
            entry->until_ns = now + patience(stage);
        entry->stage = stage;
        if (stage == STAGE_NONE)
            atomic_fetch_sub(&shedding_lingering_count, 1);
    }
}

void shedding_attend(void)
{
    uint64_t now = monotonic_ns(), due = atomic_load(&attend_next_ns);
    if (now < due || !atomic_compare_exchange_strong(&attend_next_ns, &due, now + ATTEND_EVERY_NS))
        return;
    int saved = errno;
    spinlock_take(&lock);
    attend_all(now);
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
        atomic_fetch_sub(&shedding_lingering_count, 1);
    }
    spinlock_give(&lock);
}

static void let_everybody_go(void)
{
    for (unsigned i = 0; i < LINGER_MAX; i++) {
        if (lingering[i].stage != STAGE_NONE)
            let_go(lingering[i].fd);
        lingering[i].stage = STAGE_NONE;
    }
    atomic_store(&shedding_lingering_count, 0);
}

void shedding_let_everybody_go(void)
{
    if (!shedding_lingering())
        return;
    spinlock_take(&lock);
    let_everybody_go();
    spinlock_give(&lock);
}

void shedding_after_fork_in_child(void)
{
    spinlock_reset(&lock);
    let_everybody_go();
}
