/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "requests/gate.h"

#include "accept/connections.h"
#include "requests/admit.h"
#include "requests/answers.h"
#include "requests/line.h"
#include "requests/reads.h"
#include "requests/refusals.h"
#include "requests/timeouts.h"
#include "requests/wakes.h"

static bool admits(int fd, struct flow *flow)
{
    struct request *request = request_of(flow);
    size_t most;
    if (!request || request_phase(request) == PHASE_STREAM)
        return true;
    enum admit admit = admit_input(fd, request, false, &most);
    return admit == ADMIT_GO || admit == ADMIT_END;
}

static void asks(struct flow *flow)
{
    struct request *request = request_of(flow);
    if (request)
        answers_end(request);
}

static void broken(int fd, struct flow *flow)
{
    struct request *request = request_of(flow);
    if (request)
        admit_broken(fd, request);
}

static void turn_begins(void)
{
    answers_turn();
    line_serve();
}

static void sleeps(bool begins)
{
    answers_sleeps(begins);
}

static void heard(void)
{
    wakes_heard();
}

static int64_t sooner(int64_t one, int64_t other)
{
    return one < 0 || (other >= 0 && other < one) ? other : one;
}

static int64_t next_look_ns(void)
{
    return sooner(sooner(line_next_look(), answers_next_look()), timeouts_next_look());
}

static int wake_fd(void)
{
    return line_length() ? wakes_descriptor() : -1;
}

const struct input_gate requests_gate = {
    .admits = admits,
    .asks = asks,
    .broken = broken,
    .turn_begins = turn_begins,
    .sleeps = sleeps,
    .next_look_ns = next_look_ns,
    .wake_fd = wake_fd,
    .heard = heard,
};

void requests_closes(int fd, struct flow *flow)
{
    struct request *request = request_of(flow);
    if (!request || request_phase(request) != PHASE_WAITING)
        return;
    line_leave(request);
    if (request_phase(request) == PHASE_REST && connections_held_alone(flow_slot(flow)))
        refuse_at_close(fd, request);
}

const struct flow_requests requests_calls = {
    .read = reads_message,
    .read_unseen = reads_unseen,
    .writes = answers_writes,
    .wrote = answers_wrote,
};
