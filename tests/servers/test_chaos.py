#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Real servers under real load, while everything around them fails: workers, masters and bpctl are killed,
processes stopped, limits changed 50 times a second, segments scribbled on, memory and descriptors run out.

    test_chaos.py [--seconds S] [NAME]...     S for each storm (default 4; by hand: 1800)
"""
import argparse
import contextlib
import functools
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import harness
from harness import free_port, needs_root, run_tests

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
BPCTL = BUILD + "/bpctl"
SHIM = BUILD + "/libbackpressure.so"
PYTHON = "/usr/bin/python3"
CEILING = 24
CLIENTS = 48
BODY = random.Random(1).randbytes(200_000)
SEGMENT_HEAD = 4096
seconds = 4.0
PATIENCE_S = 15
wait_until = functools.partial(harness.wait_until, patience=PATIENCE_S)

FORKING = """
import http.server, os, signal, socketserver, sys
class Server(socketserver.ForkingMixIn, http.server.HTTPServer):
    request_queue_size = 128
    max_children = 200
    def handle_error(self, *_): pass
class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_): pass
os.chdir(sys.argv[2])
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
NGINX = """daemon off; pid {directory}/pid; error_log {directory}/error; worker_processes 3;
events {{ worker_connections 512; }}
http {{ access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;
 fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
 server {{ listen 127.0.0.1:{port} backlog=256; root {directory}; }} }}
"""


def bpctl(*arguments, **more):
    return subprocess.run([BPCTL, *arguments], capture_output=True, text=True, timeout=60, check=False, **more)


def state_of(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()
    except OSError:
        return ["X", "0"]


def descendants(pid):
    everybody = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    parents = {entry: int(state_of(entry)[1]) for entry in everybody}
    found = [pid]
    for parent in found:
        found += [child for child, of in parents.items() if of == parent and child not in found]
    return [entry for entry in found if state_of(entry)[0] not in "XZ"]


def dump(port):
    text = subprocess.run(["ss", "-tneH", "state", "established", "state", "close-wait", f"sport = :{port}"],
                          capture_output=True, text=True, check=False).stdout
    return set(re.findall(r"\bino:[1-9]\d* sk:(\w+)", text))


def held_connections(port):
    """Connections that processes hold, as ss has them: those in the accept queue have no inode. A dump takes its
    time, in which one goes and another comes; those in two dumps were all there in between."""
    return len(dump(port) & dump(port))


class Service:
    """A server of the kind `kind` under limits, in a directory of its own."""

    def __init__(self, kind, limits, environment=None, preexec=None):
        self.kind, self.limits, self.preexec = kind, limits, preexec
        self.environment = {**os.environ, **(environment or {})}
        self.port = free_port()
        self.name = f"chaos-{os.getpid()}-{self.port}"
        self.directory = tempfile.mkdtemp(prefix="backpressure-chaos-")
        os.chmod(self.directory, 0o755)
        with open(self.directory + "/body", "wb") as file:
            file.write(BODY)
        self.process = None

    def command(self):
        if self.kind == "redis":
            return ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self.directory]
        if self.kind == "nginx":
            with open(self.directory + "/conf", "w", encoding="ascii") as file:
                file.write(NGINX.format(directory=self.directory, port=self.port))
            return ["nginx", "-p", self.directory, "-c", self.directory + "/conf"]
        with open(self.directory + "/server.py", "w", encoding="ascii") as file:
            file.write(FORKING)
        return [PYTHON, self.directory + "/server.py", str(self.port), self.directory]

    def start(self):
        with open(self.directory + "/log", "ab") as log:
            self.process = subprocess.Popen([BPCTL, "run", "--name", self.name, *self.limits, "--", *self.command()],
                                            stdout=log, stderr=log, env=self.environment, preexec_fn=self.preexec)
        wait_until(lambda: self.fetch() == "whole", f"{self.kind} on its port:\n{self.log()}")
        if self.kind == "redis":
            # Others may have the places: refused is refused.
            wait_until(lambda: subprocess.run(["redis-cli", "-p", str(self.port), "-x", "set", "body"], input=BODY,
                                              check=False, capture_output=True).stdout == b"OK\n", "a value in redis")

    def log(self):
        with open(self.directory + "/log", encoding="utf-8", errors="replace") as file:
            return file.read()[-3000:]

    def stop(self):
        for pid in descendants(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
        bpctl("ls", env=self.environment)

    def show(self):
        return json.loads(bpctl("show", self.name, "--json", env=self.environment).stdout)

    def fetch(self, patience=PATIENCE_S):
        """'whole', 'part' (a true beginning of it), 'refused', 'nothing', or 'WRONG'."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), patience) as client:
                if client.getsockname() == client.getpeername():
                    return "nothing"
                client.sendall(b"GET body\r\n" if self.kind == "redis" else b"GET /body HTTP/1.0\r\n\r\n")
                return self.judge(client)
        except (ConnectionError, socket.timeout, OSError):
            return "nothing"

    def judge(self, client):
        answer, redis = b"", self.kind == "redis"
        with contextlib.suppress(ConnectionError, socket.timeout):
            while (part := client.recv(1 << 20)):
                answer += part
                if redis and (answer.startswith(b"$-1") or len(answer) >= len(BODY) + 11):
                    break
        if not answer:
            return "nothing"
        if answer.startswith((b"HTTP/1.1 503", b"-")):
            return "refused"
        if redis and answer.startswith(b"$-1"):
            return "whole"  # before it was set
        start = answer.find(b"\r\n" if redis else b"\r\n\r\n")
        if start < 0:
            return "part"
        body = answer[start + (2 if redis else 4):]
        body = body[:len(BODY)] if redis else body
        if hashlib.sha256(body).digest() == hashlib.sha256(BODY).digest():
            return "whole"
        return "part" if BODY.startswith(body) else "WRONG"


class Background:
    """Does `work` again and again in threads until it is left; what they raise is raised then."""

    def __init__(self, work, threads=1):
        self.ends, self.work, self.errors = threading.Event(), work, []
        self.threads = [threading.Thread(target=self.loop) for _ in range(threads)]

    def loop(self):
        while not self.ends.is_set():
            try:
                self.work()
            except Exception as error:
                self.errors.append(error)
                return

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ends.set()
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive(), "a client hangs"
        if self.errors:
            raise self.errors[0]


def settles(service):
    """After the storm: nothing is counted that is not there, and every place can be had."""
    service.limits = [f"total-conns={CEILING}"]
    set_again = bpctl("set", service.name, f"total-conns={CEILING}", "conns=off", "peer-conns=off", "accept-rate=off",
                      "buffer=off", "queue=off", "queue-delay=off", "when-full=hold")
    assert set_again.returncode == 0, set_again
    bpctl("resume", service.name)
    wait_until(lambda: service.fetch() == "whole", "an answer after the storm")
    wait_until(lambda: service.show()["totals"]["conns"] == 0, f"0 connections after the storm: {service.show()}")
    request = b"PING\r\n" if service.kind == "redis" else b"GET /body HTTP/1.1\r\nHost: x\r\n\r\n"
    clients = []
    try:
        for _ in range(CEILING):
            clients.append(socket.create_connection(("127.0.0.1", service.port), PATIENCE_S))
            if service.kind != "forking":
                clients[-1].sendall(request)
        for client in clients if service.kind != "forking" else []:
            assert client.recv(16), "a place was lost"
        wait_until(lambda: service.show()["totals"]["conns"] == CEILING, f"all places taken: {service.show()['totals']}")
        assert held_connections(service.port) == CEILING
    finally:
        for client in clients:
            client.close()
    wait_until(lambda: service.show()["totals"]["conns"] == 0, "0 connections at the end")
    wait_until(lambda: held_connections(service.port) == 0, "0 connections of ss")


def storm(kind, kills_master):
    outcomes, over, kills = {}, [], [0]
    with Service(kind, [f"total-conns={CEILING}", "queue-delay=200ms"]) as service:
        choices = ["conns=9", "conns=off", "buffer=256K", "buffer=off", "queue=0",
                   "queue=16", "queue=off", "when-full=busy", "when-full=hold", "when-full=reset", "queue-delay=20ms",
                   "queue-delay=off", "accept-rate=500", "accept-rate=off", f"total-conns={CEILING - 8}",
                   f"total-conns={CEILING}", "conn-buffer=64K", "conn-buffer=off", "stall=1s", "stall=off", "conns=auto"]

        def client():
            outcome = service.fetch(5)
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            assert outcome != "WRONG", "bytes that nobody sent"
            time.sleep(random.random() * 0.02)

        def changer():
            process = subprocess.Popen([BPCTL, "set", service.name, random.choice(choices)], stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
            if random.random() < 0.2:
                time.sleep(random.random() * 0.004)
                process.kill()
            code = process.wait()
            assert code in (0, 1, -signal.SIGKILL), f"bpctl set ended with {code}"
            if random.random() < 0.05:
                bpctl("pause", service.name)
                bpctl("resume", service.name)
            time.sleep(0.02)

        def killer():
            time.sleep(0.05 + random.random() * 0.2)
            family = descendants(service.process.pid)
            victims = family[1:]
            if kills_master and random.random() < 0.1:
                service.stop()
                kills[0] += 1
                service.start()
                return
            if not victims:
                return
            victim = random.choice(victims)
            with contextlib.suppress(ProcessLookupError):
                if random.random() < 0.5:
                    os.kill(victim, signal.SIGKILL)
                    kills[0] += 1
                else:
                    os.kill(victim, signal.SIGSTOP)
                    time.sleep(random.random() * 0.3)
                    os.kill(victim, signal.SIGCONT)

        def sampler():
            held = held_connections(service.port)
            if held > CEILING:
                over.append(held)
            time.sleep(0.03)

        def reader():
            for command in (("ls",), ("show", service.name), ("events", service.name), ("depth", service.name),
                            ("metrics",)):
                code = bpctl(*command).returncode
                assert code in (0, 1), f"bpctl {command[0]} ended with {code}"

        with Background(client, CLIENTS), Background(changer), Background(sampler), Background(reader):
            with Background(killer):
                time.sleep(seconds)
        assert not over, f"more than {CEILING} inside: {over[:10]}"
        assert outcomes.get("whole", 0) > 10, outcomes
        for pid in descendants(service.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        settles(service)
    print(f"          {kind}: {outcomes}, {kills[0]} killed", flush=True)


def test_storm_over_nginx():
    storm("nginx", False)


def test_storm_over_a_server_that_forks():
    storm("forking", False)


def test_storm_over_redis_that_is_killed_and_comes_back():
    storm("redis", True)


def test_calls_of_the_shim_fail():
    """Each call that the shim makes fails once with ENOMEM: programs run on, and answer."""
    faults = BUILD + "/tests/faults.so"
    runs = failures = 0
    for style in ("level", "threads", "poll"):
        last, step = faults_run(faults, style, {}), None
        step = max(1, int(last / (seconds * 4)))
        for at in range(1 + random.randrange(step), last + 1, step):
            faults_run(faults, style, {"FAULT_AT": str(at)})
            runs += 1
        for every in (97, 31, 13):
            faults_run(faults, style, {"FAULT_EVERY": str(every)})
            failures += 1
    print(f"          {runs} runs with one failure, {failures} with many", flush=True)


def faults_run(faults, style, environment):
    """Returns how many calls there were."""
    port = free_port()
    name = f"faults-{os.getpid()}-{port}"
    with tempfile.TemporaryDirectory() as directory:
        count = directory + "/count"

        def what():
            with open(directory + "/log", encoding="utf-8", errors="replace") as said:
                return f"{style} {environment}: {said.read()[-500:]}"
        with open(directory + "/log", "wb") as log:
            server = subprocess.Popen(
                [BUILD + "/tests/echo", style, str(port)], stdout=log, stderr=log,
                env={**os.environ, **environment, "LD_PRELOAD": f"{SHIM}:{faults}", "FAULT_COUNT": count,
                     "BACKPRESSURE": f"name={name} total-conns=2 when-full=busy busy=text:no buffer=1M queue-delay=1s"})
        try:
            def echoes(size=3000):
                try:
                    with socket.create_connection(("127.0.0.1", port), 5) as client:
                        if client.getsockname() == client.getpeername():
                            return None
                        sent = os.urandom(size)
                        client.sendall(sent)
                        client.shutdown(socket.SHUT_WR)
                        got = b""
                        while (part := client.recv(65536)):
                            got += part
                        assert got in (sent, b"no") or sent.startswith(got), f"{what()}: other bytes than were sent"
                        return got == sent
                except OSError:
                    return None
            wait_until(lambda: server.poll() is not None or echoes(), lambda: f"{what()}: an answer")
            held = []
            for _ in range(4):
                with contextlib.suppress(OSError):
                    held.append(socket.create_connection(("127.0.0.1", port), 5))
            for client in held:
                client.close()
            wait_until(lambda: server.poll() is not None or echoes(100_000), lambda: f"{what()}: an answer after refusals")
            assert server.poll() is None, f"{what()}: ended with {server.returncode}"
            server.send_signal(signal.SIGUSR2)
            assert server.wait(10) == 0, what()
            with open(count, encoding="ascii") as file:
                return int(file.read())
        finally:
            server.kill()
            server.wait()
            bpctl("ls")


def test_no_room_for_segments():
    """Shared memory is full: a server that starts says so in one line, and serves; one that runs is unharmed."""
    needs_root()
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m,mode=1777", "tmpfs", directory], check=True)
        try:
            own = {"BACKPRESSURE_DIR": directory + "/segments"}
            with Service("nginx", ["total-conns=8"], own) as before:
                with open(directory + "/filler", "wb") as filler, contextlib.suppress(OSError):
                    while True:
                        filler.write(bytes(1 << 16))
                        filler.flush()
                with Service("nginx", ["total-conns=8"], own) as late:
                    assert late.fetch() == "whole"
                    said = [line for line in late.log().split("\n") if line.startswith("backpressure:")]
                    assert said, late.log()
                assert before.fetch() == "whole"
                assert before.show()["totals"]["accepted"] > 0
                assert bpctl("set", before.name, "total-conns=9", env=before.environment).returncode == 0
        finally:
            subprocess.run(["umount", "-l", directory], check=True)


def test_no_descriptors_left():
    """More clients than descriptors, under a ceiling above that: accept fails as it would bare, and nothing is lost."""
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    with Service("redis", [f"total-conns={CEILING + 200}"], {}, few) as service:
        clients = []
        for _ in range(60):
            with contextlib.suppress(OSError):
                clients.append(socket.create_connection(("127.0.0.1", service.port), 2))
        for client in clients:
            client.close()
        wait_until(lambda: service.fetch() == "whole", "an answer afterwards")
        wait_until(lambda: service.show()["totals"]["conns"] == 0, "0 connections afterwards")


def scribbling(kind):
    with Service(kind, [f"total-conns={CEILING}", "queue-delay=200ms", "buffer=1M"]) as service:
        path = f"{os.environ.get('BACKPRESSURE_DIR') or f'/dev/shm/backpressure.{os.geteuid()}'}/{service.name}"
        chance = random.Random(os.urandom(8))
        size = os.path.getsize(path)

        # Kept open: `bpctl ls` clears away what says of itself that nobody runs in it.
        file = open(path, "r+b", buffering=0)

        def scribbler():
            for _ in range(50):
                # Mostly where the counts, limits and tables begin.
                at = chance.choice((chance.randrange(40, SEGMENT_HEAD), chance.randrange(size)))
                file.seek(min(at, size - 8) // 4 * 4)
                file.write(chance.choice((b"\xff" * 8, bytes(8), chance.randbytes(8), b"\xff\xff\xff\x7f")))
            time.sleep(0.01)

        def client():
            assert service.fetch(0.5) != "WRONG", "bytes that nobody sent"

        def reader():
            for command in (("ls",), ("show", service.name), ("show", service.name, "--json"), ("metrics",),
                            ("events", service.name, "--json"), ("depth", service.name), ("check", str(service.process.pid)),
                            ("set", service.name, "peer-conns=9"), ("pause", service.name), ("resume", service.name)):
                code = bpctl(*command).returncode
                assert code in (0, 1), f"bpctl {command} ended with {code}"

        family = set(descendants(service.process.pid)[:1])
        with Background(client, 8), Background(reader), Background(scribbler):
            time.sleep(seconds)
        assert family <= set(descendants(service.process.pid)), f"{kind} died:\n{service.log()}"
        faults = re.findall(r".*(?:signal 11|signal 7|signal 6|SIGSEGV|AddressSanitizer).*", service.log())
        with contextlib.suppress(OSError), open(service.directory + "/error", encoding="utf-8") as errors:
            faults += re.findall(r".*exited on signal (?!9).*", errors.read())
        assert not faults, faults[:3]
        # Without its magic number the segment is given up, and the program runs on without limits.
        with file:
            file.seek(0)
            file.write(bytes(8))
            wait_until(lambda: service.fetch(2) == "whole", f"an answer without the segment:\n{service.log()}", patience=40)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def test_scribbled_segment_under_nginx():
    scribbling("nginx")


def test_scribbled_segment_under_redis():
    scribbling("redis")


def test_scribbled_segment_under_a_server_that_forks():
    scribbling("forking")


def main():
    global seconds
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=seconds)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    seconds = options.seconds
    return run_tests(globals(), options.names)


if __name__ == "__main__":
    sys.exit(main())
