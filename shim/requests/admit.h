/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether the program may have the request that waits in a connection: the one place that decides.
 *
 *     exempt, silent, partial head → inside a transaction → late → ceilings and whose turn it is
 */
#ifndef BACKPRESSURE_ADMIT_H
#define BACKPRESSURE_ADMIT_H

#include "requests/entries.h"

enum admit {
    ADMIT_GO,    /* the program may read: with a place (GRANTED), or nothing there needs one */
    ADMIT_WAIT,  /* it is in line, or behind one that is unanswered: the program is to find nothing
                  */
    ADMIT_AGAIN, /* what was there was refused, and the connection stays: it finds nothing, or what
                    came since */
    ADMIT_END,   /* it was refused for good: the program is to read the end of input */
};

/* Whether somebody may have to wait or to be refused now, so that requests are looked at before
 * they are read. Some loads. */
bool admit_carefully(const struct request *request);

/*
 * Whether a request for which there is no place waits in line where others are refused: with
 * queue-delay while no queue stands, since a burst is what queues are for; and, behind as many as
 * there are places at most, one whose client was refused the last time, so that nobody is refused
 * again and again while others are served.
 */
bool admit_lets_wait(const struct request *request);

/*
 * Decides about the input of the connection `fd`, and does what follows. `blocked`: a thread is in
 * a read and will wait in line by itself. `most` gets how many bytes may be read at once. errno is
 * kept.
 */
enum admit admit_input(int fd, struct request *request, bool blocked, size_t *most);

/* The kernel reports an error or a hang-up, which is never withheld: a request that waits in the
 * connection does so no longer. It begins where it may, or is dropped where its client is gone.
 * errno is kept. */
void admit_broken(int fd, struct request *request);

#endif
