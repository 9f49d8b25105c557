#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Listeners that come and go: closed ones leave the service's table, and cost the next ones nothing.

    test_listeners.py [NAME]...      only tests whose name contains one of these
"""
import json
import os
import re
import subprocess
import sys
import tempfile

import harness
from harness import run_tests

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
BPCTL = BUILD + "/bpctl"
SHIM = BUILD + "/libbackpressure.so"
PYTHON = "/usr/bin/python3"
TABLE = 256
# Says what happened, and goes on when it is told to.
PROLOGUE = """
import os, socket, sys, signal, subprocess
def listen():
    return socket.create_server(("127.0.0.1", 0), backlog=8)
def told(text):
    print(text, flush=True)
    sys.stdin.readline()
"""


class Guest:
    def __init__(self, program, limits="total-conns=2"):
        self.name = f"listeners-{os.getpid()}-{os.urandom(4).hex()}"
        self.process = subprocess.Popen([PYTHON, "-c", PROLOGUE + program], text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, start_new_session=True,
                                        env={**os.environ, "LD_PRELOAD": SHIM,
                                             "BACKPRESSURE": f"name={self.name} {limits}"})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.killpg(self.process.pid, 9)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        subprocess.run([BPCTL, "ls"], capture_output=True, check=False)

    def told(self):
        return self.process.stdout.readline().split()

    def go_on(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def bpctl(self, *arguments):
        return subprocess.run([BPCTL, *arguments], capture_output=True, text=True, check=True).stdout

    def listeners(self):
        return {listener["address"] for listener in json.loads(self.bpctl("show", self.name, "--json"))["listeners"]}

    def full(self):
        return self.bpctl("events", self.name, "--json").count("table_full")


def addresses(ports):
    return {f"127.0.0.1:{port}" for port in ports}


def test_ten_thousand_listeners_that_were_closed():
    """Those that live are shown, nothing is full, and the ceiling holds."""
    with Guest("""
kept = [listen() for _ in range(3)]
for _ in range(10000):
    listen().close()
kept.append(listen())
told(" ".join(str(one.getsockname()[1]) for one in kept))
kept[-1].setblocking(True)
inside = []
while True:
    inside.append(kept[-1].accept()[0])
    print(len(inside), flush=True)
""") as guest:
        ports = guest.told()
        assert guest.listeners() == addresses(ports), (guest.listeners(), ports)
        assert guest.full() == 0
        guest.go_on()
        clients = [harness.connected(int(ports[-1])) for _ in range(4)]
        assert guest.told() == ["1"] and guest.told() == ["2"]
        clients.pop(0).close()
        # Held until the place of one that the server closes: it closes none, so that no third is let in.
        shown = json.loads(guest.bpctl("show", guest.name, "--json"))
        assert shown["totals"]["conns_peak"] == 2, shown["totals"]
        for client in clients:
            client.close()


def test_listeners_of_processes_that_are_killed():
    with Guest(f"""
kept = listen()
for _ in range(40):
    child = os.fork()
    if child == 0:
        many = [listen() for _ in range(20)]
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    one = listen()
    one.close()
told(kept.getsockname()[1])
""") as guest:
        expected = addresses(guest.told())
        assert guest.listeners() == expected
        assert guest.full() == 0


def test_closed_by_all_who_shared_it():
    """A listener that children inherited leaves with the last of them, and not before."""
    with Guest(f"""
for _ in range({TABLE} + 50):
    one = listen()
    child = os.fork()
    if child == 0:
        one.close()
        os._exit(0)
    one.close()
    os.waitpid(child, 0)
shared = listen()
child = os.fork()
if child == 0:
    signal.pause()
port = shared.getsockname()[1]
shared.close()
for _ in range(20):
    listen().close()
told(port)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
told("gone")
""") as guest:
        expected = addresses(guest.told())
        assert guest.listeners() == expected
        assert guest.full() == 0
        guest.go_on()
        guest.told()
        assert guest.listeners() == set()


def test_closed_unseen():
    """By a call that no library sees: the next listener on the number takes its place."""
    with Guest(f"""
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(b"\\x48\\xc7\\xc0\\x03\\x00\\x00\\x00\\x0f\\x05\\xc3")  # close(2) by itself
close = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
for _ in range({TABLE} * 2):
    close(listen().detach())
kept = listen()
told(kept.getsockname()[1])
""") as guest:
        if os.uname().machine == "x86_64":
            expected = addresses(guest.told())
            assert guest.listeners() == expected
            assert guest.full() == 0


def test_a_full_table_is_said_once():
    with Guest(f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (2048, 2048))
kept = [listen() for _ in range({TABLE} + 40)]
for _ in range(100):
    listen().close()
told(len(kept))
for one in kept[:100]:
    one.close()
late = listen()
told(late.getsockname()[1])
""") as guest:
        guest.told()
        assert guest.full() == 1, guest.bpctl("events", guest.name)
        guest.go_on()
        assert addresses(guest.told()) <= guest.listeners()
        assert guest.full() == 1


def test_a_listen_costs_three_system_calls_more():
    """Who it is, its address, its protocol; nothing for the close; whatever was listened on before."""
    program = PROLOGUE + "for _ in range(int(sys.argv[1])): listen().close()"

    def made(shim, rounds):
        preload = ["-E", f"LD_PRELOAD={SHIM}", "-E", f"BACKPRESSURE=name=listens-{os.urandom(4).hex()} total-conns=9"]
        with tempfile.NamedTemporaryFile("r") as summary:
            subprocess.run(["strace", "-f", "-c", "-o", summary.name, *(preload if shim else []), PYTHON, "-c", program,
                            str(rounds)], check=True)
            return sum(int(line.split()[3]) for line in summary if re.match(r" *\d.*\b\w+$", line) and "total" not in line)
    bare, shimmed = ((made(shim, 800) - made(shim, 300)) / 500 for shim in (False, True))
    subprocess.run([BPCTL, "ls"], capture_output=True, check=False)
    assert shimmed <= bare + 3.2, f"{shimmed} system calls a listener, {bare} bare"


if __name__ == "__main__":
    sys.exit(run_tests(globals(), sys.argv[1:]))
