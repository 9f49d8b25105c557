#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
#   check.sh [ROUNDS]    the model of places and their count, in every interleaving, with a process killed
#
# and that the model would notice: without the search for slots that were left half way, it must fail.
set -u
model=$(cd "$(dirname "$0")" && pwd)/slots.pml
rounds=${1:-1}
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory" || exit 1

errors() {
    spin "$@" -a "$model" > spin.log 2>&1 && gcc -O2 -w -DSAFETY -DCOLLAPSE -o pan pan.c && ./pan -m400000 -w24 > pan.log ||
        { cat spin.log pan.log; exit 1; }
    sed -n 's/.*errors: \([0-9]*\).*/\1/p' pan.log
}

found=$(errors -DROUNDS="$rounds")
echo "  $(sed -n 's/ *\([0-9.e+]*\) states, stored.*/\1/p' pan.log) states, $found errors"
[ "$found" = 0 ] || { cat pan.log; exit 1; }
found=$(errors -DROUNDS=1 -DNO_ORPHANS)
echo "  without the search for orphans: $found errors"
[ "$found" != 0 ]
