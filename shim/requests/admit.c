/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "requests/admit.h"

#include "base/trace.h"
#include "output/watches.h"
#include "requests/delay.h"
#include "requests/in_flight.h"
#include "requests/line.h"
#include "requests/places.h"
#include "requests/refusals.h"

#define UNBOUNDED SIZE_MAX

bool admit_carefully(const struct request *request)
{
    return request->pipelines || request->passes_over || !in_flight_room() || line_stands() ||
           delay_suspects();
}

/* --- what needs no place --- */

/* A request that nobody counts: the program reads it, and its answer ends it. */
static enum admit uncounted(struct request *request, const struct ahead *ahead, size_t *most)
{
    if (ahead->stream.flags & REQUEST_EXEMPT) {
        request_moves(request, PHASE_REST, PHASE_UNCOUNTED);
        service_count(COUNTER_REQUESTS_EXEMPT, 1);
    }
    *most = ahead->ends_at ? ahead->ends_at : (size_t)ahead->there;
    return ADMIT_GO;
}

static bool needs_no_place(const struct ahead *ahead)
{
    return ahead->step == REQUEST_LEAVES || !(ahead->stream.flags & REQUEST_HEAD_WHOLE) ||
           ahead->stream.flags & (REQUEST_EXEMPT | REQUEST_SILENT | REQUEST_WAITS);
}

/* What is there belongs to a request that the program has seen the head of, and has answered: the
 * rest of a body that it did not want. */
static bool rest_of_answered(const struct request *request)
{
    return !request_between(&request->stream) && request->stream.flags & REQUEST_HEAD_WHOLE &&
           !(request->stream.flags & REQUEST_UNBOUNDED);
}

/* --- what needs one --- */

static enum admit granted(struct request *request, const struct ahead *ahead, size_t *most)
{
    request_moves(request, PHASE_REST, PHASE_GRANTED);
    request_begins(request, monotonic_ns());
    /* Of several that came together, one at a time. */
    if (ahead && ahead->ends_at && (size_t)ahead->there > ahead->ends_at)
        request->pipelines = true;
    *most = ahead && ahead->ends_at && request->pipelines ? ahead->ends_at : UNBOUNDED;
    return ADMIT_GO;
}

static enum admit hold(int fd, struct request *request, bool blocked)
{
    service_count(COUNTER_REQUESTS_HELD, 1);
    flows_tell(fd, EVENT_REQUEST_HELD, 0);
    if (!blocked)
        watches_withhold(request_flow(request));
    line_join(request, fd, blocked);
    line_serve();
    if (request_phase(request) != PHASE_WAITING) /* served at once, or refused */
        return request->refused_for_good                 ? ADMIT_END
               : request_phase(request) == PHASE_GRANTED ? ADMIT_GO
                                                         : ADMIT_AGAIN;
    trace(TRACE_WAIT, "hold-request", fd, "in-line", line_length(), NULL, 0);
    return ADMIT_WAIT;
}

bool admit_lets_wait(const struct request *request)
{
    if (delay_target() != LIMIT_OFF && !delay_stands())
        return true;
    return request->since_ns && line_waiting() < gauge_count(&service.segment->requests);
}

/* Where those who find no place are refused: whether this one may wait, or finds one. */
static bool may_wait(const struct request *request)
{
    return admit_lets_wait(request) ||
           (!line_stands() && (in_flight_room() || !in_flight_full_for_certain()));
}

static enum admit refuse(int fd, struct request *request, struct ahead *ahead, enum when_full how,
                         enum refusal_reason reason, bool blocked)
{
    enum refusal refusal = refuse_ahead(fd, request, ahead, how, reason);
    if (reason == REFUSED_FULL)
        delay_turns_away(monotonic_ns());
    if (refusal == REFUSAL_NOT)
        return hold(fd, request, blocked);
    return refusal == REFUSAL_CLOSES ? ADMIT_END : ADMIT_AGAIN;
}

/* What waits is a request that is to have a place. */
static enum admit decide(int fd, struct request *request, struct ahead *ahead, bool blocked,
                         size_t *most)
{
    enum when_full how = (enum when_full)segment_limit(service.segment, LIMIT_WHEN_FULL);
    uint64_t now = monotonic_ns();
    request->asked_ns = ahead->arrived_ns ? ahead->arrived_ns : now;
    if (request->stream.flags & SESSION_TRANSACTION) {
        request_takes(request, true);
        return granted(request, ahead, most);
    }
    if (how != WHEN_FULL_HOLD && !may_wait(request))
        return refuse(fd, request, ahead, how, REFUSED_FULL, blocked);
    if (delay_sheds(fd, request->asked_ns, now, line_length()))
        return refuse(fd, request, ahead, how, REFUSED_LATE, blocked);
    request->judged = true;
    if (!line_stands() && request_takes(request, false))
        return granted(request, ahead, most);
    return hold(fd, request, blocked);
}

static enum admit look(int fd, struct request *request, bool blocked, size_t *most)
{
    for (;;) {
        struct ahead ahead;
        if (!refusals_pass_over(fd, request))
            return ADMIT_AGAIN;
        look_ahead(fd, request, &ahead);
        if (ahead.nothing)
            return ADMIT_AGAIN;
        if (ahead.there <= 0) /* the end, or an error: the kernel says which */
            return ADMIT_GO;
        if (rest_of_answered(request)) {
            *most = ahead.ends_at ? ahead.ends_at : UNBOUNDED;
            return ADMIT_GO;
        }
        if (needs_no_place(&ahead))
            return uncounted(request, &ahead, most);
        enum admit admit = decide(fd, request, &ahead, blocked, most);
        bool more = (size_t)ahead.there > ahead.ends_at || ahead.there >= LOOK_AHEAD_MAX;
        if (admit != ADMIT_AGAIN || !more) /* what comes from now on is reported anew */
            return admit;
    }
}

/* One is unanswered, and more came: the program may have it when that is answered. What it says may
 * be that the client has gone. */
static enum admit behind(int fd, struct request *request)
{
    struct ahead ahead;
    if (!request_between(&request->stream) || !request->pipelines)
        return ADMIT_GO;
    look_ahead(fd, request, &ahead);
    if (ahead.there <= 0)
        return ADMIT_GO;
    watches_withhold(request_flow(request));
    if (request_phase(request) == PHASE_INSIDE)
        return ADMIT_WAIT;
    watches_release(request_flow(request)); /* answered meanwhile */
    return ADMIT_GO;
}

#define TRIES_MOST 8

/* Where requests begin was not known, since nobody saw what came before. What follows an answer,
 * and is a whole request of a protocol that is recognised, tells. */
static bool finds_its_way(int fd, struct request *request)
{
    struct ahead ahead;
    if (!request->spoken || request->tries == TRIES_MOST)
        return false;
    request->tries++;
    look_ahead(fd, request, &ahead);
    request->middle = ahead.ends_at == 0;
    if (!request->middle && request_may_be_inside(&ahead.stream))
        request->stream.flags |= SESSION_TRANSACTION;
    return !request->middle;
}

enum admit admit_input(int fd, struct request *request, bool blocked, size_t *most)
{
    *most = UNBOUNDED;
    if (request->refused_for_good)
        return ADMIT_END;
    if (request->was_reset || (request->middle && !finds_its_way(fd, request)))
        return ADMIT_GO;
    switch (request_phase(request)) {
    case PHASE_REST:
        break;
    case PHASE_WAITING:
        return ADMIT_WAIT;
    case PHASE_INSIDE:
        return behind(fd, request);
    default:
        return ADMIT_GO;
    }
    request->judged = false;
    if (!admit_carefully(request) && request_takes(request, false)) {
        request->asked_ns = 0;
        return granted(request, NULL, most);
    }
    return look(fd, request, blocked, most);
}

/* Of AF_UNIX a hang-up says no more than that the client has closed: it may not wait for an answer.
 * A reset says that it wants none. */
static bool begins_broken(struct request *request, bool waited)
{
    if (request_flow(request)->family == AF_UNIX)
        return request_takes(request, true);
    return !waited && !line_stands() && request_takes(request, false);
}

void admit_broken(int fd, struct request *request)
{
    bool waited = request_phase(request) == PHASE_WAITING;
    line_leave(request);
    request->pipelines = false; /* nothing is held back behind an unanswered one any more */
    watches_release(request_flow(request));
    if (request->middle || request->was_reset || request_phase(request) != PHASE_REST)
        return;
    size_t unread = look_ahead_unread(fd);
    if (unread == 0) /* the program finds the end, or the error */
        return;
    if (!begins_broken(request, waited))
        refuse_broken(fd, request, unread);
    else if (request_moves(request, PHASE_REST, PHASE_GRANTED))
        request_begins(request, monotonic_ns());
    else
        in_flight_give(request_slot(request));
}
