#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
# The demonstration: Debian's own apache2, a process for each request, with a page that takes some
# work; httperf asks for several times more than it can do, and gives up on an answer after a second.
# First bare, then under bpctl; then a limit is changed while the load goes on.
# Everything happens on 127.0.0.1, on a port that is free, and is gone afterwards.
set -u
cd "$(dirname "$0")/.."
build=${BUILD:-build}
bpctl=$build/bpctl
scratch=$(mktemp -d /tmp/backpressure-demo-XXXXXX)
name=demo-$$
seconds=8
offered=250
limits="total-conns=6 when-full=busy retry-after=1..5"
server=
load=

bold=$(tput bold 2> /dev/null || true)
plain=$(tput sgr0 2> /dev/null || true)

stop() {
    [ -n "$1" ] || return 0
    kill "$1" 2> /dev/null
    wait "$1" 2> /dev/null
}

finish() {
    stop "$load"
    stop "$server"
    rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 130' INT TERM

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

prepare() {
    chmod 755 "$scratch"
    cat > "$scratch/page" << 'PAGE'
#!/bin/sh
# Some work, as a page of a shop or a wiki is.
awk 'BEGIN { for (i = 0; i < 150000; i++) x += i }'
printf 'Content-Type: text/plain\r\n\r\nserved\n'
PAGE
    chmod 755 "$scratch/page"
    port=$(free_port)
    modules=/usr/lib/apache2/modules
    cat > "$scratch/apache.conf" << CONF
ServerRoot $scratch
ServerName localhost
PidFile $scratch/pid
ErrorLog $scratch/error.log
Listen 127.0.0.1:$port
ListenBacklog 1024
DocumentRoot $scratch
Mutex file:$scratch
LoadModule mpm_prefork_module $modules/mod_mpm_prefork.so
LoadModule authz_core_module $modules/mod_authz_core.so
LoadModule alias_module $modules/mod_alias.so
LoadModule cgi_module $modules/mod_cgi.so
ScriptAlias /page $scratch/page
KeepAlive Off
StartServers 20
MinSpareServers 10
MaxSpareServers 400
ServerLimit 400
MaxRequestWorkers 400
CONF
    # As root, the workers get an account of their own.
    [ "$(id -u)" = 0 ] && printf 'User www-data\nGroup www-data\n' >> "$scratch/apache.conf"
    sed -i 's|^ErrorLog .*|ErrorLog /dev/null|' "$scratch/apache.conf"
}

# start [bpctl run ...]: waits until a page comes.
start() {
    # In a session of its own: apache2 ends its whole process group.
    setsid "$@" apache2 -D FOREGROUND -f "$scratch/apache.conf" > "$scratch/log" 2>&1 &
    server=$!
    for _ in $(seq 200); do
        curl -s -m 2 -o /dev/null "http://127.0.0.1:$port/page" && return 0
        kill -0 "$server" 2> /dev/null || break
        read -r -t 0.05 <> <(:)
    done
    cat "$scratch/log" >&2
    echo "demo: apache2 did not start" >&2
    exit 1
}

# overload SECONDS: httperf's report goes to $scratch/report.
overload() {
    httperf --hog --server 127.0.0.1 --port "$port" --uri /page --rate $offered \
        --num-conns $((offered * $1)) --num-calls 1 --timeout 1 > "$scratch/report" 2>&1
}

connections() {
    ss -Htnp state established "( sport = :$port )" | grep -c 'users:('
}

# Processes of the server, scripts included, and the memory they hold (proportional set size, MB).
footprint() {
    # All are in the session that setsid made for the server.
    local pids
    pids=$(ps -o pid= -s "$server" | tr -d ' ')
    for pid in $pids; do
        cat "/proc/$pid/smaps_rollup" 2> /dev/null
    done | awk '/^Rss:/ { processes++ } /^Pss:/ { kb += $2 }
        END { printf "%d %d\n", processes, kb / 1024 }'
}

# measure: one run; prints served/s, refused/s, given up/s, most connections, processes, MB.
measure() {
    overload $seconds &
    load=$!
    local most=0 processes=0 memory=0 seen
    while kill -0 "$load" 2> /dev/null; do
        seen=$(connections)
        [ "$seen" -gt "$most" ] && most=$seen
        read -r p m <<< "$(footprint)"
        [ "${p:-0}" -gt "$processes" ] && processes=$p
        [ "${m:-0}" -gt "$memory" ] && memory=$m
        read -r -t 0.3 <> <(:)
    done
    wait "$load"
    load=
    awk -v most="$most" -v processes="$processes" -v memory="$memory" -v seconds=$seconds '
        /^Reply status/ { split($0, part, /[= ]/); for (i in part) { if (part[i] == "2xx") served = part[i + 1]; if (part[i] == "5xx") busy = part[i + 1] } }
        /^Errors: total/ { given_up = $5 }
        /^Reply time/ { response = $5 }
        END { printf "%.0f %.0f %.0f %d %d %d\n", served / seconds, busy / seconds, given_up / seconds, most, processes, memory }
    ' "$scratch/report"
}

row() {
    printf '  %-46s %10s %14s\n' "$1" "$2" "$3"
}

bar() {
    printf '%*s' "$1" '' | tr ' ' '#'
}

prepare
printf '%sOverload: apache2 is asked for %d pages a second, more than it can make; clients wait one second.%s\n' \
    "$bold" "$offered" "$plain"
echo "Running bare, $seconds s ..."
start
read -r -a bare <<< "$(measure)"
stop "$server"
server=
echo "Running under: bpctl run --name $name $limits -- apache2 ..., $seconds s ..."
start "$bpctl" run --name "$name" $limits --
read -r -a held <<< "$(measure)"

printf '\n%s' "$bold"
row "" "bare" "under bpctl"
printf '%s' "$plain"
row "pages answered in time, per second (goodput)" "${bare[0]}" "${held[0]}"
row "told at once to come back later (503), per s" "${bare[1]}" "${held[1]}"
row "clients that waited a second for nothing, per s" "${bare[2]}" "${held[2]}"
row "connections inside, at most (ss)" "${bare[3]}" "${held[3]}"
row "processes, at most" "${bare[4]}" "${held[4]}"
row "memory of these, MB, at most" "${bare[5]}" "${held[5]}"

printf '\n%sNow the limit moves while the load goes on (connections inside, as ss counts them):%s\n' \
    "$bold" "$plain"
overload 9 &
load=$!
for limit in 6 2 12 4; do
    "$bpctl" set "$name" "total-conns=$limit"
    printf '  bpctl set %s total-conns=%-3s' "$name" "$limit"
    # Those inside stay until they are done: the count follows when they leave.
    for _ in $(seq 40); do
        [ "$(connections)" -le "$limit" ] && break
    done
    most=0
    for _ in 1 2 3 4 5 6 7 8; do
        seen=$(connections)
        [ "$seen" -gt "$most" ] && most=$seen
        read -r -t 0.1 <> <(:)
    done
    printf ' at most %2d inside  %s\n' "$most" "$(bar "$most")"
done
stop "$load"
load=
printf '\n%sWhat bpctl saw:%s\n' "$bold" "$plain"
"$bpctl" show "$name" | sed -n '/^totals/,/^processes/p' | sed '1d;$d'
