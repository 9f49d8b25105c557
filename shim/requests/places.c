/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "requests/places.h"

#include "output/watches.h"
#include "requests/in_flight.h"
#include "requests/line.h"

void request_lets_go(struct request *request, enum request_phase from, enum request_phase to)
{
    if (!request_moves(request, from, to))
        return;
    in_flight_give(request_slot(request));
    /* What came behind it waited for its end. */
    if (flow_signs(request_flow(request)) & FLOW_WAITS_TURN)
        watches_release(request_flow(request));
    line_serve();
}

void request_cancels(struct request *request, enum request_phase to)
{
    bool above = request->above;
    if (request_phase(request) != PHASE_GRANTED)
        return;
    if (!above)
        in_flight_token_back();
    request_lets_go(request, PHASE_GRANTED, to);
}

bool request_takes(struct request *request, bool above)
{
    request->above = above;
    return in_flight_take(request_slot(request), above);
}

void request_becomes_stream(struct request *request)
{
    static const enum request_phase with_place[] = {PHASE_GRANTED, PHASE_INSIDE, PHASE_ANSWERED,
                                                    PHASE_KEPT};
    line_leave(request);
    for (unsigned i = 0; i < sizeof with_place / sizeof *with_place; i++)
        request_lets_go(request, with_place[i], PHASE_STREAM);
    if (request_moves(request, PHASE_REST, PHASE_STREAM) ||
        request_moves(request, PHASE_UNCOUNTED, PHASE_STREAM) ||
        request_phase(request) == PHASE_STREAM)
        request_leave(&request->stream);
    if (!request->stream_counted && request_phase(request) == PHASE_STREAM) {
        request->stream_counted = true;
        atomic_fetch_add(&service_self()->streams, 1);
    }
}
