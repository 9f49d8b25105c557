#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# What `make install` leaves works from where it is, and `make uninstall` takes it all away.
set -eu
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
make --no-print-directory -s BUILD="${BUILD:-build}" PREFIX=/usr DESTDIR="$root" install
files=$(cd "$root" && find . -type f | sort | tr '\n' ' ')
[ "$files" = "./usr/bin/bpctl ./usr/lib/libbackpressure.so " ] || {
    echo "FAILED: installed $files"
    exit 1
}
said=$("$root/usr/bin/bpctl" run --name "install-$$" conns=5 -- sh -c 'echo "$LD_PRELOAD"')
[ "$said" = "$root/usr/bin/../lib/libbackpressure.so" ] || {
    echo "FAILED: preloads $said"
    exit 1
}
"$root/usr/bin/bpctl" ls > /dev/null
make --no-print-directory -s PREFIX=/usr DESTDIR="$root" uninstall
[ -z "$(find "$root" -type f)" ]
echo "install: passed"
