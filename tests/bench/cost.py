#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""What the shim costs where nothing is near its limits.

    cost.py [--pairs N] [--seconds S] [--only calls|rates|memory]

Instructions added to each call, by callgrind, which counts the same twice. Rates of real servers under
generous limits against bare, alternating, as the median of the pairs with their spread; beside them trickle
and HAProxy in front. Memory for a connection, the segment's size, and what a start costs.
"""
import argparse
import contextlib
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from overload import BUILD, CORES, HALF, answers, free_port, on_cores, wait_until

SHIM = BUILD + "/libbackpressure.so"
GENEROUS = "total-conns=50000 conns=40000"
CALLS = ("read recv readv recvfrom recvmsg write send writev sendto sendmsg poll ppoll select pselect "
         "epoll_wait epoll_pwait epoll_ctl fcntl ioctl getsockopt setsockopt close").split()
LISTENER_CALLS = "poll select epoll_wait accept4".split()
TRICKLE = f"/usr/lib/{os.uname().machine}-linux-gnu/trickle/trickle-overload.so"


def shimmed(limits=GENEROUS):
    return {"LD_PRELOAD": SHIM, "BACKPRESSURE": f"name=cost-{os.getpid()} {limits}"}


def clear():
    subprocess.run([BUILD + "/bpctl", "ls"], capture_output=True, check=False)


# --- instructions ---

def instructions(call, tracked, times, environment):
    result = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--trace-children=yes", "env",
         *(f"{key}={value}" for key, value in environment.items()), BUILD + "/tests/calls", call, tracked, str(times)],
        capture_output=True, text=True, check=True)
    return int(re.findall(r"Collected : (\d+)", result.stderr)[-1])


def per_call(call, tracked, environment):
    few, many = 1000, 3000
    return (instructions(call, tracked, many, environment) - instructions(call, tracked, few, environment)) / (many - few)


def calls():
    """Returns the most that was added to a call on an untracked descriptor."""
    if not shutil.which("valgrind"):
        print("valgrind is missing: instructions are not counted")
        return 0
    print("instructions added to a call (callgrind), without what the kernel does")
    print(f"  {'':<12} {'bare':>6} {'untracked':>10} {'tracked':>8} {'tracked, with buffer':>21}")
    most = 0
    for call in CALLS:
        bare = per_call(call, "untracked", {})
        untracked = per_call(call, "untracked", shimmed()) - bare
        tracked = per_call(call, "tracked", shimmed()) - per_call(call, "tracked", {})
        buffered = per_call(call, "tracked", shimmed(GENEROUS + " buffer=1G")) - per_call(call, "tracked", {})
        most = max(most, untracked)
        print(f"  {call:<12} {bare:>6.0f} {untracked:>10.1f} {tracked:>8.1f} {buffered:>21.1f}", flush=True)
    print("and on a listener at which nobody waits, or a set that watches it")
    for call in LISTENER_CALLS:
        bare = per_call(call, "listener", {})
        print(f"  {call:<12} {bare:>6.0f} {per_call(call, 'listener', shimmed()) - bare:>10.1f}", flush=True)
    clear()
    return most


# --- rates ---

NGINX = """daemon off; pid {d}/pid; error_log {d}/error; worker_processes 1; events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 100000000; client_body_temp_path {d}/b; proxy_temp_path {d}/p;
 fastcgi_temp_path {d}/f; uwsgi_temp_path {d}/u; scgi_temp_path {d}/s;
 server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ return 200 "served\\n"; }} }} }}
"""
HAPROXY = """global
 maxconn 4000
defaults
 mode http
 timeout client 10s
 timeout connect 5s
 timeout server 10s
frontend all
 bind 127.0.0.1:{front}
 default_backend one
backend one
 server one 127.0.0.1:{port}
"""
NODE = "require('http').createServer((q, r) => r.end('served\\n')).listen({port}, '127.0.0.1')"


class Bench:
    """A server, and how it is asked. `rate` turns what the client prints into requests a second."""

    http = False

    def __init__(self, directory):
        self.directory, self.port = directory, free_port()

    def server(self):
        raise NotImplementedError

    def client(self, port, seconds):
        raise NotImplementedError

    def rate(self, said):
        raise NotImplementedError

    def prepare(self):
        pass

    def ready(self):
        wait_until(lambda: answers(self.port), f"{self.name} on its port", 60)

    def file(self, name, text):
        path = f"{self.directory}/{name}"
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        return path


class Nginx(Bench):
    name, http, headers = "nginx, keep-alive", True, ()

    def server(self):
        return ["nginx", "-p", self.directory, "-c", self.file("conf", NGINX.format(d=self.directory, port=self.port))]

    def client(self, port, seconds):
        return ["wrk", "-t1", "-c32", f"-d{seconds:.0f}s", *self.headers, f"http://127.0.0.1:{port}/"]

    def rate(self, said):
        return float(re.search(r"Requests/sec:\s+([\d.]+)", said).group(1))


class NginxClose(Nginx):
    name, headers = "nginx, close", ("-H", "Connection: close")


class Node(Nginx):
    name = "node, keep-alive"

    def server(self):
        return ["node", "-e", NODE.format(port=self.port)]


class Redis(Bench):
    name, pipeline = "redis -P 1", 1

    def server(self):
        return ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self.directory]

    def client(self, port, seconds):
        number = int(seconds * (60000 if self.pipeline == 1 else 500000))
        return ["redis-benchmark", "-p", str(port), "-q", "-t", "get", "-c", "32", "-P", str(self.pipeline), "-n",
                str(number), "--csv"]

    def rate(self, said):
        return float(re.search(r'"GET","([\d.]+)"', said).group(1))


class RedisPipelined(Redis):
    name, pipeline = "redis -P 16", 16


class Memcached(Bench):
    name = "memcached"

    def server(self):
        user = ["-u", "root"] if os.geteuid() == 0 else []
        return ["memcached", "-p", str(self.port), "-l", "127.0.0.1", "-U", "0", "-t", "1", *user]

    def client(self, port, seconds):
        return [BUILD + "/tests/asker", str(port), "32", f"{seconds:.0f}", "get k\r\n", "END\r\n"]

    def rate(self, said):
        return float(said)


class Postgres(Bench):
    name, options = "postgres, pgbench -S", ("-S",)

    def __init__(self, directory):
        super().__init__(directory)
        self.programs = sorted(__import__("glob").glob("/usr/lib/postgresql/*/bin"))[-1]
        self.user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        data = directory + "/data"
        os.makedirs(data)
        if self.user:
            shutil.chown(data, "postgres")
        subprocess.run([*self.user, self.programs + "/initdb", "-D", data, "-A", "trust", "-U", "postgres"], check=True,
                       stdout=subprocess.DEVNULL, cwd=data)

    def server(self):
        return [*self.user, self.programs + "/postgres", "-D", self.directory + "/data", "-p", str(self.port), "-h",
                "127.0.0.1", "-k", "", "-F"]

    def ready(self):
        deadline = time.monotonic() + 60
        while subprocess.run([*self.psql(), "-c", "select 1"], capture_output=True, check=False).returncode:
            if time.monotonic() > deadline:
                raise SystemExit("cost.py: postgres does not answer")
            time.sleep(0.1)

    def psql(self):
        return ["psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-q"]

    def prepare(self):
        subprocess.run(["pgbench", "-i", "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "postgres"],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def client(self, port, seconds):
        return ["pgbench", "-n", *self.options, "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-c", "4", "-T",
                f"{seconds:.0f}", "postgres"]

    def rate(self, said):
        return float(re.search(r"tps = ([\d.]+)", said).group(1))


class PostgresConnect(Postgres):
    name, options = "postgres, pgbench -S -C", ("-S", "-C")


BENCHES = (Nginx, NginxClose, Redis, RedisPipelined, Memcached, Postgres, PostgresConnect, Node)
NEEDS = {"Nginx": "wrk", "NginxClose": "wrk", "Node": "node", "Redis": "redis-benchmark", "RedisPipelined":
         "redis-benchmark", "Memcached": "memcached", "Postgres": "pgbench", "PostgresConnect": "pgbench"}


@contextlib.contextmanager
def serving(bench, environment):
    """The server under `environment`, from a fresh start, so that neither side keeps what the other warmed."""
    with open(bench.directory + "/log", "ab") as log:
        process = subprocess.Popen(on_cores(CORES[:HALF], ["env", *(f"{k}={v}" for k, v in environment.items()),
                                                           *bench.server()]), stdout=log, stderr=log,
                                   start_new_session=True)
    try:
        bench.ready()
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT if isinstance(bench, Postgres) else signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ask(bench, port, seconds):
    said = subprocess.run(on_cores(CORES[HALF:], bench.client(port, seconds)), capture_output=True, text=True, check=True)
    return bench.rate(said.stdout)


def one(bench, environment, seconds, haproxy=False):
    with serving(bench, environment):
        if not haproxy:
            ask(bench, bench.port, 1)
            return ask(bench, bench.port, seconds)
        front = free_port()
        config = bench.file("haproxy", HAPROXY.format(front=front, port=bench.port))
        proxy = subprocess.Popen(on_cores(CORES[:HALF], ["haproxy", "-db", "-f", config]), stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: answers(front), "haproxy", 60)
            return ask(bench, front, seconds)
        finally:
            proxy.terminate()
            proxy.wait()


def trickled():
    return {"LD_PRELOAD": TRICKLE, "TRICKLE_DOWNLOAD_LIMIT": "10000000", "TRICKLE_UPLOAD_LIMIT": "10000000",
            "TRICKLE_VERBOSE": "0", "TRICKLE_WINDOW_SIZE": "0", "TRICKLE_ARGV": "server", "TRICKLE_SOCKNAME": "",
            "TRICKLE_TSMOOTH": "3.0", "TRICKLE_LSMOOTH": "20"}


def rates(pairs, seconds):
    print(f"requests a second under generous limits ({GENEROUS}), share of bare: median of {pairs} pairs, spread")
    print(f"  {'':<26} {'bare/s':>9} {'shim':>7} {'least..most':>15} {'trickle':>8} {'haproxy':>8}")
    for kind in BENCHES:
        if not shutil.which(NEEDS[kind.__name__]):
            print(f"  {kind.name:<26} {NEEDS[kind.__name__]} is missing")
            continue
        with tempfile.TemporaryDirectory(prefix="backpressure-cost-") as directory:
            os.chmod(directory, 0o755)
            bench = kind(directory)
            with serving(bench, {}):
                bench.prepare()
            bare, shares = [], []
            for turn in range(pairs):
                sides = [{}, shimmed()]
                measured = {}
                for side in (0, 1) if turn % 2 == 0 else (1, 0):
                    measured[side] = one(bench, sides[side], seconds)
                bare.append(measured[0])
                shares.append(measured[1] / measured[0])
            base = statistics.median(bare)
            others = []
            for environment, haproxy in ((trickled(), False), ({}, True)):
                if (haproxy and not (bench.http and shutil.which("haproxy"))) or \
                        (not haproxy and not os.path.exists(TRICKLE)):
                    others.append("")
                    continue
                try:
                    others.append(f"{one(bench, environment, seconds, haproxy) / base:.2f}")
                except (subprocess.CalledProcessError, AttributeError, SystemExit):
                    others.append("fails")
            print(f"  {bench.name:<26} {base:>9.0f} {statistics.median(shares):>7.3f} "
                  f"{min(shares):>7.3f}..{max(shares):.3f} {others[0]:>8} {others[1]:>8}", flush=True)
    clear()


# --- memory, and starting ---

def resident_kb(pid):
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))


def memory():
    connections = 2000
    grown = {}
    for name, environment in (("bare", {}), ("shim", shimmed())):
        with tempfile.TemporaryDirectory() as directory:
            bench = Redis(directory)
            with serving(bench, environment) as process:
                before = resident_kb(process.pid)
                clients = [socket.create_connection(("127.0.0.1", bench.port)) for _ in range(connections)]
                for client in clients:
                    client.sendall(b"PING\r\n")
                for client in clients:
                    client.recv(16)
                grown[name] = resident_kb(process.pid) - before
                if environment:
                    segment = os.path.getsize(f"/dev/shm/backpressure.{os.geteuid()}/cost-{os.getpid()}")
                for client in clients:
                    client.close()
    print(f"memory for a tracked connection: {(grown['shim'] - grown['bare']) * 1024 / connections:.0f} bytes "
          f"({connections} of redis); the segment of a service: {segment / 1048576:.1f} MiB")

    def start(environment):
        began = time.perf_counter()
        subprocess.run(["/bin/true"], env={**os.environ, **environment}, check=True)
        return time.perf_counter() - began
    bare, first, later = [], [], []
    for _ in range(60):
        bare.append(start({}))
        first.append(start(shimmed()))
        clear()
    with tempfile.TemporaryDirectory() as directory:
        bench = Redis(directory)
        with serving(bench, shimmed()):
            for _ in range(60):
                later.append(start(shimmed()))
    clear()
    print(f"starting a process: {statistics.median(bare) * 1000:.2f} ms bare, {statistics.median(later) * 1000:.2f} ms in a "
          f"service that runs, {statistics.median(first) * 1000:.2f} ms as the first of one")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--only", choices=["calls", "rates", "memory"])
    options = parser.parse_args()
    most = calls() if options.only in (None, "calls") else 0
    if options.only in (None, "memory"):
        memory()
    if options.only in (None, "rates"):
        rates(options.pairs, options.seconds)
    return 1 if most > 25 else 0


if __name__ == "__main__":
    sys.exit(main())
