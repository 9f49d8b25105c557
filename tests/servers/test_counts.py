#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Connections that more than one process may hold, or whose close nobody saw: each counts until nobody has it, and
not a moment longer; whether the kernel can be asked for its sockets or not.

    test_counts.py [NAME]...      only tests whose name contains one of these
"""
import concurrent.futures
import functools
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

import harness
from harness import connected, free_port, run_tests

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
BPCTL = BUILD + "/bpctl"
SHIM = BUILD + "/libbackpressure.so"
LACKING = BUILD + "/tests/lacking.so"
PYTHON = "/usr/bin/python3"
wait_until = functools.partial(harness.wait_until, patience=60)
CEILING = 3
CLIENTS = 8
STANDS_S = 0.4  # so long nobody else may be let in
# What is missing: see lacking.c.
ENVIRONMENTS = {"all is there": "", "netlink is forbidden": "netlink", "no netlink": "protocol",
                "no sock_diag modules": "modules", "dumps pass sockets over": "sight",
                "dumps pass over what they showed before": "memory", "no SO_COOKIE": "cookie",
                "neither netlink nor SO_COOKIE": "netlink cookie"}
# Greets whom it accepts, and gives the connection away in one of many ways.
SERVER = """
import os, signal, socket, subprocess, sys
KEEP = ["/bin/sh", "-c", "cat > /dev/null"]
BARE = {"PATH": os.environ["PATH"]}
listener = socket.create_server(("127.0.0.1", int(sys.argv[2])), backlog=64)
conns = []

def spawn(conn, environment):
    subprocess.Popen(KEEP, stdin=conn, stdout=conn, env=environment)
    conn.close()
def spawn_bare(conn):
    spawn(conn, BARE)
def spawn_under_the_shim(conn):
    spawn(conn, None)
def posix_spawn(conn):
    os.posix_spawn(KEEP[0], KEEP, BARE, file_actions=[(os.POSIX_SPAWN_DUP2, conn.fileno(), 0)])
    conn.close()
def system(conn):
    conn.set_inheritable(True)
    os.system("unset LD_PRELOAD; cat <&%d >/dev/null &" % conn.fileno())
    conn.close()
def hold_until_the_end(conn):
    while conn.recv(100):
        pass
    os._exit(0)
def six_children(conn):
    for _ in range(6):
        if os.fork() == 0:
            listener.close()
            hold_until_the_end(conn)
    conn.close()
WORKER = "import os,select,socket,sys,time\\n" \\
    "while not os.path.exists(sys.argv[2]): time.sleep(0.02)\\n" \\
    "door, held = [socket.socket(fileno=int(sys.argv[1]))], []\\n" \\
    "while door + held:\\n" \\
    "    for ready in select.select(door + held, [], [])[0]:\\n" \\
    "        if ready in door:\\n" \\
    "            message, given = socket.recv_fds(ready, 1, 1)[:2]\\n" \\
    "            held += [socket.socket(fileno=n) for n in given]\\n" \\
    "            if not message: door = []\\n" \\
    "            continue\\n" \\
    "        try: ready.recv(100)\\n" \\
    "        except ConnectionResetError: pass\\n" \\
    "        held.remove(ready); ready.close()\\n"
def start_worker(environment):
    global door
    door, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    subprocess.Popen([sys.executable, "-c", WORKER, str(other.fileno()), sys.argv[3]], env=environment,
                     pass_fds=[other.fileno()])
    other.close()
def passing(conn):
    socket.send_fds(door, [b"x"], [conn.fileno()])
    conn.close()
passing_bare = passing
def keep(conn):
    conns.append(conn)
def close_all(*_):
    while conns:
        conns.pop().close()

kind = sys.argv[1]
# Nobody waits for the children: they are gone at once.
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.signal(signal.SIGUSR1, close_all)
if kind.startswith("passing"):
    start_worker(BARE if kind.endswith("bare") else None)
give = {name: value for name, value in globals().items() if callable(value)}[kind.split(" ")[0]]
if kind.endswith("two"):
    os.fork()
while True:
    conn = listener.accept()[0]
    conn.sendall(b"served")
    give(conn)
"""


def bpctl(*arguments):
    return subprocess.run([BPCTL, *arguments], capture_output=True, text=True, timeout=60, check=False)


class Service:
    """The server above, under a ceiling."""

    def __init__(self, kind, lacks="", limits=(f"total-conns={CEILING}",), open_door=True, environment=None):
        self.port, self.directory = free_port(), tempfile.TemporaryDirectory()
        self.name = f"counts-{os.getpid()}-{self.port}"
        self.door = self.directory.name + "/door"
        if open_door:
            self.open_door()
        script = self.directory.name + "/server.py"
        with open(script, "w", encoding="ascii") as file:
            file.write(SERVER)
        with open(self.directory.name + "/log", "wb") as log:
            self.process = subprocess.Popen(
                [PYTHON, script, kind, str(self.port), self.door], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, env={**os.environ, "LD_PRELOAD": f"{SHIM}:{LACKING}", "LACKS": lacks,
                                             "BACKPRESSURE": " ".join((f"name={self.name}", *limits)),
                                             **(environment or {})})
        wait_until(lambda: self.show() and self.show()["listeners"], "the service")

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind:
            print(self.log())
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.directory.cleanup()

    def open_door(self):
        with open(self.door, "wb"):
            pass

    def log(self):
        with open(self.directory.name + "/log", encoding="utf-8") as file:
            return file.read()

    def show(self):
        shown = bpctl("show", self.name, "--json")
        return json.loads(shown.stdout) if shown.returncode == 0 else None

    def come(self, count):
        clients = [connected(self.port) for _ in range(count)]
        for client in clients:
            client.setblocking(False)
        return clients


def is_served(client):
    try:
        return client.recv(100, socket.MSG_PEEK) == b"served"
    except BlockingIOError:
        return False


def served(clients):
    return [client for client in clients if is_served(client)]


def becomes(clients, count):
    wait_until(lambda: len(served(clients)) >= count, lambda: f"{len(served(clients))} of {count}")
    stands(clients, count)


def stands(clients, count):
    end = time.monotonic() + STANDS_S
    while time.monotonic() < end:
        assert len(served(clients)) == count, f"{len(served(clients))} served, with a ceiling of {count}"
        time.sleep(0.02)


def close(client):
    client.recv(100)  # what stands unread would make a reset of it
    client.close()


def reset(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def leave(clients, how=close):
    for client in clients:
        if is_served(client):
            how(client)
        else:
            client.close()


def counts(lacks, kind, how=close):
    """As many as the ceiling are inside, each that leaves makes room for one, and nothing is lost in the end."""
    with Service(kind, lacks) as service:
        clients = service.come(CLIENTS)
        becomes(clients, CEILING)
        while len(clients) > CEILING:
            inside = served(clients)[0]
            clients.remove(inside)
            how(inside)
            wait_until(lambda: len(served(clients)) >= min(CEILING, len(clients)), "the next one's turn")
            assert len(served(clients)) <= CEILING
        leave(clients, how)
        clients = service.come(CEILING + 1)
        becomes(clients, CEILING)
        leave(clients)


def in_each_environment(test, *arguments):
    """All at once: most of the time nothing is to happen."""
    with concurrent.futures.ThreadPoolExecutor(len(ENVIRONMENTS)) as pool:
        runs = {what: pool.submit(test, lacks, *arguments) for what, lacks in ENVIRONMENTS.items()}
    for what, run in runs.items():
        try:
            run.result()
        except Exception as error:
            raise AssertionError(f"where {what}: {error}") from error


def reset_but_held(lacks):
    """A connection that was reset is on no list of the kernel's; the program still has it, and it counts."""
    with Service("keep", lacks) as service:
        clients = service.come(CLIENTS)
        becomes(clients, CEILING)
        inside = served(clients)
        leave(inside, reset)
        waiting = [client for client in clients if client not in inside]
        stands(waiting, 0)

        def let_in_when_closed():
            service.process.send_signal(signal.SIGUSR1)  # one that comes between two accepts is not noticed
            return len(served(waiting)) >= CEILING

        wait_until(let_in_when_closed, "the next ones' turn")
        leave(waiting)


def under_way(lacks):
    """What was sent to a process that does not fetch it is held by nobody, and counts."""
    with Service("passing_bare", lacks, open_door=False) as service:
        clients = service.come(CLIENTS)
        becomes(clients, CEILING)
        service.open_door()
        inside = served(clients)
        leave(inside)
        becomes([client for client in clients if client not in inside], CEILING)
        leave(client for client in clients if client not in inside)


def parent_killed(lacks):
    """What a program holds that a killed process had started counts until that program ends."""
    with Service("spawn_bare two", lacks) as service:
        clients = service.come(CLIENTS)
        becomes(clients, CEILING)
        os.kill(max(process["pid"] for process in service.show()["processes"]), signal.SIGKILL)
        stands(clients, CEILING)
        inside = served(clients)
        leave(inside)
        becomes([client for client in clients if client not in inside], CEILING)
        leave(client for client in clients if client not in inside)


def test_what_a_spawned_program_holds():
    in_each_environment(counts, "spawn_bare")


def test_what_a_program_under_the_shim_holds():
    in_each_environment(counts, "spawn_under_the_shim")


def test_what_posix_spawn_hands_on():
    in_each_environment(counts, "posix_spawn")


def test_what_a_shell_left_behind_holds():
    in_each_environment(counts, "system")


def test_what_six_processes_inherit():
    in_each_environment(counts, "six_children")


def test_what_is_passed_to_a_program_that_is_not_under_the_shim():
    in_each_environment(counts, "passing_bare")


def test_what_is_passed_to_one_that_is():
    in_each_environment(counts, "passing")


def test_what_is_under_way_in_a_message():
    in_each_environment(under_way)


def test_what_was_reset_and_is_held():
    in_each_environment(reset_but_held)


def test_what_the_children_of_a_killed_process_hold():
    in_each_environment(parent_killed)


ENDED_BY_A_SIGNAL = """
import signal, socket, sys
def stop(*_):
    raise SystemExit(0)
signal.signal(signal.SIGUSR1, stop)
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
inside = listener.accept()
print("inside", flush=True)
listener.accept()
"""


def test_signal_that_comes_as_the_wait_for_a_slot_ends():
    """Its handler ends accept, as it would without a ceiling; or else this waits for ever."""
    with subprocess.Popen(
            [PYTHON, "-c", ENDED_BY_A_SIGNAL], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "LD_PRELOAD": f"{SHIM}:{LACKING}", "LACKS": "luck",
                 "BACKPRESSURE": f"name=luck-{os.getpid()} total-conns=1"}) as server:
        try:
            port = int(server.stdout.readline())
            with connected(port), connected(port):  # one is inside, one waits for its slot
                assert server.stdout.readline() == "inside\n"
                assert server.wait(30) == 0
        finally:
            server.kill()


def test_show_says_what_audits_cannot_see():
    for what, lacks in ENVIRONMENTS.items():
        with Service("keep", lacks) as service:
            blind = lacks.split(" ")[0] in ("netlink", "protocol", "modules")
            audit = service.show()["audit"]
            assert audit["blind"] == blind, f"where {what}: {audit}"
            shown = bpctl("show", service.name).stdout + bpctl("check", str(service.process.pid)).stdout
            said = re.findall(r"blind:? .*sock_diag cannot be asked.*in /proc", shown)
            assert len(said) == (2 if blind else 0), f"where {what}: {shown}"


def test_without_proc_and_netlink_it_is_said():
    with Service("spawn_bare", "netlink proc") as service:
        clients = service.come(CLIENTS)
        wait_until(lambda: len(served(clients)) >= CEILING, "the first ones' turn")
        wait_until(lambda: "is not counted" in service.show()["audit"]["why"], "a word of it")
        wait_until(lambda: "connections that other programs inherit are not counted" in service.log(), "a line of it")
        leave(clients)
        for _ in range(3):  # and nobody is kept out by what nobody can prove
            clients = service.come(CEILING)
            wait_until(lambda: len(served(clients)) >= CEILING, "the next ones' turn")
            leave(clients)
        assert service.log().count("backpressure: neither") == 1, service.log()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as segments:
        os.environ["BACKPRESSURE_DIR"] = segments  # other services on this machine are not ours to clear
        sys.exit(run_tests(globals(), sys.argv[1:]))
