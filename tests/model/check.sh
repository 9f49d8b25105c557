#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
#   check.sh [ROUNDS]    the models, in every interleaving: places and their count, turns at a listener, peers
#
# and that each would notice: a mutant of it must fail.
set -u
models=$(cd "$(dirname "$0")" && pwd)
rounds=${1:-1}
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory" || exit 1

# errors MODEL OPTION...: how many there are, in found.
errors() {
    name=$1
    shift
    spin "$@" -a "$models/$name" > spin.log 2>&1 && gcc -O2 -w -DSAFETY -DCOLLAPSE -o pan pan.c && ./pan -m400000 -w24 > pan.log ||
        { cat spin.log pan.log; exit 1; }
    found=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' pan.log)
    echo "  $name $*: $(sed -n 's/ *\([0-9.e+]*\) states, stored.*/\1/p' pan.log) states, $found errors"
}

holds() {
    errors "$@"
    [ "$found" = 0 ] || { cat pan.log; exit 1; }
}

fails() {
    errors "$@"
    [ "$found" != 0 ] || exit 1
}

holds slots.pml -DROUNDS="$rounds"
fails slots.pml -DROUNDS=1 -DNO_ORPHANS
holds turns.pml -DPROCESSES=2 -DTURNS=2 -DCRASHES=1
[ "$rounds" = 1 ] || holds turns.pml -DPROCESSES=3
fails turns.pml -DPLAIN_RELEASE
fails turns.pml -DBLOCKING_ACCEPT
holds peers.pml
fails peers.pml -DNO_CHECK
fails peers.pml -DNO_REVOKE
