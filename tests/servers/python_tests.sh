#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
# Python's own tests of sockets, servers, selectors, processes and signals, bare and under the shim with
# generous limits: test for test, the results must be the same. A test whose result differs is run
# again, alone, both ways, before it counts: on a shared machine some fail bare, too.
set -u
# Two halves that take about as long, side by side.
first="test_socket test_socketserver test_selectors test_select test_poll test_epoll test_fork1 test_httpservers"
second="test_subprocess"
# test_asyncio's tests of TLS hang, bare, too, with Debian's OpenSSL: the others.
for part in streams selector_events server sock_lowlevel subprocess unix_events buffered_proto events \
    base_events transports; do
    second="$second test_asyncio.test_$part"
done
python=/usr/bin/python3
library=$PWD/${BUILD:-build}/libbackpressure.so
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if ! "$python" -c 'import test.test_socket' 2> /dev/null; then
    echo "  skipped  python's own tests: libpython3-testsuite is not installed"
    exit 0
fi

# VSOCK needs a hypervisor that carries it; where there is none those tests hang, bare, too.
cat > "$scratch/without_vsock.py" << 'PYTHON'
import sys, unittest

def each(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from each(test)
        elif "VSOCK" not in test.id():
            yield test

loaded = unittest.defaultTestLoader.loadTestsFromNames(sys.argv[1:])
result = unittest.TextTestRunner(verbosity=2).run(unittest.TestSuite(each(loaded)))
sys.exit(not result.wasSuccessful())
PYTHON

# One line a test: its name and its result.
results() {
    sed -n 's/^\(test[A-Za-z0-9_]* ([^)]*)\).*\.\.\. \(ok\|FAIL\|ERROR\|skipped\).*/\1 \2/p' "$1" | sort
}

run() {
    local output=$1
    shift
    timeout 300 "$python" "$scratch/without_vsock.py" "$@" > "$output" 2>&1
}

run_shimmed() {
    local output=$1
    shift
    LD_PRELOAD=$library BACKPRESSURE="name=python-tests-$$ conns=9000 total-conns=9000 peer-conns=9000" \
        timeout 300 "$python" "$scratch/without_vsock.py" "$@" > "$output" 2>&1
}

for half in first second; do
    modules=()
    for test in ${!half}; do
        modules+=("test.$test")
    done
    run "$scratch/bare.$half" "${modules[@]}" &
    run_shimmed "$scratch/shimmed.$half" "${modules[@]}" &
done
wait
for side in bare shimmed; do
    cat "$scratch/$side.first" "$scratch/$side.second" > "$scratch/$side"
    results "$scratch/$side" > "$scratch/$side.results"
done
total=$(wc -l < "$scratch/bare.results")
grep -q '^backpressure: ' "$scratch/shimmed" && echo "the shim said: $(grep -m1 '^backpressure: ' "$scratch/shimmed")"

different=0
diff "$scratch/bare.results" "$scratch/shimmed.results" | sed -n 's/^[<>] [^(]*(\([^)]*\)).*/\1/p' | sort -u \
    > "$scratch/suspects"
while read -r suspect; do
    run "$scratch/bare" "$suspect"
    bare=$?
    run_shimmed "$scratch/shimmed" "$suspect"
    shimmed=$?
    if [ "$bare" != "$shimmed" ]; then
        echo "differs: $suspect: bare $bare, under the shim $shimmed"
        tail -n 30 "$scratch/shimmed"
        different=$((different + 1))
    fi
done < "$scratch/suspects"
echo "python: $total tests bare, $(wc -l < "$scratch/shimmed.results") under the shim," \
    "$(wc -l < "$scratch/suspects") run again, $different differ"
[ "$total" -gt 500 ] && [ "$different" = 0 ]
