#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# A build follows what it is made with: compiler, flags, places, and whether the probe can be built. What is
# missing is said in one line.
set -eu
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
build="$scratch/build"

fail() {
    echo "FAILED: $*"
    exit 1
}

# make, with this build alone: no variable of the run that this test is part of.
made() {
    env -u MAKEFLAGS -u MAKELEVEL -u CC -u CFLAGS -u SANITIZE -u PROBE \
        make --no-print-directory -j2 BUILD="$build" CFLAGS=-O0 "$@" 2>&1
}

# says_one_line TEXT OUTPUT: the text is in one line of what make said, and only make's own line is beside it.
says_one_line() {
    [ "$(echo "$2" | grep -vc -e '^make: ' -e '^  [A-Z]')" = 1 ] || fail "more than one line: $2"
    case "$2" in *"$1"*) ;; *) fail "not said: $1; but: $2" ;; esac
}

compiled() {
    made V=1 "$@" | grep -c -e ' -c -o ' || true
}

# Every tool but those named, where a PATH finds it.
hide() {
    rm -rf "$scratch/tools"
    mkdir "$scratch/tools"
    for directory in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do
        for tool in "$directory"/*; do
            [ -e "$scratch/tools/${tool##*/}" ] || ln -s "$tool" "$scratch/tools/${tool##*/}" 2> /dev/null || true
        done
    done
    for tool in "$@"; do
        rm -f "$scratch/tools/$tool"
    done
}

# --- the probe comes as soon as it can be built ---
hide clang
said=$(PATH=$scratch/tools made "$build/bpctl")
says_one_line "built without the probe; missing: clang" "$said"
"$build/bpctl" probe status 2>&1 | grep -q "without the probe" || fail "clang was hidden, and the probe is there"
said=$(PATH=$scratch/tools made PROBE=yes "$build/bpctl") && fail "PROBE=yes without clang"
says_one_line "missing: clang" "$said"
made "$build/bpctl" > /dev/null || fail "with the probe"
"$build/bpctl" probe status 2>&1 | grep -q "without the probe" && fail "clang came, and the probe did not"
[ "$(PATH=/usr/bin:/bin compiled "$build/bpctl")" = 0 ] || fail "an ordinary user's PATH builds anew"

# --- what is missing is one line ---
said=$(made CC="gcc -nostdinc" "$build/bpctl") && fail "built without headers"
says_one_line "missing: libc6-dev libjansson-dev libelf-dev libmicrohttpd-dev libncurses-dev libbpf-dev" "$said"
said=$(made CC=/nonexistent/gcc "$build/bpctl") && fail "built without a compiler"
says_one_line "missing: /nonexistent/gcc" "$said"

# --- other flags, another version and other places ---
one="$build/shim/limits/limits.o $build/tools/run.o $build/tools/ls.o"
made $one > /dev/null
[ "$(compiled $one)" = 0 ] || fail "nothing changed, and something is made anew"
[ "$(compiled CFLAGS=-O1 $one)" = 3 ] || fail "other flags do not build anew"
[ "$(compiled PREFIX=/elsewhere CFLAGS=-O1 $one)" = 1 ] || fail "another PREFIX builds not just what is told it"
[ "$(compiled CC=clang CFLAGS=-O1 PREFIX=/elsewhere $one)" = 3 ] || fail "another compiler does not build anew"
echo "build: passed"
