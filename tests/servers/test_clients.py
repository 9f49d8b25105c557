#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Unmodified clients under the shim: they try again, later and not together; they are told the truth when
there is no hope; and there are never more of them than the operator said.

    test_clients.py [NAME]...      (parts of the tests' names)
"""
import errno
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

from harness import free_port, run_tests

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
RUNTIME = os.environ.get("SANITIZER_RUNTIME", "")
PYTHON = "/usr/bin/python3"


class Service:
    """A name that clients run under, with what bpctl tells of it."""

    count = 0

    def __init__(self, limits):
        Service.count += 1
        self.name = f"clients-{os.getpid()}-{Service.count}"
        self.environment = dict(os.environ, BACKPRESSURE=f"name={self.name} {limits}",
                                LD_PRELOAD=f"{RUNTIME}:{BUILD}/libbackpressure.so".lstrip(":"))

    def start(self, *command, **options):
        return subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True, **options)

    def run(self, *command):
        """Its output and exit code; 60 s at most."""
        process = self.start(*command)
        return process.communicate(timeout=60)[0], process.returncode

    def python(self, program):
        said, code = self.run(PYTHON, "-c", PREAMBLE + program)
        assert code == 0, said
        return json.loads(said.strip().splitlines()[-1])

    def show(self):
        return json.loads(subprocess.run([BUILD + "/bpctl", "show", self.name, "--json"], check=True,
                                         capture_output=True).stdout)


PREAMBLE = """
import errno, json, os, signal, socket, struct, sys, threading, time
def connect(address, family=socket.AF_INET, setup=None):
    s = socket.socket(family)
    if setup: setup(s)
    began = time.monotonic()
    try:
        s.connect(address)
        code = 0
    except OSError as e:
        code = e.errno
    took = time.monotonic() - began
    return s, code, took
"""


class Server:
    """Answers `hello` to everyone, from `after` seconds on, until the end of a `with`."""

    def __init__(self, address, after=0.0, family=socket.AF_INET, keep=False):
        self.address, self.family, self.after, self.keep = address, family, after, keep
        self.stop, self.arrivals, self.held = threading.Event(), [], []
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self.serve)

    def __enter__(self):
        self.thread.start()
        if not self.after:
            self.ready.wait(10)
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()

    def serve(self):
        if self.stop.wait(self.after):
            return
        listener = socket.socket(self.family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.family == socket.AF_UNIX and os.path.exists(self.address):
            os.unlink(self.address)
        listener.bind(self.address)
        listener.listen(1000)
        listener.settimeout(0.02)
        self.ready.set()
        while not self.stop.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                continue
            self.arrivals.append(time.monotonic())
            try:
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            except OSError:
                pass
            if self.keep:
                self.held.append(connection)
                continue
            connection.settimeout(1)
            try:
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass
            except OSError:
                pass
            connection.close()
        listener.close()


def blocking_clients_wait_for_a_server_that_comes_up():
    port = free_port()
    clients = [(PYTHON, "-c", f"import socket; print(socket.create_connection(('127.0.0.1', {port})).recv(99))"),
               (PYTHON, "-c", f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}/').read())"),
               ("perl", "-MIO::Socket::INET", "-e",
                f"print IO::Socket::INET->new('127.0.0.1:{port}')->getline"),
               ("bash", "-c", f"read line < /dev/tcp/127.0.0.1/{port}; echo $line")]
    if shutil.which("wget"):
        clients.append(("wget", "-q", "-O", "-", "--tries=1", f"http://127.0.0.1:{port}/"))
    services = [Service("connect-retries=30 backoff=50ms..300ms") for _ in clients]
    with Server(("127.0.0.1", port), after=1.5):
        running = [service.start(*client) for service, client in zip(services, clients)]
        for client, process in zip(clients, running):
            said = process.communicate(timeout=60)[0]
            assert process.returncode == 0 and ("hello" in said or "200" in said), (client, said)
    for service in services:
        totals = service_totals(service)
        assert totals["connects"] >= 1 and totals["connect_retries"] >= 1, totals


def service_totals(service):
    return service.show()["totals"]


def waits_are_drawn_uniformly():
    """Full jitter: 200 clients, each to an address of its own, wait once, from 0 to 2 s: long beside any lateness."""
    service = Service("connect-retries=1 backoff=2s..2s retry-budget=off")
    waits = service.python(f"""
waits = []
def one(i):
    waits.append(connect(("127.0.1.%d" % (i + 1), {free_port()}))[2])
threads = [threading.Thread(target=one, args=(i,)) for i in range(200)]
[t.start() for t in threads]; [t.join() for t in threads]
print(json.dumps(waits))""")
    assert len(waits) == 200
    quarters = [sum(q * 0.5 <= wait < (q + 1) * 0.5 for wait in waits) for q in range(4)]
    # 50 each; four standard deviations are 24. A late thread moves a few up, one beyond the last.
    assert all(26 <= count <= 74 for count in quarters), quarters


def waits_double_up_to_the_cap():
    """A busy machine can only make a wait longer: all are as long as they should be, and the shortest is capped."""
    service = Service("connect-retries=4 backoff=40ms..150ms jitter=none retry-budget=off")
    outcomes = service.python(f"""
print(json.dumps([connect(("127.0.1.%d" % (i + 1), {free_port()}))[1:] for i in range(8)]))""")
    assert {code for code, _ in outcomes} == {errno.ECONNREFUSED}, outcomes
    shortest = min(took for _, took in outcomes)
    assert 0.040 + 0.080 + 0.150 + 0.150 <= shortest < 0.040 + 0.080 + 0.160 + 0.320, outcomes
    assert service_totals(service)["connect_retries"] == 8 * 4


def off_means_no_waits_and_nobody_left_alone():
    """Drawn waits of four retries come to 750 ms; that eight in a row are all near 0 does not happen."""
    service = Service("connect-retries=4 backoff=off retry-budget=off")
    outcomes = service.python(f"""
def nonblocking(s): s.setblocking(False)
blocking = [connect(("127.0.1.%d" % (i + 1), {free_port()}))[1:] for i in range(8)]
print(json.dumps([blocking, [connect(("127.0.1.1", {free_port()}), setup=nonblocking)[1] for i in range(3)]]))""")
    assert {code for code, _ in outcomes[0]} == {errno.ECONNREFUSED}, outcomes
    assert min(took for _, took in outcomes[0]) < 0.1, outcomes
    assert set(outcomes[1]) == {errno.EINPROGRESS}, outcomes  # the kernel was asked, and not what was learnt before
    assert service_totals(service)["connect_retries"] == 8 * 4
    assert service.show()["destinations"] == []


def equal_jitter_keeps_half():
    service = Service("connect-retries=1 backoff=100ms..100ms jitter=equal retry-budget=off")
    waits = service.python(f"""
print(json.dumps([connect(("127.0.1.%d" % (i + 1), {free_port()}))[2] for i in range(12)]))""")
    assert min(waits) >= 0.05, waits


def the_budget_bounds_retries_and_tells_the_truth():
    """A server that is gone for good: 60 connects have 10 + 60 * 0.1 retries, and ECONNREFUSED."""
    service = Service("connect-retries=5 backoff=1ms..2ms")
    codes = service.python(f"""
print(json.dumps([connect(("127.0.0.1", {free_port()}))[1] for i in range(60)]))""")
    assert codes == [errno.ECONNREFUSED] * 60, codes
    totals = service_totals(service)
    assert totals["connects"] == 60 and 10 <= totals["connect_retries"] <= 16, totals


def non_blocking_clients_fail_at_once_while_the_window_is_open():
    port = free_port()
    service = Service("connect-retries=5 backoff=10s..10s jitter=none")
    codes, took, after = service.python(f"""
import select
def nonblocking(s): s.setblocking(False)
def outcome():
    s, code, took = connect(("127.0.0.1", {port}), setup=nonblocking)
    if code == errno.EINPROGRESS:
        select.select([], [s], [], 5)
        code = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    s.close()
    return code, took
first = outcome()
rest = [outcome() for i in range(5)]
print(json.dumps([[first[0]] + [r[0] for r in rest], max(r[1] for r in rest), len(os.listdir("/proc/self/fd"))]))
""")
    assert codes == [errno.ECONNREFUSED] * 6, codes
    assert took < 5 and after < 8, (took, after)  # far from the window's 10 s
    destinations = service.show()["destinations"]
    assert destinations[0]["address"] == f"127.0.0.1:{port}" and destinations[0]["window_ms"] > 0, destinations
    said = subprocess.run([BUILD + "/bpctl", "show", service.name], capture_output=True, text=True, check=True).stdout
    assert "destinations in backoff" in said and "Connection refused" in said, said


def real_non_blocking_clients_say_what_they_say_bare():
    port = free_port()
    clients = [("curl", "-sS", "-m", "5", f"http://127.0.0.1:{port}/"),
               ("redis-cli", "-h", "127.0.0.1", "-p", str(port), "ping"),
               ("psql", f"host=127.0.0.1 port={port} user=u dbname=d", "-c", "select 1"),
               (PYTHON, "-c", "import asyncio\ntry: asyncio.run(asyncio.wait_for(asyncio.open_connection("
                f"'127.0.0.1', {port}), 5))\nexcept OSError as e: print(e.errno); exit(3)"),
               ("node", "-e", f"require('net').connect({port}, '127.0.0.1').on('error', e => "
                "{ console.log(e.code); process.exit(3); })")]
    for client in clients:
        if not shutil.which(client[0]):
            continue
        bare = subprocess.run(client, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30)
        service = Service("connect-retries=3 backoff=30s..30s jitter=none")
        for _ in range(2):  # the second one meets an open window
            said, code = service.run(*client)
            assert code == bare.returncode, (client, code, bare.returncode, said)
            assert timeless(said) == timeless(bare.stdout), (said, bare.stdout)


def timeless(said):
    """Without what curl tells of how long it took."""
    return [word for word in said.split() if not word.isdigit()]


def clients_that_come_when_it_is_up_again_are_served():
    port = free_port()
    service = Service("connect-retries=5 backoff=300ms..300ms jitter=none")
    with Server(("127.0.0.1", port), after=0.8):
        said, code = service.run("curl", "-sS", "-m", "5", f"http://127.0.0.1:{port}/")
        assert code == 7, said
        deadline = time.monotonic() + 20
        while code != 0 and time.monotonic() < deadline:
            said, code = service.run("curl", "-sS", "-m", "5", f"http://127.0.0.1:{port}/")
        assert code == 0 and "hello" in said, said
        said, code = service.run("curl", "-sS", "-m", "5", f"http://127.0.0.1:{port}/")
        assert code == 0 and "hello" in said, said
    assert service.show()["destinations"] == []


def connect_conns_is_never_exceeded():
    port = free_port()
    service = Service("connect-conns=3")
    with Server(("127.0.0.1", port), keep=True):
        result = service.python(f"""
import ctypes
open_now, most, lock, done = 0, 0, threading.Lock(), []
def one(i):
    global open_now, most
    s, code, took = connect(("127.0.0.1", {port}))
    with lock:
        open_now += 1; most = max(most, open_now)
    time.sleep(0.02)
    with lock: open_now -= 1
    if i % 3 == 0: s.close()
    elif i % 3 == 1: ctypes.CDLL(None).syscall(3, s.detach())  # close, as libuv does
    else: d = s.dup(); s.close(); d.close()
    done.append(code)
threads = [threading.Thread(target=one, args=(i,)) for i in range(30)]
[t.start() for t in threads]; [t.join() for t in threads]
held = [connect(("127.0.0.1", {port}))[0] for i in range(3)]
code = connect(("127.0.0.1", {port}), setup=lambda s: s.setblocking(False))[1]
print(json.dumps([most, done, code]))""")
    assert result[0] <= 3 and result[1] == [0] * 30, result
    assert result[2] == errno.EADDRNOTAVAIL, result


def a_signal_or_a_timeout_ends_the_wait():
    service = Service("connect-retries=100 backoff=20s..20s jitter=none")
    interrupted, timed_out = service.python(f"""
class Alarm(Exception): pass
def ring(*_): raise Alarm
signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.3)
began = time.monotonic()
try: connect(("127.0.0.1", {free_port()})); first = -1
except Alarm: first = time.monotonic() - began
limit = struct.pack("ll", 0, 300000)
second = connect(("127.0.0.1", {free_port()}),
                 setup=lambda s: s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit))
print(json.dumps([first, second[1:]]))""")
    assert 0.2 < interrupted < 10, interrupted
    assert timed_out[0] == errno.ECONNREFUSED and 0.2 < timed_out[1] < 10, timed_out


def unix_sockets_are_tried_again():
    directory = tempfile.mkdtemp(prefix="backpressure-clients-")
    path = directory + "/socket"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)  # and nobody listens: ECONNREFUSED
    service = Service("connect-retries=30 backoff=50ms..200ms")
    with Server(path, after=1, family=socket.AF_UNIX):
        code, took = service.python(f"print(json.dumps(connect({path!r}, socket.AF_UNIX)[1:]))")
    shutil.rmtree(directory)
    assert code == 0 and took > 0.5, (code, took)


PERSISTENT = PREAMBLE + """
served, attempts, lock = 0, 0, threading.Lock()
def client():
    global served, attempts
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with lock: attempts += 1
        s, code, took = connect(("127.0.0.1", int(sys.argv[1])))
        try:
            if code == 0:
                s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
                got = b""
                while True:
                    part = s.recv(4096)
                    if not part: break
                    got += part
                if b"hello" in got:
                    with lock: served += 1
                    return
        except OSError: pass
        finally: s.close()
threading.stack_size(262144)
began = time.monotonic()
threads = [threading.Thread(target=client) for i in range(int(sys.argv[2]))]
[t.start() for t in threads]; [t.join() for t in threads]
print(json.dumps([served, attempts, time.monotonic() - began]))
"""


def persistent_clients(port, count, environment):
    """`count` clients that ask until they are served, a minute at most: served, attempts, seconds."""
    done = subprocess.run([PYTHON, "-c", PERSISTENT, str(port), str(count)], env=environment, capture_output=True,
                          text=True, check=True)
    return json.loads(done.stdout)


def connections_to_a_server_that_resets_back_off():
    """Clients of a full server under when-full=reset: all get through in the end."""
    port = free_port()
    script = f"""
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import time
class H(BaseHTTPRequestHandler):
    def do_GET(self): time.sleep(0.05); self.send_response(200); self.end_headers(); self.wfile.write(b'hello')
    def log_message(self, *_): pass
class S(ThreadingHTTPServer): request_queue_size = 500
S(("127.0.0.1", {port}), H).serve_forever()"""
    server = subprocess.Popen([BUILD + "/bpctl", "run", "--name", f"resets-{os.getpid()}", "total-conns=5",
                               "when-full=reset", "--", PYTHON, "-c", script])
    try:
        wait_for(port)
        service = Service("connect-retries=10 backoff=20ms..500ms")
        served, attempts, _ = persistent_clients(port, 60, service.environment)
        bare_served, bare_attempts, _ = persistent_clients(port, 60, None)
        print(f"# 60 clients, 5 at a time: {attempts / 60:.1f} attempts each, {served} served; "
              f"bare {bare_attempts / 60:.1f} and {bare_served}")
        assert served == 60, (served, attempts)
    finally:
        server.terminate()
        server.wait()


def wait_for(port):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port)) as probe:
                if probe.getsockname() != probe.getpeername():  # else nobody listens, and it found itself
                    return
        except OSError:
            time.sleep(0.02)
    raise AssertionError("the server did not come up")


def bad_limits_are_refused():
    for limit in ("backoff=5", "backoff=2s..1s", "backoff=1ms..", "jitter=some", "retry-budget=x",
                  "connect-retries=-1", "connect-conns=x"):
        said = subprocess.run([BUILD + "/bpctl", "run", "--name", "bad", limit, "--", "true"], capture_output=True,
                              text=True, check=False)
        assert said.returncode == 2 and len(said.stderr.splitlines()) == 1 and "allowed" in said.stderr, said


TESTS = [blocking_clients_wait_for_a_server_that_comes_up, waits_are_drawn_uniformly, waits_double_up_to_the_cap,
         off_means_no_waits_and_nobody_left_alone,
         equal_jitter_keeps_half, the_budget_bounds_retries_and_tells_the_truth,
         non_blocking_clients_fail_at_once_while_the_window_is_open, real_non_blocking_clients_say_what_they_say_bare,
         clients_that_come_when_it_is_up_again_are_served, connect_conns_is_never_exceeded,
         a_signal_or_a_timeout_ends_the_wait, unix_sockets_are_tried_again,
         connections_to_a_server_that_resets_back_off, bad_limits_are_refused]


def main():
    code = run_tests({f"test_{test.__name__}": test for test in TESTS}, sys.argv[1:])
    subprocess.run([BUILD + "/bpctl", "ls"], check=False, capture_output=True)  # clears what ended
    return code


if __name__ == "__main__":
    sys.exit(main())
