/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "fd/gate.h"

#include "base/real.h"

#include <errno.h>
#include <linux/filter.h>
#include <string.h>

#define TCP_FLAGS_AT 13 /* RFC 9293, 3.1: the byte with the control bits */
#define SYN 0x02
#define ACK 0x10

/* Lets every segment pass but the first SYN of a connection. */
static struct sock_filter program[] = {
    BPF_STMT(BPF_LD | BPF_B | BPF_ABS, TCP_FLAGS_AT),
    BPF_STMT(BPF_ALU | BPF_AND | BPF_K, SYN | ACK),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYN, 0, 1),
    BPF_STMT(BPF_RET | BPF_K, 0),
    BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
};

#define PROGRAM_LENGTH (sizeof program / sizeof *program)

bool gate_shut(int fd)
{
    struct sock_fprog filter = {.len = PROGRAM_LENGTH, .filter = program};
    return kernel_call(SYS_setsockopt, fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) ==
           0;
}

bool gate_open(int fd)
{
    int unused = 0; /* the kernel wants an int's length, though it has no use for the value */
    return kernel_call(SYS_setsockopt, fd, SOL_SOCKET, SO_DETACH_FILTER, &unused, sizeof unused) ==
           0;
}

bool gate_is_shut(int fd)
{
    struct sock_filter attached[PROGRAM_LENGTH] = {{0}};
    socklen_t count =
        PROGRAM_LENGTH; /* of instructions, not bytes: sk_get_filter() of the kernel */
    return kernel_call(SYS_getsockopt, fd, SOL_SOCKET, SO_GET_FILTER, attached, &count) == 0 &&
           count == PROGRAM_LENGTH && memcmp(attached, program, sizeof program) == 0;
}

bool gate_is_foreign(int fd)
{
    socklen_t count = 0; /* asks for the length alone */
    /* A filter of extended BPF cannot be read back, and says so: sk_get_filter() again. */
    return (kernel_call(SYS_getsockopt, fd, SOL_SOCKET, SO_GET_FILTER, NULL, &count) < 0
                ? errno == EACCES
                : count > 0) &&
           !gate_is_shut(fd);
}
