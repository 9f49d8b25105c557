#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# The Debian package builds, passes lintian, and installs and removes cleanly: on an overlay of this
# machine's own /usr, /etc and /var, which goes with the mount namespace.
set -eu
cd "$(dirname "$0")/../.."

fail() {
    echo "FAILED: $*"
    exit 1
}

if [ "${1:-}" = inside ]; then
    package=$2
    scratch=$(mktemp -d)
    mount --make-rprivate /
    mount -t tmpfs tmpfs "$scratch"
    for tree in usr etc var; do
        mkdir "$scratch/$tree" "$scratch/$tree.work"
        mount -t overlay -o "lowerdir=/$tree,upperdir=$scratch/$tree,workdir=$scratch/$tree.work" overlay "/$tree"
    done
    dpkg -i "$package" > /dev/null || fail "dpkg -i"
    library=$(dpkg -L backpressure | grep 'libbackpressure.so$')
    [[ $library == /usr/lib/*-linux-gnu/libbackpressure.so ]] || fail "the library is at $library"
    said=$(/usr/bin/bpctl run --name "package-$$" conns=5 -- sh -c 'echo "$LD_PRELOAD"')
    [ "$said" = "$library" ] || fail "preloads $said"
    said=$(LD_PRELOAD=libbackpressure.so BACKPRESSURE="name=package-$$ conns=5" bpctl ls 2>&1) || fail "by name: $said"
    man -w bpctl backpressure libbackpressure.so > /dev/null || fail "man pages"
    systemd-analyze verify /lib/systemd/system/backpressure-metrics.service 2>&1 | grep -i backpressure && fail "unit"
    [ -f /usr/share/doc/backpressure/examples/backpressure.py ] || fail "the script for gdb"
    [ -d /etc/backpressure ] || fail "no /etc/backpressure"
    mapfile -t files < <(dpkg -L backpressure | grep -E 'bpctl|backpressure')
    dpkg --purge backpressure > /dev/null || fail "dpkg --purge"
    for file in "${files[@]}"; do
        [ ! -e "$file" ] || fail "$file stayed"
    done
    exit 0
fi

make --no-print-directory -s deb BUILD="${BUILD:-build}" > /dev/null || fail "make deb"
package=$(ls "${BUILD:-build}"/backpressure_*.deb)
lintian --allow-root --fail-on error "$package" || fail "lintian"
if [ "$(id -u)" = 0 ]; then
    unshare --mount "$0" inside "$package"
else
    echo "  skipped  installing the package: needs root"
fi
echo "package: passed"
