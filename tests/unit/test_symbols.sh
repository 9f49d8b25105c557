#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# The library exports the table in symbols.txt and nothing else, and needs libc and nothing else.
set -eu
library=${BUILD:-build}/libbackpressure.so
table=$(dirname "$0")/symbols.txt
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0

grep -v '^#' "$table" | awk 'NF { print $1 }' | sort > "$scratch/documented"
nm -D --defined-only "$library" | awk '{ print $3 }' | sort > "$scratch/exported"
if ! diff "$scratch/documented" "$scratch/exported"; then
    echo "FAILED: exports (>) differ from tests/unit/symbols.txt (<)"
    failed=1
fi
needed=$(objdump -p "$library" | awk '$1 == "NEEDED" { print $2 }' | grep -v '^ld-linux' || true)
if [ "$needed" != libc.so.6 ]; then
    echo "FAILED: needs $needed, not libc.so.6 alone"
    failed=1
fi
# Whatever it takes from libc carries a version of glibc; nothing comes from anywhere else.
if nm -D --undefined-only "$library" | awk '$1 == "U" { print $2 }' | grep -v '@GLIBC'; then
    echo "FAILED: the symbols above do not come from libc"
    failed=1
fi
awk '!/^#/ && NF && NF < 3 { print; bad = 1 } END { exit bad }' "$table" || {
    echo "FAILED: no reason is given for the symbols above"
    failed=1
}
[ "$failed" = 0 ] && echo "symbols: $(wc -l < "$scratch/exported") passed, 0 failed"
exit "$failed"
