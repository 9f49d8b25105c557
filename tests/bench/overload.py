#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Unmodified servers at up to ten times their capacity: bare, behind HAProxy, under a connection limit of
nftables, and under the shim. Goodput is what was answered within the clients' patience of one second.

    overload.py [--calm N] [--seconds S] [SUBJECT]...

Prints a table for each subject and draws build/overload.svg. --calm offers N requests at 0.8 of the capacity
instead, none of which should be refused.

The server runs on one half of the processors, those who load it on the other: thousands of clients a second
cost a good part of a core, which on a real network is not the server's.
"""
import argparse
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
SHIM_RUNTIME = os.environ.get("SANITIZER_RUNTIME", "")
CORES = sorted(os.sched_getaffinity(0))
HALF = len(CORES) // 2
LOADS = [0.5, 1, 1.5, 2, 4, 8, 10]
WORK_MS = 4
QUEUE_DELAY_MS = 50
FIXED = f"queue-delay={QUEUE_DELAY_MS}ms"

NODE = """
const work = () => { let x = 0; for (let i = 0; i < +process.argv[3]; i++) x += Math.sqrt(i ^ x); return x; };
require('http').createServer((q, r) => { work(); r.end('served\\n'); }).listen(+process.argv[2], '127.0.0.1', 511);
"""
PYTHON = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        x = 0
        for i in range(int(sys.argv[2])): x += i * i
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"served\\n")
    def log_message(self, *_): pass
class Server(HTTPServer):
    request_queue_size = 511
    def handle_error(self, *_): pass
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
LUA = """
function handle(r)
    local x = 0
    for i = 1, %d do x = x + i %% 7 end
    r.content_type = "text/plain"
    r:puts("served\\n")
    return apache2.OK
end
"""


def on_cores(cores, command):
    """The command, kept on these cores; on any where a machine has but one."""
    return ["taskset", "-c", ",".join(map(str, cores))] + command if HALF else command


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition, what, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"overload.py: {what} did not come about")
        time.sleep(0.01)


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as probe:
            return probe.getsockname() != probe.getpeername()  # nobody listens, and it found itself
    except OSError:
        return False


class NotStarted(Exception):
    """A server ended before it took its first client; what it said."""


class Subject:
    """A server with some milliseconds of work in each request. `turns` of its loop make up one. `user`: what stands
    before the command of a server that root must not run."""

    query, user = None, []

    def __init__(self):
        self.turns = self.first_turns

    def prepare(self, directory, port):
        raise NotImplementedError

    def ask(self):
        return [self.query % self.turns] if self.query else []


class Node(Subject):
    name, fixed, first_turns = "node", FIXED, 300000

    def prepare(self, directory, port):
        path = directory + "/server.js"
        with open(path, "w", encoding="ascii") as file:
            file.write(NODE)
        return ["node", path, str(port), str(self.turns)]


class Python(Subject):
    name, fixed, first_turns = "python", FIXED, 60000

    def prepare(self, directory, port):
        path = directory + "/server.py"
        with open(path, "w", encoding="ascii") as file:
            file.write(PYTHON)
        return ["/usr/bin/python3", path, str(port), str(self.turns)]


class Apache(Subject):
    name, fixed, first_turns = "apache", FIXED + " total-conns=2", 300000

    def prepare(self, directory, port):
        modules = "/usr/lib/apache2/modules"
        with open(directory + "/page.lua", "w", encoding="ascii") as file:
            file.write(LUA % self.turns)
        with open(directory + "/conf", "w", encoding="ascii") as file:
            file.write(f"""ServerRoot {directory}
ServerName localhost
PidFile {directory}/pid
ErrorLog {directory}/error
Listen 127.0.0.1:{port}
ListenBacklog 1024
DocumentRoot {directory}
Mutex file:{directory}
LoadModule mpm_prefork_module {modules}/mod_mpm_prefork.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule lua_module {modules}/mod_lua.so
User {pwd.getpwuid(os.geteuid()).pw_name if os.geteuid() else "www-data"}
StartServers 50
MinSpareServers 10
MaxSpareServers 200
MaxRequestWorkers 200
LuaScope server
LuaMapHandler / {directory}/page.lua
""")
        return ["apache2", "-D", "FOREGROUND", "-f", directory + "/conf"]


class MariaDB(Subject):
    name, fixed, first_turns = "mariadb", FIXED + " conns=2 busy=mysql", 20000
    query = "SELECT BENCHMARK(%d, MD5('x'))"

    def prepare(self, directory, port):
        user = "mysql" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        subprocess.run(["mariadb-install-db", "--no-defaults", f"--user={user}", f"--datadir={directory}/data",
                        "--auth-root-authentication-method=normal"],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return ["mariadbd", "--no-defaults", f"--user={user}", f"--datadir={directory}/data",
                f"--port={port}", "--bind-address=127.0.0.1", f"--socket={directory}/sock",
                f"--pid-file={directory}/pid", "--max-connections=500", "--skip-grant-tables",
                "--skip-networking=0", "--skip-name-resolve", "--back-log=511"]


PROGRAMS = {"node": "node", "python": "/usr/bin/python3", "apache": "apache2", "mariadb": "mariadbd"}
SUBJECTS = {kind.name: kind for kind in (Node, Python, Apache, MariaDB)}


class Running:
    """A subject that runs: bare (limits is None) or under the shim."""

    def __init__(self, subject, limits=None):
        self.port = self.front = free_port()
        self.directory = tempfile.mkdtemp(prefix="backpressure-overload-")
        os.chmod(self.directory, 0o777)
        self.service = f"overload-{os.getpid()}-{self.port}"
        command = subject.prepare(self.directory, self.port)
        if limits is not None:
            command = [BUILD + "/bpctl", "run", "--name", self.service, *limits.split(), "--"] + command
        command = subject.user + command
        with open(self.directory + "/log", "wb") as log:
            self.process = subprocess.Popen(on_cores(CORES[:HALF], command), stdout=log, stderr=log, start_new_session=True)
        self.helpers = []
        wait_until(lambda: answers(self.port) or self.process.poll() is not None, f"{subject.name} on its port")
        if self.process.poll() is not None:
            with open(self.directory + "/log", encoding="utf-8", errors="replace") as log:
                said = log.read().strip()
            self.__exit__()
            raise NotStarted(said)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.helpers + [self.process]:
            try:
                os.killpg(process.pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)
        subprocess.run([BUILD + "/bpctl", "ls"], check=False, capture_output=True)  # clears what ended

    def family(self):
        """Process ids of the server and all its children, with the fields of their stat from the state on."""
        fields, pids = {}, [str(self.process.pid)]
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{entry}/stat", encoding="ascii", errors="replace") as file:
                    fields[entry] = file.read().rsplit(")", 1)[1].split()
            except OSError:
                pass
        for pid in pids:
            pids += [entry for entry, its in fields.items() if its[1] == pid]
        return {pid: fields[pid] for pid in pids if pid in fields}

    def cpu_seconds(self):
        """What the server took of the processors so far, with its children, those that ended, and what stands in
        front of it."""
        ticks = sum(sum(map(int, its[11:15])) for its in self.family().values())
        for helper in self.helpers:
            with open(f"/proc/{helper.pid}/stat", encoding="ascii") as file:
                ticks += sum(map(int, file.read().rsplit(")", 1)[1].split()[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_mb(self):
        """Resident memory of the server and all its children, in MB."""
        total = 0
        for pid in self.family():
            try:
                with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
                    total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
            except OSError:
                pass
        return total / 1024

    def show(self):
        return json.loads(subprocess.run([BUILD + "/bpctl", "show", self.service, "--json"], check=True,
                                         capture_output=True).stdout)


def offer(server, subject, rate, seconds, retry="none"):
    """What came of `rate` clients a second ('xN': N at a time) for that long."""
    command = [BUILD + "/tests/openloop", str(server.front), str(rate), str(seconds), "1000", retry]
    load = subprocess.Popen(on_cores(CORES[HALF:], command + subject.ask()), stdout=subprocess.PIPE)
    time.sleep(min(seconds / 2, 2))
    memory = server.memory_mb()
    result = json.loads(load.communicate()[0])
    result["memory_mb"] = memory
    return result


def behind_haproxy(server, connections="option httpclose"):
    """HAProxy in front: at most 8 at a time, and 300 ms of waiting. `connections`: what it does with those to the
    server."""
    server.front = free_port()
    path = server.directory + "/haproxy.cfg"
    with open(path, "w", encoding="ascii") as file:
        file.write(f"""global
 maxconn 4000
defaults
 mode http
 timeout client 10s
 timeout connect 5s
 timeout server 10s
 timeout queue 300ms
frontend all
 bind 127.0.0.1:{server.front}
 default_backend one
backend one
 {connections}
 server one 127.0.0.1:{server.port} maxconn 8
""")
    server.helpers.append(subprocess.Popen(on_cores(CORES[:HALF], ["haproxy", "-db", "-f", path]), stdout=subprocess.DEVNULL,
                                           stderr=subprocess.DEVNULL, start_new_session=True))
    wait_until(lambda: answers(server.front), "haproxy")


class Nft:
    """A connection limit in the kernel: more than 8 at once are reset."""

    def __init__(self, port):
        self.table = f"overload{port}"
        rules = (f"table inet {self.table} {{ chain input {{ type filter hook input priority 0; "
                 f"tcp dport {port} ct state new ct count over 8 reject with tcp reset; }}; }}")
        self.works = shutil.which("nft") is not None and \
            subprocess.run(["nft", rules], capture_output=True).returncode == 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.works:
            subprocess.run(["nft", "delete", "table", "inet", self.table], check=False)


def warm_up(server, subject):
    """Compilers that learn from what runs make a request cheaper after some hundreds. Returns this one's own
    best: the same program runs a fifth faster or slower from start to start."""
    offer(server, subject, "x4", 2)
    return offer(server, subject, "x4", 2)["goodput"]


def calibrate(subject):
    """Finds the turns that make WORK_MS, and the capacity: the server's own best, in answers a second."""
    for _ in range(3):
        with Running(subject) as server:
            warm_up(server, subject)
            alone = offer(server, subject, "x1", 1)
        subject.turns = max(1, int(subject.turns * WORK_MS / alone["p50_ms"]))
    with Running(subject) as server:
        warm_up(server, subject)
        alone = offer(server, subject, "x1", 2)
        best = max(offer(server, subject, clients, 2)["goodput"] for clients in ("x2", "x4", "x8"))
    return best, alone["p99_ms"]


def row(name, load, best, result):
    print(f"  {name:<10} {load:>5} {result['goodput']:>9.1f} {result['goodput'] / best:>6.2f} "
          f"{result['p50_ms']:>8.1f} {result['p99_ms']:>8.1f} {result['refused']:>8} "
          f"{result['refusal_p50_ms']:>8.1f} {result['reset']:>7} {result['gave_up']:>7} "
          f"{result['memory_mb']:>7.0f}", flush=True)


HEAD = (f"  {'':<10} {'load':>5} {'goodput/s':>9} {'share':>6} {'p50 ms':>8} {'p99 ms':>8} {'refused':>8} "
        f"{'after ms':>8} {'reset':>7} {'gave up':>7} {'MB':>7}")


def contenders(subject):
    """Name, the shim's limits (None: without it), and what else stands in front."""
    yield "bare", None, None
    if not subject.query and shutil.which("haproxy"):
        yield "haproxy", None, "haproxy"
    yield "nft", None, "nft"
    yield "shim", subject.fixed, None
    yield "shim auto", ("total-conns=auto" if subject.name == "apache" else "conns=auto"), None


def compare(subject, seconds, loads):
    """Every contender at every load; returns {name: [(load, share of best)]}."""
    best, alone_p99 = calibrate(subject)
    curves = {}
    print(f"\n{subject.name}: best {best:.0f} answers/s, p99 alone {alone_p99:.1f} ms\n{HEAD}", flush=True)
    for name, limits, front in contenders(subject):
        with Running(subject, limits) as server, Nft(server.port if front == "nft" else 0) \
                if front == "nft" else open(os.devnull, encoding="ascii") as rules:
            if front == "nft" and not rules.works:
                print("  nft        (not available here)")
                continue
            own = warm_up(server, subject)
            if front == "haproxy":
                behind_haproxy(server)
            for load in loads:
                result = offer(server, subject, load * own, seconds)
                row(name, load, own, result)
                curves.setdefault(name, []).append((load, result["goodput"] / own))
    return best, curves


def recovery(subject, best):
    """Seconds until goodput is back after a spike of ten times capacity ends."""
    print(f"  recovery: seconds from the end of a spike (10x, 3 s) until 0.5x is answered again")
    spike_ends, calm = 6, 0.5 * best
    for name, limits, front in contenders(subject):
        if front:
            continue
        with Running(subject, limits) as server:
            warm_up(server, subject)
            result = offer(server, subject, f"{calm}:3,{10 * best}:3,{calm}:8", 14)
        back = None
        for slot in range(spike_ends * 10, 135):
            if sum(result["series"][slot:slot + 5]) / 5 * 10 >= 0.8 * calm:
                back = slot / 10 - spike_ends
                break
        print(f"  {name:<10} {'never' if back is None else f'{back:.1f}'}", flush=True)


def retry_storm(subject, best):
    """At twice the capacity for 5 s, clients that come back."""
    if subject.query:
        return
    print("  retries: at 2x for 8 s, clients that were refused or gave up come back")
    for name, limits, retry in (("bare", None, "at-once"), ("shim", subject.fixed, "at-once"),
                                ("shim", subject.fixed + " retry-after=1..5", "retry-after")):
        with Running(subject, limits) as server:
            warm_up(server, subject)
            result = offer(server, subject, 2 * best, 8, retry)
        print(f"  {name:<10} {retry:<12} {result['attempts'] / result['offered']:.2f} attempts a client, "
              f"{result['served'] / result['offered']:.2f} of them served, goodput {result['goodput'] / best:.2f}",
              flush=True)


def draw(all_curves):
    """Goodput against offered load, a panel for each subject."""
    if not shutil.which("gnuplot"):
        print("gnuplot is missing: no picture")
        return
    path = BUILD + "/overload.svg"
    lines = [f"set terminal svg size {460 * len(all_curves)},380 background 'white'", f"set output '{path}'",
             f"set multiplot layout 1,{len(all_curves)}", "set xlabel 'offered load / capacity'",
             "set ylabel 'goodput / capacity'", "set yrange [0:1.15]", "set key bottom left", "set grid"]
    for subject, curves in all_curves.items():
        lines.append(f"set title '{subject}'")
        for index, points in enumerate(curves.values()):
            lines.append(f"$d{index} << EOD")
            lines += [f"{load} {share:.3f}" for load, share in points]
            lines.append("EOD")
        lines.append("plot " + ", ".join(f"$d{index} with linespoints title '{name}'"
                                         for index, name in enumerate(curves)))
    subprocess.run(["gnuplot"], input="\n".join(lines).encode(), check=True)
    print(f"\npicture: {path}")


def calm(subject, requests):
    """Offers so many at 0.8 of the capacity, with and without the shim, and says how many it refused."""
    best, _ = calibrate(subject)
    print(f"{subject.name}: best {best:.0f} answers/s\n{HEAD}", flush=True)
    refused = 0
    for name, limits in (("shim", subject.fixed), ("bare", None)):
        with Running(subject, limits) as server:
            own = warm_up(server, subject)
            result = offer(server, subject, 0.8 * own, (requests if limits else requests / 10) / (0.8 * own))
            row(name, 0.8, own, result)
            if limits:
                refused = result["refused"] + result["reset"]
    print(f"{subject.name}: {refused} of {requests} refused")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--calm", type=int, metavar="N")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("subject", nargs="*", choices=[*SUBJECTS, []], default=[])
    options = parser.parse_args()
    names = options.subject or list(SUBJECTS)
    all_curves = {}
    for name in names:
        if not shutil.which(PROGRAMS[name]):
            print(f"{name}: not installed")
            continue
        subject = SUBJECTS[name]()
        if options.calm:
            calm(subject, options.calm)
            continue
        best, all_curves[name] = compare(subject, options.seconds, LOADS)
        recovery(subject, best)
        retry_storm(subject, best)
    if all_curves:
        draw(all_curves)


if __name__ == "__main__":
    main()
