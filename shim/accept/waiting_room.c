/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "accept/waiting_room.h"

#include "base/real.h"
#include "base/spinlock.h"
#include "base/trace.h"
#include "fd/listeners.h"
#include "process/descriptors.h"
#include "process/service.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define BUFFER_WANTED (1 << 20)

/* One listener's. Guests are in the order in which the connections lie in the socket pair. */
static struct room {
    int in, out; /* 0 until the first one waits */
    _Atomic uint32_t count;
    _Atomic uint32_t exempt; /* of these */
    struct guest guest[WAITING_ROOM_MAX];
} rooms[LISTENERS_MAX];
_Atomic uint32_t waiting_room_occupants;
static struct spinlock lock;

static bool open_room(struct room *room)
{
    int pair[2], size = BUFFER_WANTED;
    if (room->in)
        return true;
    if (kernel_call(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
                    pair) < 0)
        return false;
    for (unsigned i = 0; i < 2; i++) {
        pair[i] = descriptor_move_high(pair[i]);
        descriptor_put(pair[i], descriptor_make(DESCRIPTOR_OWN, 0, 0));
    }
    kernel_call(SYS_setsockopt, pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    room->in = pair[0];
    room->out = pair[1];
    return true;
}

/* Closing both ends closes what is in flight between them. */
static void close_room(struct room *room)
{
    descriptor_close_own(room->in);
    descriptor_close_own(room->out);
    room->in = room->out = 0;
    atomic_store(&room->exempt, 0);
    atomic_fetch_sub(&waiting_room_occupants, atomic_exchange(&room->count, 0));
}

union control {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int))];
};

static bool push(const struct room *room, int fd)
{
    union control control = {0};
    char byte = 0;
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &data,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof control.space,
    };
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    return kernel_call(SYS_sendmsg, room->in, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == 1;
}

static int pull(const struct room *room)
{
    union control control = {0};
    char byte;
    int fd = -1;
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &data,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof control.space,
    };
    if (kernel_call(SYS_recvmsg, room->out, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != 1 ||
        message.msg_controllen < CMSG_LEN(sizeof fd) || control.header.cmsg_type != SCM_RIGHTS)
        return -1;
    memcpy(&fd, CMSG_DATA(&control.header), sizeof fd);
    return fd;
}

bool waiting_room_park(uint32_t listener, int fd, struct guest guest)
{
    bool parked = false;
    int saved = errno;
    if (listener >= LISTENERS_MAX)
        return false;
    struct room *room = &rooms[listener];
    spinlock_take(&lock);
    uint32_t count = atomic_load(&room->count);
    if (count < WAITING_ROOM_MAX && open_room(room) && push(room, fd)) {
        room->guest[count] = guest;
        atomic_fetch_add(&room->exempt, guest.kind == GUEST_EXEMPT);
        atomic_store(&room->count, count + 1);
        atomic_fetch_add(&waiting_room_occupants, 1);
        parked = true;
        trace(TRACE_ACCEPT, "park", fd, "kind", guest.kind, "parked", count + 1);
        kernel_call(SYS_close, fd);
    }
    spinlock_give(&lock);
    errno = saved;
    return parked;
}

/* Those before `place` go to the end: they are over a ceiling of their own and wait on. */
static int take_out(struct room *room, uint32_t place)
{
    uint32_t count = atomic_load(&room->count);
    struct guest passed_over[WAITING_ROOM_MAX];

    for (uint32_t i = 0; i < place; i++) {
        int fd = pull(room);
        if (fd < 0)
            return -1;
        bool back = push(room, fd);
        kernel_call(SYS_close, fd);
        if (!back)
            return -1;
    }
    int fd = pull(room);
    atomic_fetch_sub(&room->exempt, room->guest[place].kind == GUEST_EXEMPT);
    memcpy(passed_over, room->guest, place * sizeof *room->guest);
    memmove(room->guest, room->guest + place + 1, (count - place - 1) * sizeof *room->guest);
    memcpy(room->guest + count - place - 1, passed_over, place * sizeof *room->guest);
    atomic_store(&room->count, count - 1);
    atomic_fetch_sub(&waiting_room_occupants, 1);
    return fd;
}

int waiting_room_next(uint32_t listener, uint32_t *peer)
{
    int fd = -1, saved = errno;
    if (listener >= LISTENERS_MAX || waiting_room_count(listener) == 0)
        return -1;
    struct room *room = &rooms[listener];
    spinlock_take(&lock);
    uint32_t count = atomic_load(&room->count);
    for (uint32_t place = 0; place < count; place++) {
        if (room->guest[place].kind == GUEST_EXEMPT ||
            !peers_reserve(room->guest[place].key, false, peer))
            continue;
        fd = take_out(room, place);
        if (fd < 0) {
            peers_cancel(*peer);
            close_room(room); /* out of step with its list: never seen, but not to be trusted */
        }
        break;
    }
    spinlock_give(&lock);
    errno = saved;
    return fd;
}

/* Takes the first one out that is `exempt`, or is not. */
static int take_first_that_is(uint32_t listener, bool exempt)
{
    int fd = -1, saved = errno;
    if (waiting_room_count(listener) == 0)
        return -1;
    struct room *room = &rooms[listener];
    spinlock_take(&lock);
    uint32_t count = atomic_load(&room->count), place = 0;
    while (place < count && (room->guest[place].kind == GUEST_EXEMPT) != exempt)
        place++;
    if (place < count && (fd = take_out(room, place)) < 0)
        close_room(room);
    spinlock_give(&lock);
    errno = saved;
    return fd;
}

int waiting_room_next_exempt(uint32_t listener)
{
    return waiting_room_exempt(listener) ? take_first_that_is(listener, true) : -1;
}

uint64_t waiting_room_since(uint32_t listener)
{
    uint64_t since = 0;
    if (waiting_room_count(listener) == 0)
        return 0;
    spinlock_take(&lock);
    const struct room *room = &rooms[listener];
    if (atomic_load(&room->count) && room->guest[0].kind == GUEST_HELD)
        since = room->guest[0].since_ns;
    spinlock_give(&lock);
    return since;
}

int waiting_room_take_first(uint32_t listener)
{
    return take_first_that_is(listener, false);
}

bool waiting_room_ready(uint32_t listener)
{
    bool ready = false;
    if (listener >= LISTENERS_MAX || waiting_room_count(listener) == 0)
        return false;
    spinlock_take(&lock);
    uint32_t count = atomic_load(&rooms[listener].count);
    for (uint32_t i = 0; i < count && !ready; i++)
        ready = rooms[listener].guest[i].kind != GUEST_EXEMPT &&
                peers_have_room(rooms[listener].guest[i].key);
    spinlock_give(&lock);
    return ready;
}

bool waiting_room_exempt(uint32_t listener)
{
    return listener < LISTENERS_MAX &&
           atomic_load_explicit(&rooms[listener].exempt, memory_order_relaxed) != 0;
}

uint32_t waiting_room_count(uint32_t listener)
{
    return listener < LISTENERS_MAX
               ? atomic_load_explicit(&rooms[listener].count, memory_order_relaxed)
               : 0;
}

bool waiting_room_has_space(uint32_t listener)
{
    return waiting_room_count(listener) < WAITING_ROOM_MAX;
}

bool waiting_room_give_back(void)
{
    bool any = false;
    int saved = errno;
    spinlock_take(&lock);
    for (uint32_t i = 0; i < LISTENERS_MAX; i++) {
        if (rooms[i].in == 0 || atomic_load(&rooms[i].count) != 0)
            continue;
        close_room(&rooms[i]);
        any = true;
    }
    spinlock_give(&lock);
    errno = saved;
    return any;
}

void waiting_room_close(uint32_t listener)
{
    if (listener >= LISTENERS_MAX || rooms[listener].in == 0)
        return;
    int saved = errno;
    spinlock_take(&lock);
    close_room(&rooms[listener]);
    spinlock_give(&lock);
    errno = saved;
}

void waiting_room_forget(int fd)
{
    for (unsigned i = 0; i < LISTENERS_MAX; i++)
        if (rooms[i].in == fd || rooms[i].out == fd)
            waiting_room_close(i);
}

void waiting_room_after_fork_in_child(void)
{
    spinlock_reset(&lock);
    for (unsigned i = 0; i < LISTENERS_MAX; i++)
        if (rooms[i].in)
            close_room(&rooms[i]);
}
