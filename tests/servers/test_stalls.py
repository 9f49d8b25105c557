#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""`stall` on real servers: a client that takes nothing is reset, however its answers are written, and nobody else is:
not one that reads slowly, not one that is idle.

    test_stalls.py [NAME]...      (parts of the tests' names)
"""
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from harness import Skipped, ends_with_all_it_started, free_port, run_here, wait_until

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
RUNTIME = os.environ.get("SANITIZER_RUNTIME", "")
BPCTL = BUILD + "/bpctl"
PYTHON = "/usr/bin/python3"
STALL = 1
PATIENCE = 60
SMALL_RECEIVE = 8192
OBJECT = 16 << 20
AT_ONCE = 4

# --- servers: each is told a directory and where to listen, and returns its command ---


def redis(directory, port):
    return ["redis-server", "--port", str(port), "--save", "", "--dir", directory,
            "--unixsocket", directory + "/socket", "--unixsocketperm", "777"]


def memcached(_directory, port):
    user = ["-u", "root"] if os.geteuid() == 0 else []
    return ["memcached", "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-I", "4m", *user]


def nginx(directory, port):
    with open(directory + "/conf", "w", encoding="ascii") as file:
        file.write(f"worker_processes 2; daemon off; user root; pid {directory}/pid; error_log {directory}/error;\n"
                   f"events {{ }} http {{ access_log off; send_timeout 600s; client_body_temp_path {directory}/b;\n"
                   f"proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u;\n"
                   f"scgi_temp_path {directory}/s; sendfile on;\n"
                   f"server {{ listen 127.0.0.1:{port}; root {directory}; }} }}\n")
    with open(directory + "/big", "wb") as file:
        file.truncate(OBJECT)
    return ["nginx", "-e", "stderr", "-c", directory + "/conf"]


def node(_directory, port):
    return ["node", "-e", f"const big = Buffer.alloc({OBJECT});\n"
            "require('http').createServer((q, r) => q.url == '/big' ? r.end(big) : r.end('ok')).listen("
            f"{port}, '127.0.0.1');"]


WRITERS = {
    # A thread a client, which stays in send.
    "threads": "threading.Thread(target=lambda c=c: (c.recv(99), c.sendall(big)), daemon=True).start()",
    # The same, by a system call that no library sees.
    "raw": "threading.Thread(target=lambda c=c: (c.recv(99), libc.syscall(1, c.fileno(), big, len(big))),"
           " daemon=True).start()",
    # A process a client, which writes by stdio; its parent waits for nothing but clients.
    "stdio": "run(c, ['/usr/bin/seq', '1', '9999999'])",
}


def python(kind):
    program = f"""
import ctypes, os, socket, sys, threading
libc, big = ctypes.CDLL(None), bytes({OBJECT})
signal = __import__('signal'); signal.signal(signal.SIGCHLD, signal.SIG_IGN)
def run(client, command):
    if os.fork() == 0:
        os.dup2(client.fileno(), 1)
        client.close()
        os.execv(command[0], command)
    client.close()
kept = []
s = socket.create_server(('127.0.0.1', int(sys.argv[1])))
while True:
    c, _ = s.accept()
    {'' if kind == 'stdio' else 'kept.append(c)'}
    {WRITERS[kind]}
"""
    return lambda _directory, port: [PYTHON, "-c", program, str(port)]


# --- clients ---


def over_tcp(service):
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_RECEIVE)
    client.connect(("127.0.0.1", service.port))
    return client


def over_unix(service):
    client = socket.socket(socket.AF_UNIX)
    client.connect(service.directory + "/socket")
    return client


def store_in_redis(service, size):
    with over_tcp(service) as client:
        client.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % size + bytes(size) + b"\r\n")
        assert client.recv(16) == b"+OK\r\n"


def store_in_memcached(service, size):
    with over_tcp(service) as client:
        client.sendall(b"set k 0 0 %d\r\n" % size + bytes(size) + b"\r\n")
        assert client.recv(16) == b"STORED\r\n"


REDIS_GET = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"
HTTP_GET = b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Reader(threading.Thread):
    """A client that asks for much, and reads a little all the time: slow is not stalled."""

    def __init__(self, client, request):
        super().__init__(daemon=True)
        self.client, self.request, self.got, self.ended, self.stopped = client, request, 0, None, False
        client.setblocking(False)

    def run(self):
        while not self.stopped:
            try:
                self.request = self.request[self.client.send(self.request):] if self.request else b""
            except BlockingIOError:
                pass
            except OSError as error:
                self.ended = error
                return
            try:
                some = self.client.recv(3000)
                if not some:
                    self.ended = EOFError("closed")
                    return
                self.got += len(some)
            except BlockingIOError:
                pass
            except OSError as error:
                self.ended = error
                return
            time.sleep(0.02)


class Service:
    def __init__(self, command, limits):
        self.port = free_port()
        self.name = f"stalls-{os.getpid()}-{self.port}"
        self.directory = tempfile.mkdtemp(prefix="backpressure-stalls-")
        os.chmod(self.directory, 0o755)
        command = command(self.directory, self.port)
        if not shutil.which(command[0]):
            raise Skipped(f"{command[0]} is not installed")
        environment = dict(os.environ, BACKPRESSURE=f"name={self.name} {limits}",
                           LD_PRELOAD=f"{RUNTIME}:{BUILD}/libbackpressure.so".lstrip(":"))
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            wait_until(self.answers, f"{command[0]} on its port", PATIENCE)
        except AssertionError:
            self.__exit__()
            raise

    def answers(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.killpg(self.process.pid, 9)
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)
        subprocess.run([BPCTL, "ls"], check=False, capture_output=True)  # clears what ended

    def bpctl(self, *arguments):
        return subprocess.run([BPCTL, *arguments], check=True, capture_output=True, text=True).stdout

    def total(self, name):
        return json.loads(self.bpctl("show", self.name, "--json"))["totals"][name]


def resets_who_takes_nothing(service, request, connect=over_tcp, counted=True):
    """`counted`: the shim resets it; else the kernel does, behind the back of a thread that nobody sees wait."""
    quiet = [connect(service) for _ in range(2 if counted else 0)]
    slow = Reader(connect(service), request)
    slow.start()
    started = time.monotonic()
    stuck = connect(service)
    stuck.setblocking(False)
    left = request

    def is_over():
        nonlocal left
        try:
            left = left[stuck.send(left):] if left else b""
        except BlockingIOError:
            pass
        except OSError:
            left = b""
        time.sleep(0.1)  # bpctl is not cheap
        return service.total("stalls_reset") if counted else time.monotonic() > started + 1 and service.total("conns") == 1

    wait_until(is_over, lambda: f"the reset of who takes nothing ({service.bpctl('show', service.name)})", PATIENCE)
    assert time.monotonic() - started >= STALL, "it had not stood for so long"
    stuck.setblocking(True)
    stuck.settimeout(PATIENCE)
    error = 0
    try:
        while stuck.recv(1 << 16):
            pass
    except ConnectionResetError as reset:
        error = reset.errno
    assert error == (errno.ECONNRESET if stuck.family == socket.AF_INET else 0), error
    # Everybody else stays, for longer than it took that one.
    got = slow.got
    until = time.monotonic() + (2 if counted else 4) * STALL
    wait_until(lambda: time.monotonic() > until and slow.got > got, "what the slow one reads", PATIENCE)
    assert slow.ended is None, f"the slow one: {slow.ended!r}"
    slow.stopped = True
    slow.join()
    for client in quiet:
        client.setblocking(False)
        try:
            said = client.recv(1)
        except BlockingIOError:
            said = None
        assert said is None, "an idle client was told something"
    assert service.total("stalls_reset") == counted
    assert ("stall_reset" in service.bpctl("events", service.name, "--json")) == counted


def check(command, limits, request, store=None, **options):
    with Service(command, f"{limits} stall={STALL}s") as service:
        if store:
            store(service)
        resets_who_takes_nothing(service, request, **options)


CHECKS = {
    "redis, small values": lambda: check(redis, "", REDIS_GET * 60000, lambda it: store_in_redis(it, 100)),
    "redis, small values, under a ceiling":
        lambda: check(redis, "buffer=8M", REDIS_GET * 60000, lambda it: store_in_redis(it, 100)),
    "redis, large values": lambda: check(redis, "", REDIS_GET * 50, lambda it: store_in_redis(it, 1 << 20)),
    "redis, large values, under a ceiling":
        lambda: check(redis, "buffer=8M", REDIS_GET * 50, lambda it: store_in_redis(it, 1 << 20)),
    "redis, over a unix socket":
        lambda: check(redis, "", REDIS_GET * 50, lambda it: store_in_redis(it, 1 << 20), connect=over_unix),
    "memcached": lambda: check(memcached, "", b"get k\r\n" * 50, lambda it: store_in_memcached(it, 1 << 20)),
    "nginx": lambda: check(nginx, "", HTTP_GET),
    "nginx, under a ceiling": lambda: check(nginx, "total-buffer=2M", HTTP_GET),
    "node": lambda: check(node, "", HTTP_GET),
    "blocking writers": lambda: check(python("threads"), "", b"x"),
    "blocking writers, by system calls": lambda: check(python("raw"), "", b"x"),
    "blocking writers, by stdio": lambda: check(python("stdio"), "", b"x", counted=False),
}


def switches(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("voluntary"))


def who_has_nothing_to_send_sleeps():
    """An idle server is not woken for looks, though it was a moment ago."""
    with Service(lambda _, port: [BUILD + "/tests/echo", "level", str(port)], "stall=200ms") as service:
        with over_tcp(service) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            seen = [switches(service.process.pid), time.monotonic()]

            def sleeps():
                now = switches(service.process.pid)
                if now != seen[0]:
                    seen[:] = now, time.monotonic()
                return time.monotonic() - seen[1] > 1

            wait_until(sleeps, "a second of sleep", PATIENCE)


CHECKS["who has nothing to send sleeps"] = who_has_nothing_to_send_sleeps


def run_some_at_once(names):
    """They wait most of the time."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        wanted = [name for name in CHECKS if not names or any(part in name for part in names)]
        ends = {name: pool.submit(CHECKS[name]) for name in wanted}
        return run_here({f"test_{name}": end.result for name, end in ends.items()}, [])


if __name__ == "__main__":
    # The threads belong to the child in which tests are run: a fork does not take them along.
    sys.exit(ends_with_all_it_started(lambda: run_some_at_once(sys.argv[1:])))
