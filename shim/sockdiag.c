/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Linked into bpctl too. Raw system calls: nothing here may pass through the interposed symbols.
 */
#include "sockdiag.h"
#include "real.h"

#include <errno.h>
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
#include <sys/un.h>
#include <unistd.h>

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

static void note_address(struct sockdiag_socket *out, int side,
                         const struct sockaddr_storage *address)
{
    if (address->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)address;
        memcpy(out->addresses[side], &in->sin_addr, 4);
        out->ports[side] = in->sin_port;
    } else if (address->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
        memcpy(out->addresses[side], &in6->sin6_addr, 16);
        out->ports[side] = in6->sin6_port;
    }
}

void sockdiag_note(int fd, struct sockdiag_socket *out)
{
    struct sockaddr_storage local = {0}, remote = {0};
    socklen_t local_length = sizeof local, remote_length = sizeof remote;
    struct stat status;

    memset(out, 0, sizeof *out);
    out->cookie = sockdiag_cookie(fd);
    if (!out->cookie || kernel_call(SYS_getsockname, fd, &local, &local_length) < 0)
        return;
    if (local.ss_family == AF_UNIX) {
        if (fstat(fd, &status) < 0)
            return;
        out->inode = (uint32_t)status.st_ino;
    } else if (kernel_call(SYS_getpeername, fd, &remote, &remote_length) < 0) {
        return; /* not connected any more: nothing to look it up by */
    }
    out->family = local.ss_family;
    note_address(out, 0, &local);
    note_address(out, 1, &remote);
}

enum sockdiag_answer sockdiag_ask(const struct sockdiag_socket *socket)
{
    struct request request = {0};
    union {
        struct nlmsghdr header;
        char bytes[1024];
    } answer;
    size_t body;

    if (socket->family == AF_UNIX) {
        struct unix_diag_req *want = &request.body.unix_socket;
        want->sdiag_family = AF_UNIX;
        want->udiag_states = UINT32_MAX;
        want->udiag_ino = socket->inode;
        want->udiag_cookie[0] = (uint32_t)socket->cookie;
        want->udiag_cookie[1] = (uint32_t)(socket->cookie >> 32);
        body = sizeof *want;
    } else if (socket->family == AF_INET || socket->family == AF_INET6) {
        struct inet_diag_req_v2 *want = &request.body.inet;
        want->sdiag_family = (uint8_t)socket->family;
        want->sdiag_protocol = IPPROTO_TCP;
        want->idiag_states = UINT32_MAX;
        want->id.idiag_sport = socket->ports[0];
        want->id.idiag_dport = socket->ports[1];
        memcpy(want->id.idiag_src, socket->addresses[0], 16);
        memcpy(want->id.idiag_dst, socket->addresses[1], 16);
        want->id.idiag_cookie[0] = (uint32_t)socket->cookie;
        want->id.idiag_cookie[1] = (uint32_t)(socket->cookie >> 32);
        body = sizeof *want;
    } else {
        return SOCKDIAG_UNKNOWN;
    }
    int fd = diag_open();
    if (fd < 0)
        return SOCKDIAG_UNKNOWN;
    long got = -1;
    if (diag_send(fd, &request, body, 0))
        got = diag_receive(fd, &answer, sizeof answer);
    diag_close(fd);
    if (got < (long)sizeof answer.header)
        return SOCKDIAG_UNKNOWN;
    if (answer.header.nlmsg_type == NLMSG_ERROR) {
        const struct nlmsgerr *error = NLMSG_DATA(&answer.header);
        return error->error == -ENOENT || error->error == -ESTALE ? SOCKDIAG_GONE
                                                                  : SOCKDIAG_UNKNOWN;
    }
    if (answer.header.nlmsg_type != SOCK_DIAG_BY_FAMILY)
        return SOCKDIAG_UNKNOWN;
    if (socket->family == AF_UNIX)
        return SOCKDIAG_HELD; /* found by its inode, which it loses with its last descriptor */
    const struct inet_diag_msg *found = NLMSG_DATA(&answer.header);
    return found->idiag_inode ? SOCKDIAG_HELD : SOCKDIAG_GONE;
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
        memcpy(entry.address, inet->id.idiag_src, sizeof entry.address);
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
    bool complete = false, failed = !diag_send(fd, &request, body, NLM_F_DUMP);
    while (!complete && !failed) {
        union {
            struct nlmsghdr header;
            char bytes[ANSWER_BYTES];
        } answer;
        long got = diag_receive(fd, &answer, sizeof answer);
        if (got <= 0)
            break;
        size_t rest = (size_t)got;
        for (struct nlmsghdr *message = &answer.header; NLMSG_OK(message, rest);
             message = NLMSG_NEXT(message, rest)) {
            if (message->nlmsg_flags & NLM_F_DUMP_INTR)
                failed = true; /* the table changed under the dump: some may be missing */
            if (message->nlmsg_type == NLMSG_DONE)
                complete = true;
            else if (message->nlmsg_type == NLMSG_ERROR)
                failed = true;
            else if (message->nlmsg_type == SOCK_DIAG_BY_FAMILY)
                visit_message(message, family, visit, context);
        }
    }
    diag_close(fd);
    return complete && !failed;
}
