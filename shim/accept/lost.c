/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "accept/lost.h"

#include "accept/connections.h"
#include "base/holdings.h"
#include "base/libc.h"
#include "base/sockdiag.h"
#include "fd/witness.h"
#include "process/processes.h"
#include "process/service.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define INDEX_LEAST 1024
#define INDEX_MOST (SEGMENT_CONNS * 2)
#define LOOK_UPS_MOST 256 /* in one look; the others are suspects again in the next */
#define LOOKS_AT_HOLDINGS 2
/* So often in a row no dump passes over a socket that is in the table all the time. */
#define DUMPS_WITHOUT 16

/* What is known of a slot in one look. */
enum finding {
    NOT_CONCERNED, /* not open, or too young */
    SUSPECT,
    DEAD, /* the kernel has no such connection: reset or closed, but it may be held */
    HELD,
    ORPHANED, /* proof */
};

static uint8_t finding[SEGMENT_CONNS];
static uint32_t state_of[SEGMENT_CONNS];
static uint64_t holders_of[SEGMENT_CONNS];

/* How sock_diag can find it again: remembered from a list that it was on. */
static struct sockdiag_socket remembered[SEGMENT_CONNS];

/* Of those that never were: how many whole dumps in a row did not list them. */
static struct absence {
    uint32_t inode, dumps;
} absence[SEGMENT_CONNS];

/* Inode -> slot + 1. */
static uint32_t inode_index[INDEX_MOST], index_size;

/* Whose descriptors were read, in each of the looks so far. */
static uint8_t looks_at[SEGMENT_PROCESSES];

/* What the looks at everybody's descriptors came to. */
struct everybody {
    unsigned looks;
    bool out_of_sight;        /* not all that the service has, or none at all */
    uint64_t hidden_since_ns; /* who started before that and could not be read, or 0 */
};

static const struct segment_conn *conn_at(uint32_t slot)
{
    return &service.segment->conn[slot];
}

static uint32_t slots_used(void)
{
    uint32_t used = atomic_load(&service.segment->conns_used);
    return used < SEGMENT_CONNS ? used : SEGMENT_CONNS;
}

/* --- by inode --- */

static uint32_t place_of(uint64_t inode)
{
    return (uint32_t)((inode * UINT64_C(0x9e3779b97f4a7c15)) >> 40) % index_size;
}

static void index_slots(uint64_t started)
{
    uint32_t used = slots_used();
    for (index_size = INDEX_LEAST; index_size < INDEX_MOST && index_size < used * 2;)
        index_size *= 2;
    memset(inode_index, 0, index_size * sizeof *inode_index);
    for (uint32_t slot = 0; slot < used; slot++) {
        state_of[slot] = atomic_load(&service.segment->conn_state[slot]);
        finding[slot] = NOT_CONCERNED;
        uint64_t inode = atomic_load(&conn_at(slot)->inode);
        if (conn_phase(state_of[slot]) != CONN_OPEN || inode == 0 ||
            atomic_load(&conn_at(slot)->accepted_ns) >= started)
            continue;
        finding[slot] = SUSPECT;
        holders_of[slot] = atomic_load(&conn_at(slot)->holders);
        uint32_t place = place_of(inode);
        while (inode_index[place])
            place = (place + 1) % index_size;
        inode_index[place] = slot + 1;
    }
}

/* The slot with that inode, or SEGMENT_CONNS. Slots filled since are in no place of their own: they
 * are not found, and not concerned. */
static uint32_t slot_with(uint64_t inode)
{
    for (uint32_t place = place_of(inode); inode_index[place]; place = (place + 1) % index_size)
        if (atomic_load(&conn_at(inode_index[place] - 1)->inode) == inode)
            return inode_index[place] - 1;
    return SEGMENT_CONNS;
}

static uint32_t count(enum finding what)
{
    uint32_t used = slots_used(), found = 0;
    for (uint32_t slot = 0; slot < used; slot++)
        found += finding[slot] == what;
    return found;
}

/* --- the first look: what sock_diag lists --- */

static void note_listed(const struct sockdiag_entry *entry, void *context)
{
    (void)context;
    uint32_t slot = entry->inode ? slot_with(entry->inode) : SEGMENT_CONNS;
    if (slot == SEGMENT_CONNS)
        return;
    finding[slot] = HELD;
    if (remembered[slot].cookie != entry->cookie)
        sockdiag_remember(entry, &remembered[slot]);
}

static bool network_is_the_services(void)
{
    struct stat status;
    return libc_stat("/proc/self/ns/net", &status) == 0 &&
           status.st_ino == atomic_load(&service.segment->network);
}

/* Which kinds of socket were listed to the end. */
struct listed {
    bool tcp, local;
};

/* It may be different the next time. */
static bool is_passing(int error)
{
    return error == EAGAIN || error == EINTR || error == ENOMEM || error == ENOBUFS ||
           error == EMFILE || error == ENFILE;
}

/* A dump walks the kernel's whole table: for families that the service never accepted, none is due.
 */
static bool list_family(int family, uint32_t bit, int *error)
{
    if (!(atomic_load(&service.segment->families) & bit) ||
        sockdiag_dump(family, false, note_listed, NULL))
        return true;
    if (!is_passing(errno))
        *error = errno;
    return false;
}

static void note_nothing(const struct sockdiag_entry *entry, void *context)
{
    (void)entry, (void)context;
}

void lost_prepare(void)
{
    int error = sockdiag_dump(AF_INET, true, note_nothing, NULL) || is_passing(errno) ? 0 : errno;
    atomic_store(&service.segment->sockdiag_error, (uint32_t)error);
    atomic_store(&service.segment->holdings_error, (uint32_t)holdings_error());
}

static struct listed list(void)
{
    int error = 0;
    struct listed listed = {false, false};
    if (!network_is_the_services())
        return listed;
    listed.tcp = list_family(AF_INET, FAMILY_INET, &error);
    listed.tcp = list_family(AF_INET6, FAMILY_INET6, &error) && listed.tcp;
    listed.local = list_family(AF_UNIX, FAMILY_UNIX, &error);
    if (error || (listed.tcp && listed.local))
        atomic_store(&service.segment->sockdiag_error, (uint32_t)error);
    return listed;
}

/* --- the second: exact look-ups --- */

static enum finding count_absence(uint32_t slot, uint32_t inode)
{
    if (absence[slot].inode != inode)
        absence[slot] = (struct absence){.inode = inode};
    return ++absence[slot].dumps < DUMPS_WITHOUT ? SUSPECT : DEAD;
}

/* Only for what sock_diag can list: otherwise its 'there is none' means nothing. */
static enum finding look_up(uint32_t slot, struct listed listed)
{
    uint32_t flags = atomic_load(&conn_at(slot)->flags);
    uint64_t inode = atomic_load(&conn_at(slot)->inode);
    struct sockdiag_socket by_inode = {.family = AF_UNIX, .inode = (uint32_t)inode};
    bool local = flags & CONN_UNIX;
    const struct sockdiag_socket *socket = local ? &by_inode : &remembered[slot];

    if (flags & CONN_FOREIGN || !(local ? listed.local : listed.tcp))
        return SUSPECT;
    if (socket->inode != inode)
        return count_absence(slot, (uint32_t)inode);
    switch (sockdiag_ask(socket)) {
    case SOCKDIAG_HELD:
        return HELD;
    case SOCKDIAG_ORPHANED:
        return ORPHANED;
    case SOCKDIAG_ABSENT:
        return local ? ORPHANED : DEAD; /* unix(7) sockets are there as long as they are open */
    default:
        return SUSPECT;
    }
}

static void look_up_suspects(struct listed listed)
{
    uint32_t used = slots_used(), asked = 0;
    for (uint32_t slot = 0; slot < used; slot++) {
        if (finding[slot] != SUSPECT)
            continue;
        finding[slot] = asked++ < LOOK_UPS_MOST ? (uint8_t)look_up(slot, listed) : NOT_CONCERNED;
    }
}

/* --- the third: descriptors --- */

static bool is_suspect(uint32_t slot)
{
    return finding[slot] == SUSPECT || finding[slot] == DEAD;
}

static void note_open(uint64_t inode, void *context)
{
    (void)context;
    uint32_t slot = slot_with(inode);
    if (slot < SEGMENT_CONNS && is_suspect(slot))
        finding[slot] = HELD;
}

/* Calls `each` with the holders, as indexes, of a slot. */
static void each_holder(uint32_t slot, void (*each)(uint32_t process, void *context), void *context)
{
    for (unsigned i = 0; i < CONN_HOLDERS; i++) {
        uint32_t holder = (uint32_t)(holders_of[slot] >> 16 * i & 0xffff);
        if (holder && holder <= SEGMENT_PROCESSES)
            each(holder - 1, context);
    }
}

static void note_holder(uint32_t process, void *context)
{
    ((bool *)context)[process] = true;
}

static void look_at_holders(void)
{
    static bool holds[SEGMENT_PROCESSES];
    uint32_t used = slots_used();
    memset(holds, 0, sizeof holds);
    for (uint32_t slot = 0; slot < used; slot++)
        if (is_suspect(slot))
            each_holder(slot, note_holder, holds);
    for (uint32_t i = 1; i < SEGMENT_PROCESSES; i++) {
        uint32_t pid = holds[i] ? processes_pid_here(i) : 0;
        if (pid && holdings_of(pid, note_open, NULL))
            looks_at[i]++;
    }
}

/* A process killed in the midst of a close leaves a slot that nobody holds by name. */
static bool others_may_hold(uint32_t slot)
{
    return atomic_load(&conn_at(slot)->flags) & CONN_SHARED || holders_of[slot] == 0;
}

static void look_at_everybody(struct everybody *everybody)
{
    uint32_t used = slots_used(), slot = 0;
    uint64_t hidden_since_ns = 0;
    while (slot < used && !(is_suspect(slot) && others_may_hold(slot)))
        slot++;
    if (slot == used)
        return;
    if (!processes_all_here() || !holdings_of_all(note_open, NULL, &hidden_since_ns)) {
        everybody->out_of_sight = true;
        return;
    }
    everybody->looks++;
    if (hidden_since_ns > everybody->hidden_since_ns)
        everybody->hidden_since_ns = hidden_since_ns;
}

static void note_unread(uint32_t process, void *context)
{
    if (process != 0 && looks_at[process] < LOOKS_AT_HOLDINGS)
        *(bool *)context = true;
}

/* It may be on its way in a message, in nobody's table: then the one that sent it is to tell. */
static bool somebody_watches(uint32_t flags)
{
    uint32_t witness = flags >> CONN_WITNESS_SHIFT;
    return flags & CONN_PASSED && witness && witness <= SEGMENT_PROCESSES;
}

static bool is_lost(uint32_t slot, const struct everybody *everybody)
{
    uint32_t flags = atomic_load(&conn_at(slot)->flags);
    bool unread = false;

    if (finding[slot] == ORPHANED)
        return true;
    if (others_may_hold(slot) && holders_of[slot] == 0 && connections_beyond_proof())
        return finding[slot] == SUSPECT;
    if (!is_suspect(slot) || somebody_watches(flags) ||
        atomic_load(&conn_at(slot)->holders) != holders_of[slot])
        return false;
    each_holder(slot, note_unread, &unread);
    if (unread || !others_may_hold(slot))
        return !unread;
    /* Nobody whom the service knows has it. Who else might is asked, where he can be; a connection
     * that ended, in the hands of somebody unknown and out of sight, is not worth a place for good.
     */
    if (everybody->looks < LOOKS_AT_HOLDINGS)
        return everybody->out_of_sight && finding[slot] == DEAD;
    return finding[slot] == DEAD ||
           atomic_load(&conn_at(slot)->accepted_ns) > everybody->hidden_since_ns;
}

static struct everybody look_at_holdings(void)
{
    int error = holdings_error();
    struct everybody everybody = {.out_of_sight = error != 0};
    atomic_store(&service.segment->holdings_error, (uint32_t)error);
    memset(looks_at, 0, sizeof looks_at);
    for (unsigned look = 0; !error && look < LOOKS_AT_HOLDINGS; look++) {
        if (count(SUSPECT) + count(DEAD) == 0)
            break;
        look_at_holders();
        look_at_everybody(&everybody);
    }
    return everybody;
}

/* What this process holds by its own table was looked at there: see audit.c. */
static void set_own_aside(void)
{
    uint32_t used = slots_used();
    for (uint32_t slot = 0; slot < used; slot++)
        if (finding[slot] == SUSPECT && connections_held_here(slot, state_of[slot] >> 2))
            finding[slot] = NOT_CONCERNED;
}

uint32_t lost_find(void)
{
    uint32_t found = 0;
    index_slots(monotonic_ns());
    struct listed listed = list();
    set_own_aside();
    look_up_suspects(listed);
    struct everybody everybody = look_at_holdings();
    uint32_t used = slots_used();
    for (uint32_t slot = 0; slot < used; slot++)
        if (is_lost(slot, &everybody))
            found += connections_free_lost(slot, state_of[slot]);
    return found;
}

/* --- what this process watches --- */

static _Atomic uint32_t watched_freed;

static void free_watched(uint32_t slot, uint32_t generation)
{
    if (connections_free_lost(slot, generation << 2 | CONN_OPEN))
        atomic_fetch_add(&watched_freed, 1);
}

uint32_t lost_watched(void)
{
    uint32_t before = atomic_load(&watched_freed);
    witness_look(free_watched);
    return atomic_load(&watched_freed) - before;
}
