#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# The library exports the table in symbols.txt and nothing else, and needs libc and nothing else: glibc of the
# oldest version that is promised, or musl (shim/base/libc.h).
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
# The oldest glibc that riscv64 has is newer than the one that is promised.
oldest=2.17
[ "$(uname -m)" != riscv64 ] || oldest=2.27
objdump -p "$library" | sed -n '/^Version References/,$p' | awk '$4 ~ /^[A-Z]/ { print $4 }' > "$scratch/versions"
for version in $(cat "$scratch/versions"); do
    if [ "$(printf '%s\n' "GLIBC_$oldest" "$version" | sort -V | tail -n 1)" != "GLIBC_$oldest" ]; then
        echo "FAILED: needs $version, which glibc $oldest has not:" \
            $(nm -D --undefined-only "$library" | awk '{ print $2 }' | grep "@$version\$")
        failed=1
    fi
done
[ -s "$scratch/versions" ] || { echo "FAILED: no versions were found"; failed=1; }
# What is asked for weakly may be missing. musl's loader is its libc.
musl=/lib/ld-musl-$(uname -m).so.1
if [ -f "$musl" ]; then
    nm -D --defined-only "$musl" | awk '{ print $3 }' | sort > "$scratch/musl"
    nm -D --undefined-only "$library" | awk '$1 == "U" { sub(/@.*/, "", $2); print $2 }' | sort > "$scratch/wanted"
    if comm -23 "$scratch/wanted" "$scratch/musl" | grep .; then
        echo "FAILED: musl lacks the symbols above"
        failed=1
    fi
fi
awk '!/^#/ && NF && NF < 3 { print; bad = 1 } END { exit bad }' "$table" || {
    echo "FAILED: no reason is given for the symbols above"
    failed=1
}
[ "$failed" = 0 ] && echo "symbols: $(wc -l < "$scratch/exported") passed, 0 failed"
exit "$failed"
