#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""What a refusal does to the program: nobody inside waits because of it, no thread is left in accept, the
descriptors are the program's own, and it is not told of clients that it could not accept.

    test_refusals.py [NAME]...      only tests whose name contains one of these
"""
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile

import harness
from harness import free_port, run_tests

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
BPCTL = BUILD + "/bpctl"
PYTHON = "/usr/bin/python3"
PATIENCE = 30
wait_until = functools.partial(harness.wait_until, patience=PATIENCE)
HTTP = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
BUSY = b"HTTP/1.1 503 "


class Service:
    """A program under limits: `command`, its ports, and what comes after them."""

    def __init__(self, limits, *command, ports=1, prefix=(), after=(), **more):
        self.ports = [free_port() for _ in range(ports)]
        self.name = f"refusals-{os.getpid()}-{self.ports[0]}"
        self.log = tempfile.TemporaryFile()
        run = [*prefix, BPCTL, "run", "--name", self.name, *limits, "--"]
        self.process = subprocess.Popen([*run, *command, *map(str, self.ports), *after], stderr=self.log, **more)

    def __enter__(self):
        wait_until(self.listening, "a listener")
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        subprocess.run([BPCTL, "ls"], capture_output=True, check=False)

    def listening(self):
        """By the kernel's table, since a connection would be one of the clients."""
        assert self.process.poll() is None, self.said()
        with open("/proc/net/tcp", encoding="ascii") as table:
            found = {int(line.split()[1].split(":")[1], 16) for line in table if line.split()[3] == "0A"}
        return found.issuperset(self.ports)

    def said(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def total(self, counter):
        shown = subprocess.run([BPCTL, "show", self.name, "--json"], capture_output=True, text=True, check=False)
        return json.loads(shown.stdout)["totals"].get(counter, 0) if shown.returncode == 0 else None

    def come(self, port=0):
        """A client; one who hears nothing where the reset was there before connect had returned."""
        client = socket.socket()
        client.settimeout(PATIENCE)
        try:
            client.connect(("127.0.0.1", self.ports[port]))
        except ConnectionResetError:
            client = socket.socketpair()[0]
        return client

    def come_inside(self, count=1, port=0):
        """Clients who are served."""
        inside = [self.come(port) for _ in range(count)]
        for client in inside:
            assert ask(client) == b"hello", self.said()
        return inside


def ask(client, question=b"hello"):
    """The answer to it; nothing where the server closed, with or without a reset."""
    try:
        client.sendall(question)
        return client.recv(4096)
    except ConnectionError:
        return b""


def heard(client):
    """All that is said until the end."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while (part := client.recv(4096)):
            said += part
    return said


# --- a thread that waits for its listener and its clients, and whose accept would block ---

# An echo in one thread, with a listener that blocks. `nap` keeps it from accepting for a moment, from its yawn on.
WAIT_THEN_ACCEPT = """
import select, socket, sys, time
way, ports = sys.argv[1], sys.argv[2:]
listener = socket.create_server(("127.0.0.1", int(ports[0])), backlog=64)
clients = {}
poller = {"poll": getattr(select, "poll"), "epoll": select.epoll}.get(way)
poller = poller and poller()
IN = 1  # POLLIN and EPOLLIN
if poller: poller.register(listener, IN)
while True:
    if poller: ready = [fd for fd, _ in poller.poll()]
    else: ready = [s.fileno() for s in select.select([listener, *clients.values()], [], [])[0]]
    for fd in ready:
        if fd == listener.fileno():
            client = listener.accept()[0]
            assert client.getblocking()
            clients[client.fileno()] = client
            if poller: poller.register(client, IN)
            continue
        said = clients[fd].recv(99)
        if said == b"nap":
            clients[fd].sendall(b"yawn")
            time.sleep(0.3)
        if said: clients[fd].sendall(said)
        else:
            if poller: poller.unregister(fd)
            clients.pop(fd).close()
"""


def goes_on_with_those_inside(way, policy):
    with Service(["total-conns=2", f"when-full={policy}", "busy=text:no"], PYTHON, "-c", WAIT_THEN_ACCEPT,
                 way) as service:
        inside = service.come_inside(2)
        turned_away = []
        for _ in range(5):
            client = service.come()
            if policy != "hold":
                assert heard(client) == (b"no" if policy == "busy" else b"")
            turned_away.append(client)
            for other in inside:
                assert ask(other) == b"hello"
        if policy == "hold":
            wait_until(lambda: service.total("held"), "somebody held")
            for client in turned_away[1:]:
                client.close()
        inside.pop().close()
        held = turned_away[0] if policy == "hold" else None
        wait_until(lambda: service.total("conns") == (2 if held else 1), "the slot free, or taken")
        if held:
            assert ask(held) == b"hello"
        else:
            service.come_inside()
        assert ask(inside[0]) == b"hello"


def test_select_then_a_blocking_accept_goes_on_with_those_inside():
    for policy in "busy", "reset", "hold":
        goes_on_with_those_inside("select", policy)


def test_poll_then_a_blocking_accept_goes_on_with_those_inside():
    for policy in "busy", "reset", "hold":
        goes_on_with_those_inside("poll", policy)


def test_epoll_then_a_blocking_accept_goes_on_with_those_inside():
    for policy in "busy", "reset", "hold":
        goes_on_with_those_inside("epoll", policy)


def test_who_is_over_peer_conns_leaves_nobody_in_accept():
    for way in "select", "poll", "epoll":
        for policy in "busy", "reset", "hold":
            with Service(["peer-conns=2", f"when-full={policy}", "busy=text:no"], PYTHON, "-c", WAIT_THEN_ACCEPT,
                         way) as service:
                inside = service.come_inside(2)
                third = service.come()
                assert policy == "hold" or heard(third) == (b"no" if policy == "busy" else b"")
                for client in inside:
                    assert ask(client) == b"hello"
                inside.pop().close()
                assert policy != "hold" or ask(third) == b"hello"


def test_the_late_leave_nobody_in_accept():
    for way in "select", "poll", "epoll":
        with Service(["queue-delay=20ms", "when-full=busy", "busy=text:no"], PYTHON, "-c", WAIT_THEN_ACCEPT,
                     way) as service:
            inside = service.come_inside()[0]

            def somebody_was_late():
                inside.sendall(b"nap")
                # Who comes before the nap, or after it, waits for nothing, and the queue is calm again.
                assert inside.recv(4) == b"yawn"
                crowd = [service.come() for _ in range(6)]
                assert inside.recv(99) == b"nap"
                assert ask(inside) == b"hello", "in accept"
                for client in crowd:
                    client.close()
                return service.total("shed_late")
            wait_until(somebody_was_late, "somebody shed for being late")


# Two services in one, the first of which waits for a word on stdin between its wait and its accept.
SLOW_TO_ACCEPT = """
import os, select, socket, sys, threading
slow, quick = (socket.create_server(("127.0.0.1", int(port)), backlog=64) for port in sys.argv[1:])
kept = []
def answer(client):
    while (said := client.recv(99)): client.sendall(said)
    client.close()
def run_quick():
    while True:
        kept.append(quick.accept()[0])
        threading.Thread(target=answer, args=(kept[-1],), daemon=True).start()
threading.Thread(target=run_quick, daemon=True).start()
while True:
    select.select([slow], [], [])
    print("ready", flush=True)
    sys.stdin.readline()
    try: kept.append(slow.accept()[0]); print("accepted", flush=True)
    except OSError as error: print(error.errno, flush=True)
"""


def test_a_slot_taken_between_report_and_accept_is_an_aborted_connection():
    for policy in "busy", "reset", "hold":
        with Service(["total-conns=1", f"when-full={policy}", "busy=text:no"], PYTHON, "-c", SLOW_TO_ACCEPT, ports=2,
                     stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as service:
            first = service.come()
            assert service.process.stdout.readline() == "ready\n"
            second = service.come_inside(port=1)[0]  # has the slot now
            service.process.stdin.write("go on\n")
            service.process.stdin.flush()
            assert service.process.stdout.readline() == "103\n"  # ECONNABORTED
            assert policy == "hold" or heard(first) == (b"no" if policy == "busy" else b"")
            second.close()
            if policy == "hold":
                assert service.process.stdout.readline() == "ready\n"


# --- one thread accepts, another waits ---

HANDED_OVER = """
import queue, select, socket, sys, threading
source, port = sys.argv[1:]
listener = socket.create_server(("127.0.0.1", int(port)), backlog=64); listener.setblocking(False)
work, kept = queue.SimpleQueue(), []
def serve(client):
    while (said := client.recv(999)): client.sendall(said)
    client.close()
def accept_all():
    while True:
        work.get()      # a futex, which is no wait that anybody can see
        try:
            while True:
                client = listener.accept()[0]; client.settimeout(None); kept.append(client)
                threading.Thread(target=serve, args=(client,), daemon=True).start()
        except BlockingIOError: pass
        print("accepted", flush=True)
threading.Thread(target=accept_all, daemon=True).start()
if source == "epoll":
    poller = select.epoll(); poller.register(listener, select.EPOLLIN | select.EPOLLET)
    while True:
        for _ in poller.poll(): work.put(1)
for _ in sys.stdin: work.put(1)
"""


def handed_over(source, *limits):
    return Service(["total-conns=1", "when-full=busy", *limits], PYTHON, "-c", HANDED_OVER, source,
                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_waiting_thread_answers_those_that_another_could_not_accept():
    with handed_over("epoll") as service:
        first = service.come_inside()[0]
        for _ in range(3):
            late_with_its_request = service.come()
            assert ask(first) == b"hello"
            late_with_its_request.sendall(HTTP)
            assert heard(late_with_its_request).startswith(BUSY)
        first.close()
        wait_until(lambda: service.total("conns") == 0, "the slot free")
        os.kill(service.process.pid, signal.SIGSTOP)
        pair = [service.come(), service.come()]  # one edge, and one slot, for both
        os.kill(service.process.pid, signal.SIGCONT)
        assert ask(pair[0]) == b"hello"
        pair[1].sendall(HTTP)
        assert heard(pair[1]).startswith(BUSY)


def test_where_no_thread_waits_refused_clients_hear_at_once():
    with handed_over("stdin") as service:
        def accept():
            service.process.stdin.write("accept\n")
            service.process.stdin.flush()
            assert service.process.stdout.readline() == "accepted\n"
        first = service.come()
        accept()
        assert ask(first) == b"hello"
        silent = service.come()
        accept()
        assert heard(silent) == b""
        talking = service.come()
        talking.sendall(HTTP)
        accept()
        assert heard(talking).startswith(BUSY)


# --- descriptors ---

# Echoes, and counts what accept fails with. `fill` opens files until there are no descriptors left.
COUNTS_ERRORS = """
import os, select, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=2048); listener.setblocking(False)
poller = select.epoll(); poller.register(listener, select.EPOLLIN); clients = {}; errors = 0; files = []
while True:
    for fd, _ in poller.poll():
        if fd == listener.fileno():
            try: client = listener.accept()[0]
            except BlockingIOError: continue
            except OSError: errors += 1; continue
            clients[client.fileno()] = client; poller.register(client, select.EPOLLIN)
            continue
        said = clients[fd].recv(99)
        if said == b"errors": said = b"%d" % errors
        if said == b"fill":
            try:
                while True: files.append(os.open("/dev/null", os.O_RDONLY))
            except OSError: said = b"%d" % len(files)
        if said: clients[fd].sendall(said)
        else: poller.unregister(fd); clients.pop(fd).close()
"""


def few_descriptors(descriptors, ceiling, *limits):
    return Service([f"total-conns={ceiling}", "when-full=busy", *limits], PYTHON, "-c", COUNTS_ERRORS,
                   prefix=("prlimit", f"--nofile={descriptors}:{descriptors}"))


def leaves_room(descriptors, ceiling, flood):
    with few_descriptors(descriptors, ceiling) as service:
        inside = service.come_inside(ceiling)
        silent = [service.come() for _ in range(flood)]
        talking = service.come()
        talking.sendall(HTTP)
        assert heard(talking).startswith(BUSY)
        assert ask(inside[0]) == b"hello"
        assert ask(inside[0], b"errors") == b"0"
        inside.pop().close()
        wait_until(lambda: service.total("conns") == ceiling - 1, "a slot free")
        inside += service.come_inside()
        for client in silent:
            assert heard(client) == b""
        wait_until(lambda: service.total("shed_reset") == flood, "everybody told")
        assert ask(inside[0], b"errors") == b"0"
        for client in [*silent, *inside]:
            client.close()


def test_silent_clients_leave_the_program_its_descriptors():
    leaves_room(1024, 600, 700)
    leaves_room(64, 40, 200)


def test_a_changed_ceiling_on_descriptors_is_kept():
    with few_descriptors(1024, 5) as service:
        inside = service.come_inside(5)
        subprocess.run(["prlimit", f"--pid={service.process.pid}", "--nofile=40:40"], check=True)
        silent = [service.come() for _ in range(100)]
        assert ask(inside[0], b"errors") == b"0"
        lingering = len(os.listdir(f"/proc/{service.process.pid}/fd")) - 15
        assert lingering <= 40 // 8, lingering
        for client in silent:
            assert heard(client) == b""


def test_accept_has_the_descriptors_of_those_who_linger():
    with few_descriptors(64, 4) as service:
        inside = service.come_inside(4)
        silent = [service.come() for _ in range(20)]
        assert ask(inside[0]) == b"hello"
        inside.pop().close()
        wait_until(lambda: service.total("conns") == 3, "a slot free")
        assert int(ask(inside[0], b"fill")) > 30
        inside += service.come_inside()
        assert ask(inside[0], b"errors") == b"0"
        for client in silent:
            assert heard(client) == b""


# --- refused before the program is told ---

STYLES = ["poll", "ppoll", "select", "pselect", "poll-blocking", "select-blocking", "level-blocking", "level", "edge",
          "exclusive", "oneshot", "epoll_pwait", "epoll_pwait2"]


def counts_of(greeting):
    words = greeting.split()
    return dict(zip(words[::2], map(int, words[1::2])))


def never_told_of_nobody(style, policy, *limits):
    with Service([*limits, f"when-full={policy}", "busy=text:no"], BUILD + "/tests/acceptor",
                 after=[style]) as service:
        inside = [service.come() for _ in range(3)]
        for client in inside:
            assert client.recv(99).startswith(b"inside")
        for _ in range(20):
            assert heard(service.come()) == (b"no" if policy == "busy" else b"")
        inside.pop().close()

        def let_in():
            with contextlib.suppress(ConnectionError):
                said = service.come().recv(99)
                return said.startswith(b"inside") and said
        counts = counts_of(wait_until(let_in, "the next inside").decode())
        assert counts["peak"] <= 3 and counts["empty"] == 0, f"{style}, {limits}: {counts}"


def test_a_program_is_told_of_nobody_who_is_refused():
    for style in STYLES:
        never_told_of_nobody(style, "busy", "total-conns=3")
        never_told_of_nobody(style, "reset", "total-conns=3")


def test_a_program_that_blocks_is_told_of_nobody_over_peer_conns():
    for style in "poll-blocking", "select-blocking", "level-blocking":
        never_told_of_nobody(style, "busy", "peer-conns=3")


def test_memcached_has_nothing_to_log():
    with Service(["total-conns=3", "when-full=busy"], "memcached", "-u", "nobody", "-l", "127.0.0.1", "-t", "2",
                 "-p") as service:
        def version(client):
            return ask(client, b"version\r\n")
        inside = [service.come() for _ in range(3)]
        for client in inside:
            assert version(client).startswith(b"VERSION")
        for _ in range(50):
            assert version(service.come()).startswith(b"SERVER_ERROR")
        inside.pop().close()
        wait_until(lambda: version(service.come()).startswith(b"VERSION"), "the next inside")
        assert "accept" not in service.said(), service.said()


if __name__ == "__main__":
    sys.exit(run_tests(dict(globals()), sys.argv[1:]))
