/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "interpose/wiring.h"

#include "accept/admission.h"
#include "accept/audit.h"
#include "accept/connections.h"
#include "accept/peers.h"
#include "accept/shedding.h"
#include "accept/waiting_room.h"
#include "base/sockdiag.h"
#include "connect/outbound.h"
#include "fd/listener_table.h"
#include "fd/listeners.h"
#include "fd/witness.h"
#include "output/backstop.h"
#include "output/credit.h"
#include "output/flows.h"
#include "output/grants.h"
#include "output/pacing.h"
#include "output/pausing.h"
#include "output/reading.h"
#include "output/sojourn.h"
#include "output/stalls.h"
#include "output/wakers.h"
#include "output/watches.h"
#include "process/descriptors.h"
#include "process/kept.h"
#include "process/reaping.h"
#include "requests/gate.h"
#include "requests/in_flight.h"
#include "requests/line.h"
#include "requests/requests.h"
#include "requests/timeouts.h"
#include "requests/wakes.h"
#include "wait/readiness.h"

/* --- what is done when descriptors come and go, by kind --- */

static void connection_departed(int fd, descriptor what, const struct departure *departure)
{
    (void)fd;
    connections_departed(what, departure);
}

static const struct descriptor_operations connection_operations = {
    .retain = connections_retain,
    .departing = connections_departing,
    .departed = connection_departed,
    .stays = connections_stay,
    .passed = connections_passed,
};

static void listener_retain(descriptor what)
{
    listeners_retain(descriptor_index(what));
}

static void listener_departed(int fd, descriptor what, const struct departure *departure)
{
    (void)departure;
    listeners_closed(fd, descriptor_index(what));
}

static const struct descriptor_operations listener_operations = {
    .retain = listener_retain,
    .departed = listener_departed,
};

static void epoll_set_departed(int fd, descriptor what, const struct departure *departure)
{
    (void)what;
    (void)departure;
    readiness_set_closed(fd);
}

static const struct descriptor_operations epoll_set_operations = {.departed = epoll_set_departed};

static void outbound_retained(descriptor what)
{
    outbound_retain(descriptor_index(what));
}

static void outbound_departs(int fd, descriptor what, struct departure *departure)
{
    (void)departure;
    outbound_departing(fd, descriptor_index(what));
}

static void outbound_departed(int fd, descriptor what, const struct departure *departure)
{
    (void)fd;
    (void)departure;
    outbound_closed(descriptor_index(what));
}

static const struct descriptor_operations outbound_operations = {
    .retain = outbound_retained,
    .departing = outbound_departs,
    .departed = outbound_departed,
};

static void own_departed(int fd, descriptor what, const struct departure *departure)
{
    (void)what;
    (void)departure;
    shedding_forget(fd);
    waiting_room_forget(fd);
    witness_forget(fd);
    wakes_forget(fd);
    wakers_forget(fd);
}

static const struct descriptor_operations own_operations = {.departed = own_departed};

static const struct descriptor_operations segment_operations = {.steps_aside = kept_move};

static bool adopt_listener(int fd)
{
    return listeners_learn(fd);
}

static bool adopt_connection(int fd)
{
    uint64_t inode = sockdiag_inode(fd);
    return inode && connections_adopt(fd, inode);
}

/* --- what is done for connections --- */

static void connection_begins(int fd, uint32_t slot, uint32_t generation,
                              struct connection_origin origin)
{
    flows_begin(fd, slot, generation, origin.family, origin.status);
    if (origin.inherited)
        flows_inherited(fd);
}

static void connection_closes(int fd, descriptor what)
{
    struct flow *flow = flow_at(what);
    if (!flow)
        return;
    requests_closes(fd, flow);
    watches_closes(fd, flow);
}

static void connection_left(uint32_t slot, uint32_t process)
{
    grants_left(slot, process);
    in_flight_left(slot, process);
}

static void connection_freed(uint32_t slot)
{
    grants_closed(slot);
    in_flight_freed(slot);
}

static const struct connection_features features = {
    .begins = connection_begins,
    .closes = connection_closes,
    .ends = flows_end,
    .shared = grants_shared,
    .left = connection_left,
    .freed = connection_freed,
    .room = grants_room,
    .make_room = credit_reclaim,
    .room_made = readiness_room_made,
    .attend = flows_attend,
    .verify = audit_run,
};

static void verify_peer(uint32_t peer, bool all)
{
    if (all)
        audit_run();
    audit_peer(peer);
}

/* --- what is done for listeners --- */

static const struct listeners_audience listeners_audience = {
    .descriptor_closed = readiness_listener_closed,
    .closed = waiting_room_close,
};

static const struct admission_waits admission_waits = {
    .show_everything = readiness_show_everything,
    .hold = readiness_hold,
    .report_again = readiness_report_again,
};

/* --- what is done for processes --- */

static void child_inherits(uint32_t child)
{
    connections_inherit(child);
    listener_table_inherit(child);
}

static void process_gone(uint32_t process, bool proved)
{
    connections_forget_process(process, proved);
    line_forget_process(process);
    listener_table_forget_process(process);
}

static const struct reaping_audience reaping_audience = {
    .inherits = child_inherits,
    .gone = process_gone,
};

static void pace_outbound(uint32_t before, uint32_t after)
{
    if ((before | after) & FLOWS_PACE)
        outbound_pace_all();
}

void wiring_connect(void)
{
    descriptors_serve(DESCRIPTOR_CONN, &connection_operations);
    descriptors_serve(DESCRIPTOR_LISTENER, &listener_operations);
    descriptors_serve(DESCRIPTOR_EPOLL, &epoll_set_operations);
    descriptors_serve(DESCRIPTOR_OUTBOUND, &outbound_operations);
    descriptors_serve(DESCRIPTOR_OWN, &own_operations);
    descriptors_ask(adopt_listener);
    descriptors_ask(adopt_connection);
    descriptors_serve(DESCRIPTOR_SEGMENT, &segment_operations);
    reservation_serve(&features);
    peers_verify_by(verify_peer);
    listeners_tell(&listeners_audience);
    admission_serve(&admission_waits);
    reaping_tell(&reaping_audience);
    flows_take_part(&credit_feature);
    flows_take_part(&pacing_feature);
    flows_take_part(&stalls_feature);
    flows_take_part(&backstop_feature);
    flows_take_part(&pausing_feature);
    flows_take_part(&watches_feature);
    flows_take_part(&sojourn_feature);
    flows_take_part(&requests_feature);
    flows_take_part(&timeouts_feature);
    flows_limit_requests(&requests_calls);
    watches_gate(&requests_gate);
    flows_on_limits(pace_outbound);
    reading_on_reset(outbound_was_reset);
}
