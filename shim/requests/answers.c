/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "requests/answers.h"

#include "requests/in_flight.h"
#include "requests/line.h"
#include "requests/places.h"

#include <errno.h>

#define MILLISECOND UINT64_C(1000000)
/* An answer that has begun, and not come to its end for so long, is a stream: a long poll, an
 * endless list. */
#define STREAMS_NS (1000 * MILLISECOND)
/* A transaction whose client thinks keeps its place for so long. The next statement is let in at
 * once all the same. */
#define KEPT_NS (20 * MILLISECOND)
#define LOOK_NS (20 * MILLISECOND)

/* A place that was given and not used: the program was told of input, and does not read it. */
#define GRANTED_NS (500 * MILLISECOND)

/* --- ends --- */

static bool unfinished(const struct request *request, uint64_t now)
{
    return request_output_pending(request) ||
           (request->stream.flags & ANSWER_UNFINISHED &&
            now - atomic_load_explicit(&request->answered_ns, memory_order_relaxed) < STREAMS_NS);
}

static void keep_or_end(struct request *request, uint64_t now)
{
    if (!(request->stream.flags & SESSION_TRANSACTION)) {
        request_lets_go(request, PHASE_ANSWERED, PHASE_REST);
        return;
    }
    atomic_store(&request->answered_ns, now);
    if (request_moves(request, PHASE_ANSWERED, PHASE_KEPT))
        requests_list(request);
}

static void end_unless_read(struct request *request, uint32_t readers)
{
    if (request_phase(request) != PHASE_ANSWERED || atomic_load(&request->readers) > readers)
        return;
    uint64_t now = monotonic_ns();
    if (!unfinished(request, now))
        keep_or_end(request, now);
}

void answers_end(struct request *request)
{
    end_unless_read(request, 0);
}

void answers_end_reading(struct request *request)
{
    end_unless_read(request, 1);
}

bool answers_next(struct request *request)
{
    uint64_t now = monotonic_ns();
    if (request_phase(request) != PHASE_ANSWERED || unfinished(request, now) ||
        !request_moves(request, PHASE_ANSWERED, PHASE_GRANTED))
        return false;
    request_begins(request, now);
    return true;
}

/* Whether it is to be looked at again. */
static bool stays(struct request *request, uint64_t now)
{
    answers_end(request);
    enum request_phase phase = request_phase(request);
    if (phase == PHASE_KEPT || phase == PHASE_GRANTED) {
        bool kept = phase == PHASE_KEPT;
        uint64_t since = atomic_load_explicit(kept ? &request->answered_ns : &request->began_ns,
                                              memory_order_relaxed);
        if (now - since >= (kept ? KEPT_NS : GRANTED_NS))
            request_lets_go(request, phase, PHASE_REST);
    }
    phase = request_phase(request);
    return phase == PHASE_ANSWERED || phase == PHASE_KEPT || phase == PHASE_GRANTED;
}

void answers_turn(void)
{
    if (!requests_anybody_listed())
        return;
    uint64_t now = monotonic_ns();
    for (struct request *request = requests_take_list(), *next; request; request = next) {
        next = requests_listed_next(request);
        if (stays(request, now))
            requests_list(request);
    }
}

static _Atomic int sleeping;

void answers_sleeps(bool begins)
{
    atomic_fetch_add_explicit(&sleeping, begins ? 1 : -1, memory_order_relaxed);
}

int64_t answers_next_look(void)
{
    return requests_anybody_listed() ? (int64_t)LOOK_NS : -1;
}

/* --- writes --- */

void answers_writes(struct flow *flow)
{
    struct request *request = request_of(flow);
    if (request)
        request->write_saw = atomic_load_explicit(&request->reads, memory_order_relaxed);
}

static enum answer_step show(struct request *request, const struct iovec *vector, size_t skip,
                             size_t bytes)
{
    bool first =
        request_phase(request) == PHASE_INSIDE || request_phase(request) == PHASE_UNCOUNTED;
    enum answer_step step = ANSWER_NOTHING;
    if (!vector)
        return request_answer_unseen(&request->stream, bytes, first);
    for (; bytes && step != ANSWER_LEAVES; vector++) {
        size_t length = vector->iov_len > skip ? vector->iov_len - skip : 0;
        length = length < bytes ? length : bytes;
        enum answer_step part =
            request_answer(&request->stream, (const char *)vector->iov_base + skip, length, first);
        step = part > step ? part : step;
        first = first && step == ANSWER_NOTHING;
        skip = vector->iov_len > skip ? 0 : skip - vector->iov_len;
        bytes -= length;
    }
    return step;
}

static void begun(struct request *request)
{
    uint64_t now = monotonic_ns(), began = atomic_load(&request->began_ns);
    uint64_t response = now > began ? now - began : 0;
    atomic_store(&request->answered_ns, now);
    if (!request_moves(request, PHASE_INSIDE, PHASE_ANSWERED))
        return;
    requests_list(request);
    histogram_add(&service_self()->response, response);
    if (in_flight_answered(response))
        line_serve();
}

/* More of an answer went out, or all of it. A thread that sleeps in a wait does not look again for
 * this; and nobody may ever, where each connection has a thread, and this one only writes. */
static void went_on(struct request *request, bool first)
{
    if (request_phase(request) != PHASE_ANSWERED)
        return;
    if (atomic_load_explicit(&sleeping, memory_order_relaxed) > 0 ||
        (!first && monotonic_ns() - atomic_load(&request->answered_ns) >= STREAMS_NS))
        answers_end(request);
}

void answers_wrote(struct flow *flow, const struct iovec *vector, size_t skip, size_t bytes,
                   size_t rest)
{
    struct request *request = request_of(flow);
    if (!request || request_phase(request) == PHASE_STREAM)
        return;
    int saved = errno;
    bool first = request_phase(request) != PHASE_ANSWERED;
    atomic_store_explicit(&request->pending, rest > 0, memory_order_relaxed);
    request->spoken |= bytes > 0;
    if (bytes && !request->middle) {
        enum answer_step step = show(request, vector, skip, bytes);
        if (step == ANSWER_LEAVES)
            request_becomes_stream(request);
        /* Another thread may have read the next request meanwhile, which this does not answer. */
        if (step == ANSWER_BEGUN &&
            atomic_load_explicit(&request->reads, memory_order_relaxed) == request->write_saw) {
            begun(request);
            request_moves(request, PHASE_UNCOUNTED, PHASE_REST);
        }
        went_on(request, first);
    }
    errno = saved;
}
