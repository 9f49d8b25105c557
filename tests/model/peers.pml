/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A new address in the table of peers: shim/policy/peer_table.c, a step for each access to shared memory. All
 * want a place for the same address; the lock may be taken over from any of them at any moment.
 *
 * Held at the end: the address has one entry, which counts everybody who got a place; and no entry
 * is left claimed.
 *
 * With -DNO_CHECK a claim counts although the lock is lost, with -DNO_REVOKE nobody looks for
 * claims: both must fail.
 */
#ifndef PROCESSES
#define PROCESSES 2
#endif
#define TAKEOVERS 2
#define ENTRIES 2
#define FREE 0
#define CLAIMED 100 /* in the place of the count; plus the claimant */
#define REVOKED 200

byte lock;
byte count[ENTRIES], epoch[ENTRIES]; /* one word each */
bool ours[ENTRIES];                  /* the key: the address that all want, or another */
byte got_places, done, takeovers;

/* Changes an entry's word from what was seen, or not at all. */
inline change(entry, seen, seen_epoch, after)
{
    atomic {
        success = (count[entry] == seen && epoch[entry] == seen_epoch);
        if
        :: success -> count[entry] = after; epoch[entry]++
        :: else
        fi
    }
}

inline see(entry)
{
    atomic { word = count[entry]; word_epoch = epoch[entry] }
}

proctype process(byte me)
{
    byte i, judged, word, word_epoch, chosen, chosen_epoch;
    bool success, placed, again;
    do
    :: placed -> break
    :: !placed ->
        /* take, or take over, whenever it pleases */
        do
        :: judged = lock;
            if
            :: judged == 0 || takeovers < TAKEOVERS ->
                atomic {
                    success = (lock == judged);
                    if
                    :: success -> lock = me + 1; takeovers = takeovers + (judged -> 1 : 0)
                    :: else
                    fi
                }
                if
                :: success -> break
                :: else
                fi
            :: else -> lock != judged
            fi
        od;
        /* peer_take */
        again = false;
        for (i : 0 .. ENTRIES - 1) {
            if
            :: !placed && !again ->
                see(i);
                if
                :: word > 0 && word < CLAIMED && ours[i] ->
                    change(i, word, word_epoch, word + 1);
                    placed = success;
                    again = !success
                :: else
                fi
            :: else
            fi
        }
        if
        :: placed || again -> goto given
        :: else
        fi;
        /* find_free */
        chosen = ENTRIES;
        for (i : 0 .. ENTRIES - 1) {
#ifndef NO_REVOKE
            see(i);
            if
            :: word >= CLAIMED && word < REVOKED ->
                change(i, word, word_epoch, word + REVOKED - CLAIMED)
            :: else
            fi;
#endif
            see(i);
            if
            :: word > 0 && word < CLAIMED && ours[i] -> again = true
            :: word == FREE && chosen == ENTRIES -> chosen = i; chosen_epoch = word_epoch
            :: else
            fi
        }
        if
        :: again || chosen == ENTRIES -> goto given
        :: else
        fi;
        /* peer_insert */
        change(chosen, FREE, chosen_epoch, CLAIMED + me);
        if
        :: !success -> goto given
        :: else
        fi;
        chosen_epoch++;
#ifndef NO_CHECK
        if
        :: lock != me + 1 -> goto withdraw
        :: else
        fi;
#endif
        ours[chosen] = true;
        change(chosen, CLAIMED + me, chosen_epoch, 1);
        if
        :: success -> placed = true; goto given
        :: else
        fi;
withdraw:
        atomic {
            assert(count[chosen] == CLAIMED + me || count[chosen] == REVOKED + me);
            count[chosen] = FREE;
            epoch[chosen] = chosen_epoch + 2
        }
given:
        atomic {
            if
            :: lock == me + 1 -> lock = 0
            :: else
            fi
        }
    od;
    atomic { got_places++; done++ }
}

/* The only place of another address, which becomes free at any moment. */
proctype another()
{
    atomic { count[0] = 0; epoch[0]++ }
    done++
}

init
{
    byte i, entries, places;
    atomic {
        count[0] = 1;
        for (i : 0 .. PROCESSES - 1) {
            run process(i)
        }
        run another()
    }
    done == PROCESSES + 1;
    for (i : 0 .. ENTRIES - 1) {
        assert(count[i] < CLAIMED);
        if
        :: count[i] > 0 && ours[i] -> entries++; places = places + count[i]
        :: else
        fi
    }
    assert(entries == 1 && places == got_places)
}
