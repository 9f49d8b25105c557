#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Which process is which, and whether it lives: pid namespaces, restarts, exec, sandboxes; and segments whose file is taken away.

    test_identity.py [NAME]...      only tests whose name contains one of these
"""
import contextlib
import ctypes
import functools
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile

import harness
from harness import free_port, run_tests

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
BUILD = os.path.abspath(os.environ.get("BUILD", ROOT + "/build"))
BPCTL = BUILD + "/bpctl"
PYTHON = "/usr/bin/python3"
NAME = f"identity-{os.getpid()}"
BUSY = ("when-full=busy", "busy=text:no")
CONTAINER = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
wait_until = functools.partial(harness.wait_until, patience=30)

# As many workers as asked for, all on one port; each says its pid, and stays on the connection until the client goes.
# USR1: every worker executes itself anew, with what it has open. USR2: one more program of the same kind is started.
SERVER = """
import os, signal, socket, sys, threading
port, workers = int(sys.argv[1]), int(sys.argv[2])
if "close" in sys.argv: os.closerange(3, 4096)
if "listener" in os.environ:
    listener = socket.socket(fileno=int(os.environ["listener"]))
else:
    listener = socket.create_server(("127.0.0.1", port), backlog=64)
    os.set_inheritable(listener.fileno(), True)
    os.environ["listener"] = str(listener.fileno())
def again(*_):
    os.execv(sys.executable, [sys.executable] + sys.orig_argv[1:])
signal.signal(signal.SIGUSR1, again)
for _ in range(workers - 1):
    if os.fork() == 0: break
def talk(client):
    os.set_inheritable(client.fileno(), "inherit" in sys.argv)
    client.sendall(b"%d " % os.getpid())
    while client.recv(4096): pass
    client.close()
if "poll" in sys.argv: listener.settimeout(600)
while True:
    threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()
"""


def run(*command, **more):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **more)


class Place:
    """A directory for segments, and the servers and clients that use it."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="backpressure-identity-", dir="/dev/shm")
        self.environment = {**os.environ, "BACKPRESSURE_DIR": self.directory}
        self.servers, self.clients, self.logs = [], [], []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for client in self.clients:
            client.close()
        for server in self.servers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        for log in self.logs:
            log.close()
        if os.path.ismount(self.directory):
            run("umount", "-l", self.directory)
        shutil.rmtree(self.directory, ignore_errors=True)

    def serve(self, *limits, workers=1, container=False, more=(), filtered=None, wait=True):
        """A server in a process group of its own; with its port, and what it says on stderr."""
        port = free_port()
        log = tempfile.TemporaryFile("w+")
        command = [BPCTL, "run", "--name", NAME, *limits, "--", PYTHON, "-c", SERVER, str(port), str(workers), *more]
        server = subprocess.Popen((CONTAINER if container else []) + command, env=self.environment, stdin=subprocess.DEVNULL,
                                  stdout=log, stderr=log, start_new_session=True, preexec_fn=filtered)
        self.servers.append(server)
        self.logs.append(log)
        server.port, server.log = port, log
        if wait:
            wait_until(lambda: listens(port) or server.poll() is not None, "the server")
            assert server.poll() is None, said(server)
        return server

    def come(self, server, count):
        """So many clients more; what each was told: a pid, or no."""
        told = []
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", server.port), 20)
            client.settimeout(20)
            self.clients.append(client)
            told.append(hear(client))
        return told

    def leave(self):
        for client in self.clients:
            client.close()
        self.clients = []

    def bpctl(self, *arguments):
        return run(BPCTL, *arguments, env=self.environment)

    def show(self):
        answer = self.bpctl("show", NAME, "--json")
        assert answer.returncode == 0, answer.stderr
        return json.loads(answer.stdout)


def hear(client):
    try:
        return client.recv(100).decode().strip()
    except ConnectionResetError:
        return "no"


def inside(told):
    return sum(word.isdigit() for word in told)


def listens(port):
    """Asks the kernel, not the server: a connection would be counted."""
    with open("/proc/net/tcp", encoding="ascii") as table:
        return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in list(table)[1:])


def said(server):
    server.log.seek(0)
    return server.log.read()


def workers_of(server):
    """The pids of the servers in a container or out of it, as this namespace has them."""
    listing = run("ps", "-eo", "pid=,sess=,args=").stdout.splitlines()
    return [int(line.split()[0]) for line in listing
            if int(line.split()[1]) == server.pid and f"{PYTHON} -c" in line and "bpctl" not in line and "unshare" not in line]


# --- pid namespaces ---

def test_two_processes_of_one_pid_in_two_namespaces_are_two():
    with Place() as place:
        limits = ("total-conns=3", *BUSY)
        first = place.serve(*limits, container=True)
        assert inside(place.come(first, 5)) == 3
        second = place.serve(*limits, container=True)
        assert inside(place.come(second, 5)) == 0
        assert inside(place.come(first, 5)) == 0
        processes = place.show()["processes"]
        assert len(processes) == 2, processes
        assert sorted(process["pid"] for process in processes) == sorted(workers_of(first) + workers_of(second)), processes
        assert len({process["pid_namespace"] for process in processes}) == 2, processes


def test_what_a_killed_container_held_is_free_for_another():
    with Place() as place:
        limits = ("total-conns=3", *BUSY)
        first = place.serve(*limits, container=True)
        second = place.serve(*limits, container=True)
        assert inside(place.come(first, 3)) == 3
        assert inside(place.come(second, 2)) == 0
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        wait_until(lambda: inside(place.come(second, 1)) == 1, "a place of the dead container")
        assert 1 + inside(place.come(second, 4)) == 3


def test_container_whose_first_process_died_starts_again():
    with Place() as place:
        for ceiling in (3, 3, 2):
            server = place.serve(f"total-conns={ceiling}", *BUSY, container=True)
            assert inside(place.come(server, 5)) == ceiling
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
            wait_until(lambda: not workers_of(server), "the end of its first process")


def test_limit_of_one_process_in_another_namespace():
    with Place() as place:
        first = place.serve("conns=3", *BUSY, container=True)
        second = place.serve("conns=3", *BUSY, container=True)
        assert place.bpctl("set", f"{NAME}/{workers_of(first)[0]}", "conns=1").returncode == 0
        assert inside(place.come(first, 3)) == 1
        assert inside(place.come(second, 4)) == 3
        ambiguous = place.bpctl("set", f"{NAME}/1", "conns=1")
        assert ambiguous.returncode == 1 and len(ambiguous.stderr.splitlines()) == 1, ambiguous


# --- starting under a name that is there ---

def test_same_limits_join_and_others_do_not():
    with Place() as place:
        first = place.serve("total-conns=3", *BUSY)
        second = place.serve("total-conns=3", *BUSY)
        assert inside(place.come(first, 2)) == 2
        assert inside(place.come(second, 3)) == 1
        refused = place.bpctl("run", "--name", NAME, "total-conns=4", *BUSY, "--", "true")
        assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1 and "total-conns=3 there, 4 here" in refused.stderr
        # What an operator changed meanwhile is nothing that a worker's start script knows of; nor is it refused.
        assert place.bpctl("set", NAME, "total-conns=5").returncode == 0
        for given in ("total-conns=3", "total-conns=5"):
            assert place.bpctl("run", "--name", NAME, given, *BUSY, "--", "true").returncode == 0


# --- exec, and programs that close what they do not know ---

def test_exec_keeps_the_count():
    with Place() as place:
        server = place.serve("total-conns=3", *BUSY, more=("inherit",))
        assert inside(place.come(server, 3)) == 3
        os.kill(workers_of(server)[0], signal.SIGUSR1)
        wait_until(lambda: place.show()["processes"][0]["conns"] == 3 and len(place.show()["processes"]) == 1, "the program again")
        assert inside(place.come(server, 5)) == 0


def test_program_that_closes_everything_is_seen_to_live():
    with Place() as place:
        first = place.serve("total-conns=3", *BUSY, container=True, more=("close",))
        assert inside(place.come(first, 3)) == 3
        second = place.serve("total-conns=3", *BUSY, container=True, more=("close",))
        assert inside(place.come(second, 5)) == 0
        shutil.rmtree(place.directory)  # and by whom it still has open
        assert [process["proved"] for process in place.show()["processes"]] == [True, True]


# --- the file is taken away ---

def lose_file(place):
    os.unlink(f"{place.directory}/{NAME}")


def lose_directory(place):
    shutil.rmtree(place.directory)


def replace_file(place):
    lose_file(place)
    with open(f"{place.directory}/{NAME}", "w", encoding="ascii") as other:
        other.write("somebody else's")


def mount_over(place, size="1m"):
    assert run("mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", place.directory).returncode == 0


def loses_nothing(lose):
    with Place() as place:
        first = place.serve("total-conns=3", *BUSY, workers=2, more=("inherit",))
        assert inside(place.come(first, 3)) == 3
        lose(place)
        assert inside(place.come(first, 2)) == 0
        assert NAME in place.bpctl("ls").stdout
        assert place.show()["totals"]["conns"] == 3
        second = place.serve("total-conns=3", *BUSY)
        assert inside(place.come(second, 5)) == 0, "a new process began a count of its own"
        for worker in workers_of(first):
            os.kill(worker, signal.SIGUSR1)
        wait_until(lambda: sum(process["conns"] for process in place.show()["processes"]) >= 3, "the programs again")
        assert inside(place.come(first, 3)) == 0, "exec began a count of its own"
        assert place.bpctl("set", NAME, "total-conns=4").returncode == 0
        assert inside(place.come(second, 3)) == 1
        assert place.bpctl("pause", NAME).returncode == 0 and place.bpctl("resume", NAME).returncode == 0
        events = place.bpctl("events", NAME, "--json").stdout
        assert events.count('"name_lost"') == 1, events
        assert said(first).count("removed or replaced") + said(second).count("removed or replaced") <= 1


def test_file_that_is_removed():
    loses_nothing(lose_file)


def test_directory_that_is_removed():
    loses_nothing(lose_directory)


def test_file_that_is_replaced():
    loses_nothing(replace_file)


def test_directory_that_is_mounted_over():
    loses_nothing(mount_over)


def test_only_process_executes_itself_after_its_file_was_removed():
    with Place() as place:
        server = place.serve("total-conns=3", *BUSY, more=("inherit",))
        assert inside(place.come(server, 3)) == 3
        lose_file(place)
        os.kill(workers_of(server)[0], signal.SIGUSR1)
        wait_until(lambda: "removed or replaced" in said(server), "the line")
        assert inside(place.come(server, 5)) == 0
        assert said(server).count("backpressure:") == 1, said(server)


# --- sandboxes ---

LIBC = ctypes.CDLL(None, use_errno=True)
X86_64 = {"pidfd_open": 434, "flock": 73, "kill": 62, "fcntl": 72, "madvise": 28, "futex": 202, "ppoll": 271}
# What the shim relies on to tell who lives, and that a server can do without: the call, and one argument of it.
RELIED_ON = {
    "pidfd_open": ("pidfd_open", None, ()),
    "flock": ("flock", None, ()),
    "kill": ("kill", None, ()),
    "locks": ("fcntl", 1, (36, 37, 38)),  # F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW
    "don't fork": ("madvise", 2, (10,)),
    "populate": ("madvise", 2, (23,)),
    "touch": ("futex", 1, (5, 5 | 128)),  # FUTEX_WAKE_OP
    "ppoll": ("ppoll", None, ()),
}
ERRORS = {"EPERM": 1, "ENOSYS": 38, "EINVAL": 22, "EACCES": 13}


def forbid(calls, error):
    """Before exec: a filter under which those calls say the error (seccomp(2))."""
    load, equal, give = 0x20, 0x15, 0x06
    program = []
    for name, argument, values in calls:
        if argument is None:
            program += [(load, 0, 0, 0), (equal, 0, 1, X86_64[name]), (give, 0, 0, 0x50000 | error)]
            continue
        for value in values:
            program += [(load, 0, 0, 0), (equal, 0, 3, X86_64[name]), (load, 0, 0, 16 + 8 * argument), (equal, 0, 1, value),
                        (give, 0, 0, 0x50000 | error)]
    program.append((give, 0, 0, 0x7FFF0000))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    head = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))

    def install():
        LIBC.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        if LIBC.prctl(22, 2, head, 0, 0) != 0:  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
            os._exit(99)
    install.code = code
    return install


def holds_under(calls, error, more=()):
    """Who lives keeps its places; who was killed gives them back, or a line says that nothing is limited at all."""
    with Place() as place:
        server = place.serve("total-conns=4", *BUSY, workers=3, filtered=forbid(calls, error), more=more)
        lines = [line for line in said(server).splitlines() if "backpressure:" in line]
        told = place.come(server, 8)
        if lines:
            return lines
        assert inside(told) == 4, (calls, error, told)
        # A second look, and a third, at processes that live.
        assert inside(place.come(server, 4)) == 0, (calls, error)
        holder = int(next(word for word in told if word.isdigit()))
        held = told.count(str(holder))
        if holder != server.pid:
            os.kill(holder, signal.SIGKILL)
            wait_until(lambda: inside(place.come(server, 1)) == 1, f"a place of the dead ({calls}, {error})")
            assert inside(place.come(server, 4)) == held - 1, (calls, error)
        return []


def test_calls_that_a_sandbox_forbids():
    if os.uname().machine != "x86_64":
        return
    for what, call in RELIED_ON.items():
        for name, error in ERRORS.items():
            lines = holds_under([call], error)
            assert not lines, f"{what} says {name}: {lines}"


def test_program_that_polls_where_ppoll_is_forbidden():
    """What the shim asks in place of the program's poll is not what the program may call."""
    if os.uname().machine != "x86_64":
        return
    for error in ERRORS.values():
        lines = holds_under([RELIED_ON["ppoll"]], error, ("poll",))
        assert not lines, lines


def test_all_of_them_at_once():
    if os.uname().machine != "x86_64":
        return
    for error in ERRORS.values():
        lines = holds_under(list(RELIED_ON.values()), error)
        assert len(lines) <= 1, lines


# --- memory ---

def test_tables_grow_on_a_full_file_system():
    """What does not fit any more is not counted, and says so; nobody dies of it."""
    with Place() as place:
        mount_over(place, "100k")
        server = place.serve("total-conns=2000")
        told = place.come(server, 1500)
        assert inside(told) == 1500, told.count("no")
        assert server.poll() is None and "truncated" not in said(server), said(server)
        totals = place.show()["totals"]
        assert totals["conns"] + totals["untracked"] == 1500 and totals["untracked"] > 0, totals


def test_segment_takes_what_is_used():
    with Place() as place:
        server = place.serve("total-conns=3", *BUSY, workers=3)
        place.come(server, 5)
        used = os.stat(f"{place.directory}/{NAME}").st_blocks * 512
        assert used < 300 * 1024, f"{used} bytes"


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("needs root, for pid namespaces")
    sys.exit(run_tests(globals(), sys.argv[1:]))
