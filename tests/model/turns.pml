/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Turns at a listener that blocks: shim/lease_lock.h and turns.c, a step for each access to shared
 * memory and each system call. A lease may be over at any moment, as its holder may be stopped or
 * starved at any step; one holder may be killed.
 *
 * Held in every state: nobody waits in the kernel's accept, and whoever takes a lock that is free
 * finds nobody inside but those who were overtaken. Held at the end, after one more turn: the
 * listener blocks as the program wants it.
 *
 * With -DPLAIN_RELEASE a turn ends by a plain store, with -DBLOCKING_ACCEPT nobody sets the flag:
 * both must fail.
 */
#ifndef PROCESSES
#define PROCESSES 3
#endif
#ifndef TURNS
#define TURNS 1
#endif
#ifndef CRASHES
#define CRASHES 0
#endif
#define CLIENTS 2
#define TAKEOVERS 2 /* tried, from those who live */
#define PLACES 2
#ifndef TAKEOVERS
#define TAKEOVERS 2 /* tried, from those who live */
#endif
#define SAME_TURN(one, other) ((one) % 64 == (other) % 64)

byte lock;                    /* 0, or process + 1 and turn: one word */
bool nonblocking;             /* the listener's flag */
byte unblocked;               /* how often it was noted that the flag is ours */
byte overtaken[PLACES];       /* words that were lost, or 0 */
byte clearing;                /* the word of who takes the flag off, or 0 */
byte queue = CLIENTS;
bool dead[PROCESSES], done[PROCESSES];
bool inside[PROCESSES], lost[PROCESSES]; /* what is checked, and known to nobody */
byte crashes, takeovers;
bool left_note; /* by a process that was killed while it overtook another: for as long as that lives */

#define WORD(process, turn) ((process) + 1 + 8 * (turn))
#define HOLDER(word) ((word) % 8 - 1)

#define MAY_CRASH                                                                                  \
    atomic {                                                                                       \
        if                                                                                         \
        :: crashes < CRASHES ->                                                                    \
            crashes++;                                                                             \
            dead[me] = true;                                                                       \
            inside[me] = false;                                                                    \
            left_note = half_way;                                                                  \
            goto killed                                                                            \
        :: true                                                                                    \
        fi                                                                                         \
    }

/* make_harmless and lease_take_over: from `judged`, whose holder is alive. */
inline overtake()
{
    place = 0;
#ifndef BLOCKING_ACCEPT
    if
    :: clearing != 0 && !SAME_TURN(clearing, judged) && !dead[HOLDER(clearing)] -> place = PLACES
    :: else -> unblocked++
    fi;
    MAY_CRASH;
    atomic {
        do
        :: place < PLACES && overtaken[place] != 0 && !dead[HOLDER(overtaken[place])] -> place++
        :: else -> break
        od;
        if
        :: place < PLACES -> overtaken[place] = judged
        :: else
        fi
    }
    half_way = true;
    MAY_CRASH;
    if
    :: place < PLACES -> nonblocking = true
    :: else
    fi;
    MAY_CRASH;
#endif
    atomic {
        got = (place < PLACES && lock == judged);
        if
        :: got ->
            lock = mine;
            lost[HOLDER(judged)] = true;
            inside[me] = true;
            lost[me] = false
        :: else
        fi
    }
    MAY_CRASH;
    if
    :: place < PLACES -> unblocked++
    :: else
    fi;
    half_way = false;
    if
    :: !got ->
        atomic {
            if
            :: place < PLACES && overtaken[place] == judged -> overtaken[place] = 0
            :: else
            fi
        }
    :: else
    fi
}

inline forget()
{
    for (other : 0 .. PLACES - 1) {
        atomic {
            if
            :: overtaken[other] != 0 && SAME_TURN(overtaken[other], mine) -> overtaken[other] = 0
            :: else
            fi
        }
    }
}

inline any_left()
{
    left = false;
    for (other : 0 .. PLACES - 1) {
        if
        :: overtaken[other] != 0 && !dead[HOLDER(overtaken[other])] -> left = true
        :: else
        fi
    }
}

inline give()
{
    notes = unblocked;
    if
    :: notes ->
        forget();
        any_left();
        MAY_CRASH;
        atomic {
            got = (!left && (clearing == 0 || dead[HOLDER(clearing)]));
            if
            :: got -> clearing = mine
            :: else
            fi
        }
        MAY_CRASH;
        /* lease_keep: the time in the word is a new one, so a judgement of the old one is void */
        atomic {
            got = (got && lock == mine);
            if
            :: got -> lock = mine + 64; mine = mine + 64
            :: else
            fi
        }
        if
        :: got ->
            MAY_CRASH;
            nonblocking = false;
            MAY_CRASH;
            atomic {
                if
                :: unblocked == notes -> unblocked = 0
                :: else
                fi
            }
        :: else
        fi;
        MAY_CRASH;
        atomic {
            if
            :: clearing != 0 && SAME_TURN(clearing, mine) -> clearing = 0
            :: else
            fi
        }
    :: else
    fi;
    MAY_CRASH;
    atomic {
        inside[me] = false;
#ifdef PLAIN_RELEASE
        lock = 0;
        got = true
#else
        got = (lock == mine);
        if
        :: got -> lock = 0
        :: else
        fi
#endif
    }
    if
    :: !got -> forget()
    :: else
    fi
}

inline check_alone()
{
    for (other : 0 .. PROCESSES - 1) {
        assert(!inside[other] || lost[other] || other == me)
    }
}

proctype process(byte me)
{
    byte turn, judged, mine, other, place, notes;
    bool got, left, client, half_way;
    for (turn : 1 .. TURNS) {
        mine = WORD(me, turn);
        got = false;
        do
        :: got -> break
        :: !got ->
            atomic { judged = lock }
            if
            :: judged == 0 ->
                atomic {
                    got = (lock == 0);
                    if
                    :: got -> lock = mine; inside[me] = true; lost[me] = false; check_alone()
                    :: else
                    fi
                }
            :: judged != 0 && dead[HOLDER(judged)] ->
                atomic {
                    got = (lock == judged);
                    if
                    :: got -> lock = mine; inside[me] = true; lost[me] = false
                    :: else
                    fi
                }
            :: judged != 0 && !dead[HOLDER(judged)] ->
                if
                :: takeovers < TAKEOVERS ->
                    takeovers++;
                    overtake()
                :: lock != judged || dead[HOLDER(judged)] /* or waits */
                fi
            fi
        od;
        MAY_CRASH;
        client = (queue > 0);
        MAY_CRASH;
        if
        :: client ->
            /* the kernel's accept */
            atomic {
                if
                :: queue > 0 -> queue--
                :: queue == 0 -> assert(nonblocking)
                fi
            }
        :: else
        fi;
        MAY_CRASH;
        give()
    }
killed:
    done[me] = true
}

init
{
    byte me, other, mine, notes;
    bool got, left, half_way;
    atomic {
        for (me : 0 .. PROCESSES - 1) {
            run process(me)
        }
    }
    for (me : 0 .. PROCESSES - 1) {
        done[me]
    }
    /* One more turn, by one who lives. */
    me = 0;
    do
    :: dead[me] -> me++
    :: else -> break
    od;
    if
    :: lock != 0 -> assert(dead[HOLDER(lock)])
    :: else
    fi;
    mine = WORD(me, TURNS + 1);
    lock = mine;
    give();
    killed: assert(dead[me] || (lock == 0 && (left_note || (!nonblocking && !unblocked))))
}
