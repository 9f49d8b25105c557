/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Places and their count, as processes take them, give them back, and are killed between any two
 * steps: shim/gauge.h, connections.c and audit.c, a step for each access to shared memory.
 *
 *   spin -a slots.pml && gcc -DSAFETY -o pan pan.c && ./pan
 *
 * Held in every state: no more connections are open than CEILING. Held when all is quiet and one
 * audit ran: the count is the truth, and no place is lost, however many were killed.
 */
#define PROCESSES 2
#define SLOTS 2
#define CEILING 1
#ifndef ROUNDS
#define ROUNDS 2 /* complete in three minutes and 5 GB; 1 in seconds */
#endif
#define CRASHES 1

#define FREE 0
#define OPENING 1
#define OPEN 2
#define CLOSING 3

byte count, epoch;            /* the gauge: one word, changed by compare and exchange */
byte pending[PROCESSES + 1];  /* the last is the auditor's */
byte phase[SLOTS], generation[SLOTS];
byte holder[SLOTS];           /* process + 1, or 0 */
byte open_in_kernel, sockets[PROCESSES];
bool dead[PROCESSES], done[PROCESSES], reaped[PROCESSES];
byte crashes;

/* The kernel closes what a process had open when it is killed. */
#define MAY_CRASH                                                                                  \
    atomic {                                                                                       \
        if                                                                                         \
        :: crashes < CRASHES ->                                                                    \
            crashes++;                                                                             \
            open_in_kernel = open_in_kernel - sockets[me];                                         \
            sockets[me] = 0;                                                                       \
            dead[me] = true;                                                                       \
            goto killed                                                                            \
        :: true                                                                                    \
        fi                                                                                         \
    }

/* free_slot: by the holder, or by the auditor for a dead one. */
inline free_slot(slot, seen_generation, freed)
{
    atomic {
        freed = (phase[slot] == OPEN && generation[slot] == seen_generation);
        if
        :: freed -> phase[slot] = CLOSING
        :: else
        fi
    }
}

proctype process(byte me)
{
    byte slot, round, mine_generation;
    bool got;
    for (round : 1 .. ROUNDS) {
        /* reservation_make */
        pending[me]++;
        MAY_CRASH;
        atomic {
            got = (count < CEILING);
            if
            :: got -> count++; epoch++
            :: else
            fi
        }
        MAY_CRASH;
        if
        :: !got -> pending[me]--; goto next
        :: else
        fi;
        /* the kernel's accept */
        atomic {
            open_in_kernel++;
            sockets[me]++;
            assert(open_in_kernel <= CEILING)
        }
        MAY_CRASH;
        /* connections_commit: a free slot, by compare and exchange */
        atomic {
            slot = 0;
            do
            :: slot < SLOTS && phase[slot] != FREE -> slot++
            :: else -> break
            od;
            if
            :: slot < SLOTS -> phase[slot] = OPENING; mine_generation = generation[slot]
            :: else
            fi
        }
        MAY_CRASH;
        if
        :: slot == SLOTS -> assert(false) /* as many slots as places: cannot be */
        :: else
        fi;
        holder[slot] = me + 1;
        MAY_CRASH;
        phase[slot] = OPEN;
        MAY_CRASH;
        pending[me]--;
        MAY_CRASH;
        /* the real close, then connections_departed */
        atomic { open_in_kernel--; sockets[me]-- }
        MAY_CRASH;
        pending[me]++;
        MAY_CRASH;
        holder[slot] = 0;
        MAY_CRASH;
        free_slot(slot, mine_generation, got);
        MAY_CRASH;
        if
        :: got ->
            epoch++; /* gauge_touch */
            MAY_CRASH;
            atomic { generation[slot] = generation[slot] + 1; phase[slot] = FREE }
            MAY_CRASH;
            atomic { count = (count > 0 -> count - 1 : 0); epoch++ }
            MAY_CRASH
        :: else
        fi;
        pending[me]--;
next:
        MAY_CRASH
    }
killed:
    done[me] = true
}

byte seen_count, seen_epoch, truth, index, half_phase[SLOTS], half_generation[SLOTS];
bool freed, working;

/* One look of audit_run: reap the dead, free what is half way, mend the count. */
inline audit()
{
    for (index : 0 .. PROCESSES - 1) {
        if
        :: dead[index] && !reaped[index] ->
            byte place;
            for (place : 0 .. SLOTS - 1) {
                if
                :: phase[place] == OPEN && holder[place] == index + 1 ->
                    byte his = generation[place];
                    pending[PROCESSES]++;
                    holder[place] = 0;
                    free_slot(place, his, freed);
                    if
                    :: freed ->
                        epoch++;
                        atomic { generation[place] = generation[place] + 1; phase[place] = FREE }
                        atomic { count = (count > 0 -> count - 1 : 0); epoch++ }
                    :: else
                    fi;
                    pending[PROCESSES]--
                :: else
                fi
            }
            pending[index] = 0;
            reaped[index] = true
        :: else
        fi
    }
    /* free_orphans: half way, nobody at work, and half way still. -DNO_ORPHANS shows that it is needed. */
    for (index : 0 .. SLOTS - 1) {
        atomic { half_phase[index] = phase[index]; half_generation[index] = generation[index] }
    }
    working = false;
    for (index : 0 .. PROCESSES) {
        if
        :: pending[index] > 0 -> working = true
        :: else
        fi
    }
    for (index : 0 .. SLOTS - 1) {
        if
        #ifdef NO_ORPHANS
        :: false ->
#else
        :: !working && (half_phase[index] == OPENING || half_phase[index] == CLOSING) ->
#endif
            epoch++;
            atomic {
                if
                :: phase[index] == half_phase[index] && generation[index] == half_generation[index] ->
                    generation[index] = generation[index] + 1;
                    phase[index] = FREE
                :: else
                fi
            }
        :: else
        fi
    }
    /* compare_with_kernel: a slot that was open before the dump, whose socket the dump has not. */
    for (index : 0 .. SLOTS - 1) {
        if
        :: half_phase[index] == OPEN && open_in_kernel == 0 ->
            pending[PROCESSES]++;
            free_slot(index, half_generation[index], freed);
            if
            :: freed ->
                epoch++;
                atomic { generation[index] = generation[index] + 1; phase[index] = FREE }
                atomic { count = (count > 0 -> count - 1 : 0); epoch++ }
            :: else
            fi;
            pending[PROCESSES]--
        :: else
        fi
    }
    /* mend: the gauge first, changes second, slots third */
    atomic { seen_count = count; seen_epoch = epoch }
    truth = 0;
    for (index : 0 .. PROCESSES) {
        truth = truth + pending[index]
    }
    for (index : 0 .. SLOTS - 1) {
        if
        :: phase[index] != FREE -> truth++
        :: else
        fi
    }
    atomic {
        if
        :: truth < seen_count && count == seen_count && epoch == seen_epoch ->
            count = truth;
            epoch++
        :: else
        fi
    }
}

init
{
    byte i;
    atomic {
        for (i : 0 .. PROCESSES - 1) {
            run process(i)
        }
    }
    /* One while they are at it, at any moment; and when all is quiet. */
    audit();
    done[0] && done[1];
    assert(count <= open_in_kernel + crashes);
    audit();
    assert(open_in_kernel == 0);
    assert(count == 0);
    assert(phase[0] == FREE && phase[1] == FREE)
}
