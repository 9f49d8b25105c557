#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
#   run.sh [PACKAGE]...   boots the kernel of each Debian package under qemu, and prints what works on it
#
# PACKAGE is the name of a package that apt can download (linux-image-6.1.0-56-cloud-amd64), or a .deb file. Without
# any: what linux-image-amd64 stands for, and the newest kernel that apt knows besides. The guest has no network and
# no disk: its root is made of this machine's own programs, with the modules of its kernel.
set -eu
cd "$(dirname "$0")/../.."
export BUILD=${BUILD:-build}
readonly WORK=$PWD/$BUILD/kernels LONGEST_S=${LONGEST_S:-2400} MEMORY_MB=2048
# What the tests start in the guest, besides the shell's own.
readonly PROGRAMS="bash sh cat cp cut env grep head id kill ls mkdir mktemp mount printf ps rm sed seq setpriv setarch
sleep sort ss stat tail test timeout touch tr true umount uniq unshare wc awk bpftool redis-server redis-cli nginx
memcached nsenter mountpoint ip"
readonly TESTS="test_limits test_limit_rows test_segment test_busy test_policies test_semantics test_stress test_output
test_depth test_hold test_refuse test_styles acceptor"
# By software, which works everywhere; ACCELERATOR=kvm is faster where that works.
ACCELERATOR=${ACCELERATOR:-tcg}
PROCESSOR=max
readonly MODULES="tcp_diag inet_diag unix_diag"

# The package that holds the kernel which a package without one stands for.
real_package() {
    apt-cache depends --important "$1" 2> /dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1
}

chosen_packages() {
    real_package linux-image-amd64
    # A later series, in backports or beside it, under the names of versions alone.
    apt-cache pkgnames linux-image- | grep -E '^linux-image-[0-9.]+(\+bpo|\+deb[0-9]+)?(\.[0-9]+)?-amd64$' |
        sort -V | tail -n 1 | while read -r newest; do
            stands_for=$(real_package "$newest")
            echo "${stands_for:-$newest}"
        done
}

# fetch PACKAGE: unpacks it; prints the directory that then has boot/ and lib/modules/.
fetch() {
    local name=${1##*/} directory
    name=${name%.deb}
    directory=$WORK/$name
    if [ ! -e "$directory/done" ]; then
        rm -rf "$directory"
        mkdir -p "$directory/deb"
        if [ -f "$1" ]; then
            cp "$1" "$directory/deb/"
        else
            (cd "$directory/deb" && apt-get download -qq "$1" > /dev/null 2>&1) || return 1
        fi
        dpkg-deb -x "$directory"/deb/*.deb "$directory"
        rm -rf "$directory/deb"
        touch "$directory/done"
    fi
    echo "$directory"
}

# copy FILE...: into the root, with the libraries that it is linked to.
copy() {
    local file library
    for file in "$@"; do
        [ -e "$root$file" ] || cp --parents -L "$file" "$root/"
        for library in $(ldd "$file" 2> /dev/null | grep -o '/[^ ]*' || true); do
            [ -e "$root$library" ] || cp --parents -L "$library" "$root/"
        done
    done
}

# copy_modules DIRECTORY RELEASE: MODULES, and what they depend on.
copy_modules() {
    local module file
    local from=$1/lib/modules/$2
    depmod -b "$1" "$2"
    for module in $MODULES; do
        for file in $(modprobe -d "$1" -S "$2" --show-depends "$module" 2> /dev/null | awk '$1 == "insmod" { print $2 }'); do
            mkdir -p "$root/$(dirname "${file#"$1"}")"
            cp "$file" "$root/${file#"$1"}"
        done
    done
    cp "$from"/modules.{builtin,order} "$root/lib/modules/$2/" 2> /dev/null || true
    depmod -b "$root" "$2" 2> /dev/null
}

make_root() {
    local program
    root=$WORK/root
    rm -rf "$root"
    # Where the merged /usr of Debian is expected, links lead to it.
    mkdir -p "$root"/{usr/bin,usr/sbin,usr/lib,usr/lib64,proc,sys,dev,tmp,run,etc,var/lib,var/log,root}
    ln -s usr/bin "$root/bin"
    ln -s usr/sbin "$root/sbin"
    ln -s usr/lib "$root/lib"
    ln -s usr/lib64 "$root/lib64"
    for program in $PROGRAMS; do
        program=$(PATH="$PATH:/usr/sbin:/sbin" command -v "$program") || continue
        [[ $program != /* ]] || copy "$(realpath -s "$program" | sed 's|^/s\?bin/|/usr&|')"
    done
    copy /usr/bin/busybox
    ln -s busybox "$root/usr/bin/poweroff"
    cp /etc/passwd /etc/group /etc/nsswitch.conf "$root/etc/"
    mkdir -p "$root/repository/$BUILD/tests" "$root/var/lib/nginx" "$root/var/log/nginx"
    for program in bpctl libbackpressure.so $(printf 'tests/%s ' $TESTS); do
        cp "$BUILD/$program" "$root/repository/$BUILD/$program"
        copy_libraries_of "$BUILD/$program"
    done
    cp tests/kernels/init tests/kernels/features.sh "$root/"
    chmod 755 "$root/init" "$root/features.sh"
}

copy_libraries_of() {
    local library
    for library in $(ldd "$1" | grep -o '/[^ ]*'); do
        [ -e "$root$library" ] || cp --parents -L "$library" "$root/"
    done
}

# boot DIRECTORY: the guest's words are in a log; those of features are printed as they come.
boot() {
    local release log=$1/log
    release=$(ls "$1/lib/modules")
    make_root
    copy_modules "$1" "$release"
    (cd "$root" && find . -print0 | cpio --quiet -0 -o -H newc) > "$WORK/root.cpio"
    echo "=== Linux $release"
    timeout "$LONGEST_S" qemu-system-x86_64 -nodefaults -no-reboot -display none -nic none -smp 2 -m "$MEMORY_MB" \
        -accel "$ACCELERATOR" -cpu "$PROCESSOR" -serial stdio -kernel "$1/boot/vmlinuz-$release" \
        -initrd "$WORK/root.cpio" -append "console=ttyS0 panic=-1 quiet BUILD=$BUILD" < /dev/null |
        sed -u 's/\r//g' | tee "$log" | grep --line-buffered -a '^FEATURE ' | sed -u 's/^FEATURE /  /' || true
    grep -a -q '^FEATURES END$' "$log" || {
        echo "FEATURE comes to its end: FAILED" >> "$log"
        echo "  the guest did not come to its end: see $log"
    }
    results+=("$release" "$log")
}

# A row a feature, a column a kernel.
table() {
    local i logs=() feature
    printf '\n%-42s' feature
    for ((i = 0; i < ${#results[@]}; i += 2)); do
        printf ' %-24s' "${results[i]}"
        logs+=("${results[i + 1]}")
    done
    echo
    grep -a -h '^FEATURE ' "${logs[@]}" | sed 's/^FEATURE \(.*\): [^:]*$/\1/' | awk '!seen[$0]++' | while read -r feature; do
        printf '%-42s' "$feature"
        for log in "${logs[@]}"; do
            printf ' %-24s' "$(grep -a -F "FEATURE $feature: " "$log" | sed 's/.*: //' | head -n 1)"
        done
        echo
    done
}

[ $# -gt 0 ] || mapfile -t packages < <(chosen_packages)
[ $# = 0 ] || packages=("$@")
mkdir -p "$WORK"
results=()
for package in "${packages[@]}"; do
    directory=$(fetch "$package") || {
        echo "$package: cannot be downloaded"
        continue
    }
    boot "$directory"
done
[ ${#results[@]} -gt 0 ] || exit 1
table | tee "$WORK/table"
failed=$(grep -c 'FAILED' "$WORK/table" || true)
echo "$failed failed"
[ "$failed" = 0 ]
