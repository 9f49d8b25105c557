#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""What buffer ceilings cost and what they save: ratios of pairs measured in turn, for people to read.

    buffers.py [PAIRS]
"""
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

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
GENEROUS = "buffer=1G conns=5000"
VALUE = 1 << 20
GET = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"
PAIRS = int(sys.argv[1]) if len(sys.argv) > 1 else 11


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A real server, bare (limits is None) or under limits, until the end of a `with`."""

    def __init__(self, limits):
        self.port = free_port()
        self.directory = tempfile.mkdtemp(prefix="backpressure-bench-")
        os.chmod(self.directory, 0o755)
        environment = dict(os.environ)
        if limits is not None:
            environment["LD_PRELOAD"] = BUILD + "/libbackpressure.so"
            environment["BACKPRESSURE"] = f"name=bench-{os.getpid()}-{self.port} {limits}"
        self.process = subprocess.Popen(self.command(), env=environment,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.01)
        raise SystemExit(f"{self.command()[0]} did not come up")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


class Nginx(Server):
    name, load_name = "nginx", "wrk, 50 connections, 4 KB"

    def command(self):
        path = self.directory
        with open(path + "/file", "wb") as file:
            file.write(b"x" * 4000)
        with open(path + "/conf", "w", encoding="ascii") as file:
            file.write(f"worker_processes 1; daemon off; master_process off; pid {path}/pid;\n"
                       f"error_log {path}/error; events {{ worker_connections 4000; }}\n"
                       f"http {{ access_log off; keepalive_requests 100000000;\n"
                       f"client_body_temp_path {path}/b; proxy_temp_path {path}/p;\n"
                       f"fastcgi_temp_path {path}/f; uwsgi_temp_path {path}/u;\n"
                       f"scgi_temp_path {path}/s; sendfile on;\n"
                       f"server {{ listen 127.0.0.1:{self.port}; root {path}; }} }}\n")
        return ["nginx", "-e", "stderr", "-c", path + "/conf"]

    def load(self, seconds=1):
        """Requests per second, and how many there were."""
        output = subprocess.run(["wrk", "-t1", "-c50", f"-d{seconds}s",
                                 f"http://127.0.0.1:{self.port}/file"],
                                capture_output=True, text=True, check=True).stdout
        return (float(re.search(r"Requests/sec:\s+([\d.]+)", output).group(1)),
                int(re.search(r"(\d+) requests in", output).group(1)))


class Redis(Server):
    name, load_name = "redis", "redis-benchmark GET, 50 connections"

    def command(self):
        return ["redis-server", "--port", str(self.port), "--save", "", "--dir", self.directory]

    def load(self, requests=60000):
        output = subprocess.run(["redis-benchmark", "-p", str(self.port), "-t", "get", "-n",
                                 str(requests), "-c", "50", "-q"],
                                capture_output=True, text=True, check=True).stdout
        return float(re.findall(r"([\d.]+) requests per second", output)[-1]), requests

    def store(self):
        value = os.urandom(VALUE)
        with socket.create_connection(("127.0.0.1", self.port)) as client:
            client.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % VALUE + value + b"\r\n")
            assert client.recv(16) == b"+OK\r\n"

    def resident(self):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024

    def hogs(self, count, gets):
        """Clients that pipeline GETs of 1 MiB and never read."""
        clients = []
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", self.port))
            client.setblocking(False)
            clients.append([client, GET * gets])
        most, calm = self.resident(), 0
        while calm < 20:
            for entry in clients:
                try:
                    entry[1] = entry[1][entry[0].send(entry[1]):] if entry[1] else b""
                except BlockingIOError:
                    pass
            time.sleep(0.02)
            now = self.resident()
            calm = 0 if now > most + 1 else calm + 1
            most = max(most, now)
        return [entry[0] for entry in clients], most


def in_turns(first, second):
    """The median of second's result over first's, measured side by side, in changing order."""
    ratios = []
    for pair in range(PAIRS):
        if pair % 2:
            after, before = second(), first()
        else:
            before, after = first(), second()
        ratios.append(after / before)
    return statistics.median(ratios), min(ratios), max(ratios)


def throughput(kind):
    with kind(None) as bare, kind(GENEROUS) as shimmed:
        ratio = in_turns(lambda: bare.load()[0], lambda: shimmed.load()[0])
    print(f"{kind.name:6} under {GENEROUS}, {kind.load_name}: {ratio[0]:.3f} of bare"
          f"  (median of {PAIRS} pairs, {ratio[1]:.2f} to {ratio[2]:.2f})", flush=True)


def system_calls(kind):
    """System calls for each request, under strace -c."""
    counts = []
    for limits in (None, GENEROUS):
        with kind(limits) as server:
            server.load()
            tracer = subprocess.Popen(["strace", "-c", "-f", "-p", str(server.process.pid)],
                                      stderr=subprocess.PIPE, text=True)
            while not re.search(r"TracerPid:\s+[1-9]",
                                open(f"/proc/{server.process.pid}/status").read()):
                time.sleep(0.01)
            requests = server.load()[1]
            tracer.send_signal(signal.SIGINT)
            summary = tracer.communicate()[1].strip().splitlines()[-1]
            counts.append(int(summary.split()[3]) / requests)
    print(f"{kind.name:6} makes {counts[0]:.3f} system calls a request bare, {counts[1]:.3f} under "
          f"{GENEROUS}", flush=True)


def growth(limits, count, gets):
    with Redis(limits) as server:
        server.store()
        before = server.resident()
        return server.hogs(count, gets)[1] - before


def slow_readers():
    print("\nredis grows, for clients that pipeline GETs of 1 MiB and never read:")
    for count, gets, bare_gets in ((1, 3000, 800), (50, 300, 16)):
        bare = growth(None, count, bare_gets)
        held = growth("buffer=8M", count, gets)
        print(f"  {count:2} x {bare_gets:4} GETs bare: {bare:7.1f} MiB;   {count:2} x {gets:4} GETs, "
              f"buffer=8M: {held:5.1f} MiB (allowed: {8 * 1.2 + count:.1f})", flush=True)
    with Redis("buffer=8M") as server:
        server.store()

        def beside_hogs():
            clients, _ = server.hogs(50, 300)
            rate = server.load()[0]
            for client in clients:
                client.close()
            return rate

        ratio = in_turns(lambda: server.load()[0], beside_hogs)
    print(f"  other clients' GETs beside 50 of them keep {ratio[0]:.3f} of their rate"
          f"  ({ratio[1]:.2f} to {ratio[2]:.2f})", flush=True)


def main():
    for kind in (Nginx, Redis):
        throughput(kind)
    if shutil.which("strace"):
        for kind in (Nginx, Redis):
            system_calls(kind)
    slow_readers()


if __name__ == "__main__":
    main()
