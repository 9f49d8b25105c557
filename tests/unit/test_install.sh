#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# What `make install` leaves works from where it is, and `make uninstall` takes it all away.
set -eu
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
make --no-print-directory -s BUILD="${BUILD:-build}" PREFIX=/usr DESTDIR="$root" install
for file in bin/bpctl lib/libbackpressure.so share/man/man1/bpctl.1 share/man/man7/backpressure.7 \
    share/man/man7/backpressure-metrics.7 share/man/man8/libbackpressure.so.8 share/bash-completion/completions/bpctl share/zsh/site-functions/_bpctl \
    lib/systemd/system/backpressure@.service share/doc/backpressure/examples/limits.conf \
    share/doc/backpressure/examples/dashboard.json share/doc/backpressure/examples/backpressure.py; do
    [ -f "$root/usr/$file" ] || {
        echo "FAILED: $file is not installed"
        exit 1
    }
done
grep -q "=/usr/lib/libbackpressure.so" "$root/usr/share/doc/backpressure/examples/limits.conf"
said=$("$root/usr/bin/bpctl" run --name "install-$$" conns=5 -- sh -c 'echo "$LD_PRELOAD"')
[ "$said" = "$root/usr/bin/../lib/libbackpressure.so" ] || {
    echo "FAILED: preloads $said"
    exit 1
}
"$root/usr/bin/bpctl" ls > /dev/null
make --no-print-directory -s PREFIX=/usr DESTDIR="$root" uninstall
[ -z "$(find "$root" -type f)" ]
echo "install: passed"
