#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# What is tried on each kernel; runs in the guest. Prints `FEATURE name: passed`, `FAILED` or a reason, and what a
# feature that failed said.
readonly LONGEST_S=900
tests=$BUILD/tests

feature() {
    local name=$1
    shift
    if timeout "$LONGEST_S" "$@" > /tmp/said 2>&1; then
        echo "FEATURE $name: passed"
    else
        sed -n -e '/ERROR/p' -e '/FAILED/p' /tmp/said | tail -n 20
        tail -n 10 /tmp/said
        echo "FEATURE $name: FAILED"
    fi
}

shimmed() {
    LD_PRELOAD=$PWD/$BUILD/libbackpressure.so BACKPRESSURE="name=guest-$RANDOM $1" "${@:2}"
}
export -f shimmed

for unit in limits limit_rows segment busy policies; do
    feature "unit $unit" "$tests/test_$unit"
done
feature "semantics, bare" "$tests/test_semantics"
feature "semantics, limited" bash -c "shimmed conns=1 $tests/test_semantics"
feature "reading and writing, limited" bash -c "shimmed buffer=1G\ stall=60s $tests/test_output"
for style in blocking epoll; do
    feature "ceiling exact, $style" "$tests/test_styles" "$style"
done
feature "real servers hold" "$tests/test_hold"
feature "real servers refuse" "$tests/test_refuse"
if said=$("$BUILD"/bpctl probe start 2>&1); then
    echo "FEATURE probe loads: ${said##*this kernel does not give: }" | sed 's/: the probe runs.*/: passed/' | head -n 1
    "$BUILD"/bpctl probe stop > /dev/null
else
    echo "$said"
    echo "FEATURE probe loads: refused"
fi
feature "probe and depths agree with ss" "$tests/test_depth"
