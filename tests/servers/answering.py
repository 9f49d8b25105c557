# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""A server of answerer.c under limits, and clients that keep their connections to it."""
import contextlib
import json
import mmap
import os
import re
import select
import socket
import struct
import subprocess
import tempfile
import time

import harness

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
BUILD = os.path.abspath(os.environ.get("BUILD", ROOT + "/build"))
BPCTL = BUILD + "/bpctl"
ANSWERER = os.environ.get("ANSWERER", BUILD + "/tests/answerer")
RUNTIME = os.environ.get("SANITIZER_RUNTIME", "")
PATIENCE = int(os.environ.get("PATIENCE", 60))


def bpctl(*words):
    return subprocess.run([BPCTL, *words], capture_output=True, text=True, timeout=PATIENCE, check=False)


def hash_of(body):
    """FNV-1a, as the server has it."""
    value = 0xcbf29ce484222325
    for byte in body:
        value = (value ^ byte) * 0x100000001b3 & 0xffffffffffffffff
    return f"{value:x}"


def request(work_ms=0, tag="-", action="", body=None, chunked=False, fields="", path="", until=0):
    """One of the client's. `action` is NAME=ARGUMENT; `until`: answered when the test releases so many."""
    target = (f"/until/{until}/{tag}" if until else f"{path}/{int(work_ms * 1000)}/{tag}") + (f"?{action}" if action else "")
    method = "GET" if body is None else "POST"
    if chunked:
        pieces = [body[at:at + 1000] for at in range(0, len(body), 1000)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        fields += "Transfer-Encoding: chunked\r\n"
    elif body is not None:
        fields += f"Content-Length: {len(body)}\r\n"
    return f"{method} {target} HTTP/1.1\r\nHost: here\r\n{fields}\r\n".encode() + (body or b"")


SHARED = "released inside peak began interrupted timed_out cancelled handled children".split()  # struct shared


class Answer:
    def __init__(self, status, head, body, at):
        self.status, self.head, self.body, self.at = status, head, body, at
        words = body.decode("latin-1").split() if status == 200 else []
        for name, value in zip(words[::2], words[1::2]):
            setattr(self, name, int(value) if value.isdigit() and name not in ("tag", "hash") else value)

    def __repr__(self):
        return f"<{self.status} {self.body!r}>"


class Client:
    """A connection that stays. What it is told is in `answers`; `ended` is how it ended, if it did."""

    def __init__(self, server):
        family = socket.AF_UNIX if server.unix else socket.AF_INET
        self.socket = socket.socket(family)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(server.address)
        if not server.unix:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.input, self.answers, self.ended, self.interim = b"", [], None, 0
        server.clients.append(self)

    def send(self, data):
        self.socket.sendall(data)

    def ask(self, *words, **more):
        self.send(request(*words, **more))

    def read(self):
        try:
            data = self.socket.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionResetError:
            self.ended = "reset"
            return
        if not data:
            self.ended = "end"
        self.input += data
        while self.take():
            pass

    def take(self):
        head, middle, rest = self.input.partition(b"\r\n\r\n")
        if not middle:
            return False
        status = int(head.split()[1])
        if status < 200:
            self.input = rest
            self.interim += 1
            return True
        length = int(re.search(rb"(?i)content-length: *(\d+)", head).group(1))
        if len(rest) < length:
            return False
        self.answers.append(Answer(status, head, rest[:length], time.monotonic()))
        self.input = rest[length:]
        return True

    def statuses(self):
        return [answer.status for answer in self.answers]

    def close(self):
        self.socket.close()
        self.ended = self.ended or "closed"

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()


class Answerer:
    """Started under limits by bpctl; None: bare."""

    def __init__(self, style, *limits, bare=False, words=()):
        self.style, self.limits, self.bare = style.split() + list(words), limits, bare
        self.unix = "family=unix" in self.style
        self.name = f"requests-{os.getpid()}-{os.urandom(3).hex()}"
        self.clients = []
        self.gate = tempfile.NamedTemporaryFile(prefix="backpressure-answerer-")

    def __enter__(self):
        self.port = harness.free_port()
        self.address = f"\0answerer-{self.port}" if self.unix else ("127.0.0.1", self.port)
        self.process = subprocess.Popen([*self.shim(), ANSWERER, str(self.port), *self.style, f"gate={self.gate.name}"],
                                        start_new_session=True)
        harness.wait_until(self.up, "the server", PATIENCE)
        self.shared = mmap.mmap(self.gate.fileno(), 4 * len(SHARED))
        return self

    def shim(self):
        return [] if self.bare else [BPCTL, "run", "--name", self.name, *self.limits, "--"]

    def up(self):
        assert self.process.poll() is None, f"{self.style} ended: {self.process.returncode}"
        try:
            with contextlib.closing(Client(self)) as client:
                self.clients.clear()
                client.close()
                return True
        except ConnectionRefusedError:
            return False
        except OSError:
            return False

    def __exit__(self, *_):
        for client in self.clients:
            client.close()
        for pid in [*harness.descendants(self.process.pid), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        self.process.wait()
        self.gate.close()
        bpctl("ls")

    def workers(self):
        return harness.descendants(self.process.pid)

    def set(self, *limits):
        done = bpctl("set", self.name, *limits)
        assert done.returncode == 0, done

    def show(self):
        shown = bpctl("show", self.name, "--json")
        assert shown.returncode == 0, shown
        return json.loads(shown.stdout)["requests"]

    def comes_to(self, **figures):
        """Waits until `show` has these of requests."""
        harness.wait_until(lambda: figures.items() <= self.show().items(),
                           lambda: f"{figures} in {self.show()}", PATIENCE)

    def crowd(self, count):
        return [Client(self) for _ in range(count)]

    def pump(self, done, what, patience=PATIENCE):
        """Reads what clients are told until `done` says so."""
        deadline = time.monotonic() + patience
        poll = select.poll()
        known = {}
        while not done():
            assert time.monotonic() < deadline, f"{what() if callable(what) else what}: not within {patience} s"
            for client in self.clients:
                if not client.ended and client.socket.fileno() not in known:
                    known[client.socket.fileno()] = client
                    poll.register(client.socket, select.POLLIN)
            for number, _ in poll.poll(20):
                client = known[number]
                if not client.ended:
                    client.read()
                if client.ended:
                    poll.unregister(number)
                    del known[number]
            for number, client in list(known.items()):
                if client.ended:
                    poll.unregister(number)
                    del known[number]

    def answered(self, clients, count=1, patience=PATIENCE):
        """Waits until each has so many answers in all."""
        self.pump(lambda: all(len(client.answers) >= count for client in clients),
                  lambda: f"answers {[len(client.answers) for client in clients]} of {count}, {self.show() if not self.bare else ''}", patience)

    def counted(self, what):
        """By the program itself."""
        return struct.unpack_from("i", self.shared, 4 * SHARED.index(what))[0]

    def write(self, what, number):
        struct.pack_into("i", self.shared, 4 * SHARED.index(what), number)

    def release(self, number):
        self.write("released", number)

    def forget_peak(self):
        self.write("peak", self.counted("inside"))
