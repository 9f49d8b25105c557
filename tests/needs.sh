#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
#   needs.sh build|deb|test|demo|kernels   installs what is missing for it when run as root; otherwise says so in one line
#   needs.sh --install   installs everything
#   needs.sh look [tests]   says in one line what the compiler $CC does not find for building, or for the tests, too
#
# PROBE=no leaves out what only the eBPF probe needs.
#
# Package names are Debian 12's. Servers are installed, never started: a policy-rc.d that says no is in
# place meanwhile, so that no port of this machine is taken by an installation.
set -eu

probe="clang libbpf-dev bpftool"
[ "${PROBE:-auto}" != no ] || probe=
build="gcc make libc6-dev libjansson-dev libelf-dev libmicrohttpd-dev libncurses-dev $probe"
demo="$build apache2 httperf iproute2 curl python3 procps gawk"
deb="$build debhelper dpkg-dev pkg-config"
everything="$demo $deb clang-format cppcheck libcmocka-dev redis-server \
redis-tools nginx-light memcached postgresql vsftpd openssh-server haproxy lighttpd stunnel4 nodejs wrk \
mariadb-server mariadb-client postgresql-client nghttp2-client \
libmemcached-tools openssl curl gnuplot-nox nftables util-linux procps binutils libpython3.11-testsuite \
libclang-rt-14-dev libjemalloc2 libfaketime \
musl-tools libsocket-wrapper trickle spin strace gdb valgrind prometheus lintian tmux zsh man-db mandoc systemd"

kernels="$everything qemu-system-x86 busybox-static cpio kmod"

say_missing() {
    echo "missing: $* (run \`make deps\` as root, or: apt-get install $*)" >&2
    exit 1
}

# Whether the compiler finds these headers.
compiles() {
    for header in "$@"; do
        echo "#include <$header>"
    done | $cc -E -x c - > /dev/null 2>&1
}

# By trying, not by asking dpkg: what is there may come from elsewhere.
look() {
    cc=${CC:-gcc}
    headers="libc6-dev:stdio.h libjansson-dev:jansson.h libelf-dev:gelf.h libmicrohttpd-dev:microhttpd.h \
libncurses-dev:ncurses.h"
    [ "${1:-}" != tests ] || headers="$headers libcmocka-dev:cmocka.h"
    [ -z "$probe" ] || headers="$headers libbpf-dev:bpf/libbpf.h"
    command -v "${cc%% *}" > /dev/null || say_missing "${cc%% *}"
    missing=
    for tool in ${probe:+clang:${BPF_CLANG:-clang} bpftool:${BPFTOOL:-bpftool}}; do
        command -v "${tool#*:}" > /dev/null || missing="$missing ${tool%%:*}"
    done
    [ -n "$missing" ] || ! compiles $(for pair in $headers; do echo "${pair#*:}"; done) || exit 0
    for pair in $headers; do
        compiles "${pair#*:}" || missing="$missing ${pair%%:*}"
    done
    [ -z "$missing" ] || say_missing $missing
    exit 0
}

case "${1:-}" in
look) look "${2:-}" ;;
test | --install) wanted=$everything ;;
build) wanted=$build ;;
deb) wanted=$deb ;;
demo) wanted=$demo ;;
kernels) wanted=$kernels ;;
*)
    echo "usage: needs.sh build|deb|test|demo|kernels|--install|look" >&2
    exit 2
    ;;
esac

installed() {
    # Node may come from elsewhere than Debian, under the same name.
    dpkg-query -W -f '${Status}' "$1" 2> /dev/null | grep -q 'ok installed'
}

# Elsewhere than on Debian, what is missing shows when it is missed.
command -v dpkg-query > /dev/null || exit 0
missing=
for package in $wanted; do
    installed "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
    say_missing $missing
fi

policy=/usr/sbin/policy-rc.d
ours=
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod +x "$policy"
    ours=yes
fi
trap '[ -z "$ours" ] || rm -f "$policy"' EXIT
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
if ! { apt-get update && apt-get install -y --no-install-recommends $missing; } > "$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "needs.sh: apt-get could not install:$missing" >&2
    rm -f "$log"
    exit 1
fi
rm -f "$log"
