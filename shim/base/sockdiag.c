/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Linked into bpctl too. Raw system calls: nothing here may pass through the interposed symbols.
 */
#include "base/sockdiag.h"
#include "base/real.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define ANSWER_BYTES 8192
#define UNIX_LISTENING 10 /* TCP_LISTEN, as unix(7) sockets report it too */

struct request {
    struct nlmsghdr header;
    union {
        struct inet_diag_req_v2 inet;
        struct unix_diag_req unix_socket;
    } body;
};

static int diag_open(void)
{
    return (int)kernel_call(SYS_socket, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
}

static void diag_close(int fd)
{
    int saved = errno;
    kernel_call(SYS_close, fd);
    errno = saved;
}

static bool diag_send(int fd, struct request *request, size_t body, uint16_t flags)
{
    request->header.nlmsg_len = (uint32_t)(sizeof request->header + body);
    request->header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
    request->header.nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
    return kernel_call(SYS_sendto, fd, request, request->header.nlmsg_len, 0, NULL, 0) ==
           (long)request->header.nlmsg_len;
}

static long diag_receive(int fd, void *answer, size_t size)
{
    long got;
    do {
        got = kernel_call(SYS_recvfrom, fd, answer, size, 0, NULL, NULL);
    } while (got < 0 && errno == EINTR);
    return got;
}

static uint64_t cookie_of(const uint32_t half[2])
{
    return (uint64_t)half[1] << 32 | half[0];
}

uint64_t sockdiag_cookie(int fd)
{
    uint64_t cookie = 0;
    socklen_t length = sizeof cookie;
    if (kernel_call(SYS_getsockopt, fd, SOL_SOCKET, SO_COOKIE, &cookie, &length) < 0)
        return 0;
    return cookie;
}

/* fstat past what is interposed; its layout is the kernel's own on 64-bit machines. */
static bool status_of(int fd, struct stat *status)
{
#if defined SYS_fstat && __SIZEOF_POINTER__ == 8
    return kernel_call(SYS_fstat, fd, status) == 0;
#else
    struct statx all = {0};
    if (kernel_call(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_TYPE | STATX_INO, &all) < 0)
        return false;
    status->st_mode = all.stx_mode;
    status->st_ino = (ino_t)all.stx_ino;
    return true;
#endif
}

uint64_t sockdiag_inode(int fd)
{
    struct stat status;
    return status_of(fd, &status) && S_ISSOCK(status.st_mode) ? status.st_ino : 0;
}

uint64_t sockdiag_identity(int fd)
{
    uint64_t cookie = sockdiag_cookie(fd), inode;
    if (cookie)
        return cookie;
    inode = sockdiag_inode(fd);
    return inode ? inode | SOCKDIAG_BY_INODE : 0;
}

enum sockdiag_same sockdiag_is(int fd, uint64_t inode)
{
    struct stat status;
    if (inode == 0)
        return SOCKDIAG_UNTOLD;
    if (!status_of(fd, &status))
        return errno == EBADF ? SOCKDIAG_OTHER : SOCKDIAG_UNTOLD;
    return S_ISSOCK(status.st_mode) && status.st_ino == inode ? SOCKDIAG_SAME : SOCKDIAG_OTHER;
}

void sockdiag_remember(const struct sockdiag_entry *entry, struct sockdiag_socket *socket)
{
    socket->cookie = entry->cookie;
    socket->inode = entry->inode;
    socket->interface = entry->interface;
    socket->family = entry->family;
    socket->ports[0] = htons(entry->port);
    socket->ports[1] = htons(entry->remote_port);
    memcpy(socket->addresses[0], entry->address, sizeof entry->address);
    memcpy(socket->addresses[1], entry->remote_address, sizeof entry->remote_address);
}

/* Fills the body of a request for one socket; its length, or 0 when too little is known of it. */
static size_t ask_for(const struct sockdiag_socket *socket, struct request *request)
{
    uint32_t cookie[2] = {(uint32_t)socket->cookie, (uint32_t)(socket->cookie >> 32)};
    if (socket->cookie == 0)
        cookie[0] = cookie[1] = INET_DIAG_NOCOOKIE;
    if (socket->family == AF_UNIX) {
        struct unix_diag_req *want = &request->body.unix_socket;
        want->sdiag_family = AF_UNIX;
        want->udiag_states = UINT32_MAX;
        want->udiag_ino = socket->inode;
        memcpy(want->udiag_cookie, cookie, sizeof cookie);
        return sizeof *want;
    }
    if (socket->family != AF_INET && socket->family != AF_INET6)
        return 0;
    struct inet_diag_req_v2 *want = &request->body.inet;
    want->sdiag_family = (uint8_t)socket->family;
    want->sdiag_protocol = IPPROTO_TCP;
    want->idiag_states = UINT32_MAX;
    want->id.idiag_if = socket->interface;
    want->id.idiag_sport = socket->ports[0];
    want->id.idiag_dport = socket->ports[1];
    memcpy(want->id.idiag_src, socket->addresses[0], 16);
    memcpy(want->id.idiag_dst, socket->addresses[1], 16);
    memcpy(want->id.idiag_cookie, cookie, sizeof cookie);
    return sizeof *want;
}

enum sockdiag_answer sockdiag_ask(const struct sockdiag_socket *socket)
{
    struct request request = {0};
    union {
        struct nlmsghdr header;
        char bytes[1024];
    } answer;
    size_t body = ask_for(socket, &request);
    int fd = body ? diag_open() : -1;
    long got = -1;

    if (fd < 0)
        return SOCKDIAG_UNKNOWN;
    if (diag_send(fd, &request, body, 0))
        got = diag_receive(fd, &answer, sizeof answer);
    diag_close(fd);
    if (got < (long)sizeof answer.header)
        return SOCKDIAG_UNKNOWN;
    if (answer.header.nlmsg_type == NLMSG_ERROR) {
        const struct nlmsgerr *error = NLMSG_DATA(&answer.header);
        return error->error == -ENOENT || error->error == -ESTALE ? SOCKDIAG_ABSENT
                                                                  : SOCKDIAG_UNKNOWN;
    }
    if (answer.header.nlmsg_type != SOCK_DIAG_BY_FAMILY)
        return SOCKDIAG_UNKNOWN;
    if (socket->family == AF_UNIX)
        return SOCKDIAG_HELD; /* found by its inode, which it loses with its last descriptor */
    const struct inet_diag_msg *found = NLMSG_DATA(&answer.header);
    return found->idiag_inode ? SOCKDIAG_HELD : SOCKDIAG_ORPHANED;
}

static void visit_message(const struct nlmsghdr *message, int family, sockdiag_visit visit,
                          void *context)
{
    struct sockdiag_entry entry = {0};
    if (family != AF_UNIX) {
        const struct inet_diag_msg *inet = NLMSG_DATA(message);
        entry.cookie = cookie_of(inet->id.idiag_cookie);
        entry.inode = inet->idiag_inode;
        entry.state = inet->idiag_state;
        entry.queue = inet->idiag_state == TCP_LISTEN ? inet->idiag_rqueue : inet->idiag_wqueue;
        entry.received = inet->idiag_state == TCP_LISTEN ? 0 : inet->idiag_rqueue;
        entry.backlog = inet->idiag_wqueue;
        entry.family = inet->idiag_family;
        entry.port = ntohs(inet->id.idiag_sport);
        entry.interface = inet->id.idiag_if;
        entry.remote_port = ntohs(inet->id.idiag_dport);
        memcpy(entry.address, inet->id.idiag_src, sizeof entry.address);
        memcpy(entry.remote_address, inet->id.idiag_dst, sizeof entry.remote_address);
        visit(&entry, context);
        return;
    }
    const struct unix_diag_msg *local = NLMSG_DATA(message);
    entry.family = AF_UNIX;
    entry.cookie = cookie_of(local->udiag_cookie);
    entry.inode = local->udiag_ino;
    entry.state = local->udiag_state;
    int rest = (int)(message->nlmsg_len - NLMSG_LENGTH(sizeof *local));
    for (const struct nlattr *attribute = (const void *)(local + 1);
         rest >= (int)sizeof *attribute && attribute->nla_len >= sizeof *attribute &&
         attribute->nla_len <= rest;) {
        if (attribute->nla_type == UNIX_DIAG_RQLEN) {
            const struct unix_diag_rqlen *length = (const void *)(attribute + 1);
            entry.queue = entry.state == TCP_LISTEN ? length->udiag_rqueue : length->udiag_wqueue;
            entry.received = entry.state == TCP_LISTEN ? 0 : length->udiag_rqueue;
            entry.backlog = length->udiag_wqueue;
        }
        int step = NLA_ALIGN(attribute->nla_len);
        rest -= step;
        attribute = (const void *)((const char *)attribute + step);
    }
    visit(&entry, context);
}

enum progress { UNDER_WAY, COMPLETE, FAILED };

static enum progress fail(int error)
{
    errno = error;
    return FAILED;
}

/* One message of a dump. A dump that the kernel cannot make ends with DONE and the error in it. */
static enum progress take_message(const struct nlmsghdr *message, int family, sockdiag_visit visit,
                                  void *context)
{
    int error = 0;
    if (message->nlmsg_flags & NLM_F_DUMP_INTR)
        return fail(EAGAIN); /* the table changed under the dump: some may be missing */
    if (message->nlmsg_type == NLMSG_ERROR || message->nlmsg_type == NLMSG_DONE) {
        if (message->nlmsg_len >= NLMSG_LENGTH(sizeof error))
            memcpy(&error, NLMSG_DATA(message), sizeof error);
        if (error < 0)
            return fail(-error);
        return message->nlmsg_type == NLMSG_DONE ? COMPLETE : fail(EPROTO);
    }
    if (message->nlmsg_type == SOCK_DIAG_BY_FAMILY)
        visit_message(message, family, visit, context);
    return UNDER_WAY;
}

static enum progress receive_some(int fd, int family, sockdiag_visit visit, void *context)
{
    union {
        struct nlmsghdr header;
        char bytes[ANSWER_BYTES];
    } answer;
    enum progress progress = UNDER_WAY;
    long got = diag_receive(fd, &answer, sizeof answer);
    if (got <= 0)
        return got < 0 ? FAILED : fail(EPROTO);
    size_t rest = (size_t)got;
    for (struct nlmsghdr *message = &answer.header;
         progress == UNDER_WAY && NLMSG_OK(message, rest); message = NLMSG_NEXT(message, rest))
        progress = take_message(message, family, visit, context);
    return progress;
}

bool sockdiag_dump(int family, bool listeners, sockdiag_visit visit, void *context)
{
    struct request request = {0};
    size_t body;
    if (family == AF_UNIX) {
        request.body.unix_socket.sdiag_family = AF_UNIX;
        request.body.unix_socket.udiag_states =
            listeners ? 1U << UNIX_LISTENING : ~(1U << UNIX_LISTENING);
        request.body.unix_socket.udiag_show = UDIAG_SHOW_RQLEN;
        body = sizeof request.body.unix_socket;
    } else {
        request.body.inet.sdiag_family = (uint8_t)family;
        request.body.inet.sdiag_protocol = IPPROTO_TCP;
        /* Neither half-open nor TIME_WAIT sockets are held by a process. */
        request.body.inet.idiag_states =
            listeners ? 1U << TCP_LISTEN
                      : ~(1U << TCP_LISTEN | 1U << TCP_TIME_WAIT | 1U << TCP_SYN_RECV);
        body = sizeof request.body.inet;
    }
    int fd = diag_open();
    if (fd < 0)
        return false;
    enum progress progress = diag_send(fd, &request, body, NLM_F_DUMP) ? UNDER_WAY : FAILED;
    while (progress == UNDER_WAY)
        progress = receive_some(fd, family, visit, context);
    diag_close(fd);
    return progress == COMPLETE;
}
