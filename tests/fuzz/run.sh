#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
#   run.sh BUILD SECONDS     each fuzzer but $LEFT_OUT, from its committed corpus, for so long
set -u
cd "$(dirname "$0")/../.."
build=$1
seconds=$2
failed=0
for name in limits busy segment $(basename -s .c -a tests/fuzz/fuzz_request_*.c | sed s/fuzz_//); do
    [ "$name" != "${LEFT_OUT:-}" ] || continue
    mkdir -p "$build/found/$name" "$build/crashes"
    if ASAN_OPTIONS=detect_leaks=0 "$build/$name" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 \
        -print_final_stats=1 -close_fd_mask=3 -artifact_prefix="$build/crashes/$name-" "$build/found/$name" \
        "tests/fuzz/corpus/$name" > "$build/$name.log" 2>&1; then
        echo "  $name: clean, $(grep -a -o 'number_of_executed_units: [0-9]*' "$build/$name.log")"
    else
        echo "  $name: FAILED"
        tail -n 40 "$build/$name.log"
        failed=1
    fi
done
exit $failed
