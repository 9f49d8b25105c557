/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What this process knows of the request on each admitted connection. One entry a slot, beside its
 * flow, in this process's own memory.
 *
 * A request is what a client sends while nothing of it is unanswered. It begins, with a place under
 * the ceilings, when its head is there; the first byte of its answer answers it; it ends when the
 * program asks for more input of the connection with all its output handed to the kernel, or closes
 * it.
 *
 *                  told of by a wait, or about to be read       read       answered
 *        REST -----------------------------------> GRANTED ----------> INSIDE ------> ANSWERED
 *        |  ^ \                                     ^  |                  (place)        |
 *        |  |  \ no place: held           its turn  |  | nothing was read,               | the
 * program |  |   +-----------> WAITING --------------+  | or it has no place              | asks
 * for more |  +------------------------------------------+                                 | |
 * +----------------------------------------------------------------------------+ |  | or, inside a
 * transaction, KEPT (place) for a moment |  +------------------------- answered
 *        +--------> UNCOUNTED: exempt, silent or waiting on purpose; it has no place
 *        +--------> STREAM: left alone for good
 *
 * Whoever moves a phase to or from one with a place does it by compare and exchange, so that a
 * place is given back once. The rest of an entry belongs to the thread that reads the connection
 * (stream, asked_ns) or writes to it, which a program does one at a time.
 */
#ifndef BACKPRESSURE_REQUEST_ENTRIES_H
#define BACKPRESSURE_REQUEST_ENTRIES_H

#include "dialects/request.h"
#include "output/flows.h"
#include "segment/segment.h"

#include <sys/epoll.h>

enum request_phase {
    PHASE_REST,
    PHASE_WAITING,
    PHASE_GRANTED,
    PHASE_INSIDE,
    PHASE_ANSWERED,
    PHASE_KEPT,
    PHASE_UNCOUNTED,
    PHASE_STREAM,
};

struct request {
    _Atomic uint32_t generation; /* as the flow's */
    _Atomic uint32_t phase;
    struct request_stream stream;
    _Atomic uint64_t head_ns; /* since when a request's head is waited for: timeouts.h; or 0 */
    uint64_t since_ns; /* when the first one arrived of those that were refused in a row, or 0 */
    uint64_t asked_ns; /* when the request arrived, CLOCK_MONOTONIC */
    _Atomic uint32_t readers; /* threads in a read of it that does not block */
    _Atomic uint64_t began_ns, answered_ns;
    _Atomic uint32_t reads; /* moves with each read: a write tells by it what it answered */
    uint32_t write_saw;     /* `reads` when the write under way began */
    uint32_t next, before;  /* in line: slot + 1 */
    int fd;                 /* in line: the connection's descriptor */
    bool blocked;           /* in line: a thread waits for it in a read */
    bool in_hand;           /* in line: that thread has read it already, and refuses it itself */
    bool firm;              /* in line: it cannot be refused */
    _Atomic bool late;      /* was in line, in hand: it waited too long */
    bool above;             /* its place was taken above the ceilings, without a token */
    bool judged;            /* its wait was shown to queue-delay */
    bool pipelines;         /* several requests came in one piece: looked at before each read */
    bool passes_over;       /* refused before its end was there: the rest is not the program's */
    _Atomic bool refused_for_good; /* the program reads the end of input */
    bool was_reset;                /* by us: the program reads that */
    bool stream_counted;           /* in the process's streams */
    bool stamped;                  /* SO_TIMESTAMPNS was set */
    bool middle;   /* what was read before nobody saw: where a request begins is not known */
    bool spoken;   /* in the middle: the program has answered something since */
    uint8_t tries; /* in the middle: how often it was looked for where a request begins */
    _Atomic bool
        served; /* in line, blocked: its thread has not noticed yet that it is not any more */
    _Atomic bool pending; /* the last write fell short */
    /* Outlives the connection, since the list may still have the slot: requests_list. */
    _Atomic bool listed;
    uint32_t listed_next; /* slot + 1 */
};

extern INTERNAL struct request requests[SEGMENT_CONNS];

/* The entry of a flow, or NULL while none is kept: no limit concerns requests. */
static inline struct request *request_of(const struct flow *flow)
{
    struct request *request = &requests[flow_slot(flow)];
    uint32_t generation = atomic_load_explicit(&flow->generation, memory_order_relaxed);
    return generation &&
                   atomic_load_explicit(&request->generation, memory_order_relaxed) == generation
               ? request
               : NULL;
}

static inline uint32_t request_slot(const struct request *request)
{
    return (uint32_t)(request - requests);
}

static inline struct flow *request_flow(const struct request *request)
{
    return &flows[request_slot(request)];
}

static inline enum request_phase request_phase(const struct request *request)
{
    return (enum request_phase)atomic_load_explicit(&request->phase, memory_order_relaxed);
}

/* Where it stands in line: whoever was refused before has kept its place. */
static inline uint64_t request_order(const struct request *request)
{
    return request->since_ns ? request->since_ns : request->asked_ns;
}

/* Moves it from one phase to another; false when it was not in that. */
static inline bool request_moves(struct request *request, enum request_phase from,
                                 enum request_phase to)
{
    uint32_t expected = from;
    return atomic_compare_exchange_strong(&request->phase, &expected, to);
}

/* Whether the program has output for the connection that the kernel has not got yet: its last write
 * fell short, or it asks, level-triggered, to be told when it can write: Redis does that behind
 * each 64 KiB, though the kernel has room. */
static inline bool request_output_pending(const struct request *request)
{
    uint32_t events = atomic_load_explicit(&request_flow(request)->events, memory_order_relaxed);
    return atomic_load_explicit(&request->pending, memory_order_relaxed) ||
           ((events & (EPOLLOUT | EPOLLWRNORM)) && !(events & EPOLLET));
}

/* It has got its place, in phase GRANTED: the time begins, and it is listed. */
void request_begins(struct request *request, uint64_t now);

/* Lists it among those that have, or keep, a place which is to be looked after on each turn of a
 * wait. */
void requests_list(struct request *request);

/* Takes the whole list; its first, or NULL. requests_listed_next is called once for each, and then
 * it may be listed again. */
struct request *requests_take_list(void);
struct request *requests_listed_next(struct request *request);

/* Whether anybody is listed. One load. */
bool requests_anybody_listed(void);

void requests_forget_list(void);

#endif
