#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""How people look inside: BACKPRESSURE_TRACE, and gdb's view of a segment.

    test_debugging.py [NAME]...      only tests whose name contains one of these
"""
import contextlib
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

from harness import Skipped, run_tests

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
BUILD = os.path.abspath(os.environ.get("BUILD", ROOT + "/build"))
LIBRARY = BUILD + "/libbackpressure.so"
PYTHON = "/usr/bin/python3"
SUBJECTS = "accept output wait connect segment".split()
LINE = re.compile(r"backpressure: trace \d+\.\d{6} (\d+)/(\d+) (\w+) ([a-z-]+)((?: [a-z_-]+=\d+)*)")

START = """
import errno, os, select, socket, sys
listener = socket.create_server(("127.0.0.1", 0), backlog=8)
def client():
    return socket.create_connection(listener.getsockname())
"""


def environment(limits, **more):
    name = f"debugging-{os.getpid()}-{os.urandom(4).hex()}"
    plain = {key: value for key, value in os.environ.items() if key != "BACKPRESSURE_TRACE"}
    return {**plain, "LD_PRELOAD": f"{os.environ.get('SANITIZER_RUNTIME', '')}:{LIBRARY}".lstrip(":"),
            "BACKPRESSURE": f"name={name} {limits}", **more}


def said(program, limits, subjects=None):
    """What a program says on stderr, line by line."""
    more = {} if subjects is None else {"BACKPRESSURE_TRACE": subjects}
    ran = subprocess.run([PYTHON, "-S", "-c", START + program], env=environment(limits, **more), capture_output=True,
                         text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stderr.splitlines()


def steps(lines):
    """(subject, what, {name: number}) of each line."""
    told = []
    for line in lines:
        match = LINE.fullmatch(line)
        assert match, line
        told.append((match[3], match[4], {k: int(v) for k, v in (pair.split("=") for pair in match[5].split())}))
    return told


def names(lines, subject):
    told = steps(lines)
    assert {step[0] for step in told} == {subject}, told
    return [step[1] for step in told]


SERVE_TWO = """
first, second = client(), client()
served, _ = listener.accept()
listener.settimeout(0.05)
try:
    listener.accept()
    sys.exit("a second one was accepted")
except (TimeoutError, BlockingIOError, ConnectionAbortedError):
    pass
served.close()
"""


def test_nothing_is_traced_unless_asked():
    assert said(SERVE_TWO, "conns=1") == []
    assert said(SERVE_TWO, "conns=1", "") == []
    assert said(SERVE_TWO, "conns=1", "connect") == []


def test_accept_tells_who_is_admitted_and_who_is_not():
    told = steps(said(SERVE_TWO, "conns=1 when-full=reset", "accept"))
    assert [step[:2] for step in told][:1] == [("accept", "commit")], told
    assert told[0][2]["total-conns"] == 1 and "fd" in told[0][2], told
    what = [step[1] for step in told]
    assert what.index("no-slot-conns") < what.index("refuse") < what.index("free"), told
    what = names(said(SERVE_TWO, "conns=1", "accept"), "accept")
    assert what.index("commit") < what.index("hold") < what.index("free"), what


def test_wait_tells_of_listeners_out_of_sight():
    program = """
listener.setblocking(False)
poll = select.epoll()
poll.register(listener, select.EPOLLIN)
first = client()
assert poll.poll(10)
served, _ = listener.accept()
second = client()
assert not poll.poll(0.05)
served.close()
assert poll.poll(10)
"""
    told = steps(said(program, "conns=1", "wait"))
    what = [step[1] for step in told]
    assert what.index("mask") < what.index("show") and what.index("holding") < what.index("holding-over"), told
    masked, shown = ([step[2]["fd"] for step in told if step[1] == kind][0] for kind in ("mask", "show"))
    assert masked == shown, told


def test_output_tells_of_grants_and_of_reads_that_pause():
    program = """
reader = client()
served, _ = listener.accept()
served.setblocking(False)
poll = select.epoll()
poll.register(served, select.EPOLLIN | select.EPOLLOUT)
sent = refused = 0
while refused < 2:
    try:
        sent += served.send(bytes(1 << 16))
    except BlockingIOError:
        refused += 1
        received = 0
        while refused < 2 and received < sent:
            received += len(reader.recv(1 << 20))
reader.sendall(b"one more")
assert not poll.poll(0.05)
"""
    what = names(said(program, "buffer=4M", "output"), "output")
    assert "grant-grow" in what and "pause-reads" in what, what


def test_connect_tells_of_tries():
    program = """
address = listener.getsockname()
listener.close()
try:
    socket.create_connection(address)
    sys.exit("somebody listens")
except ConnectionRefusedError:
    pass
"""
    told = steps(said(program, "connect-retries=2 backoff=1ms..2ms retry-budget=off", "connect"))
    assert [step[1] for step in told] == ["try", "retry", "try", "retry", "try"], told
    assert [step[2]["number"] for step in told if step[1] == "retry"] == [1, 2], told
    assert all(step[2]["errno"] == 111 for step in told if step[1] == "try"), told


def test_segment_tells_of_processes():
    told = steps(said("if os.fork() == 0: os._exit(0)\nos.wait()\n", "conns=1", "segment"))
    what = [step[1] for step in told]
    assert what == ["enter", "enter-after-fork", "reap"], told
    assert told[1][2]["parent"] != told[2][2]["pid"], told


def test_several_subjects_and_all():
    some = {step[0] for step in steps(said(SERVE_TWO, "conns=1", "segment,accept"))}
    assert some == {"segment", "accept"}, some
    every = {step[0] for step in steps(said(SERVE_TWO, "conns=1", "all"))}
    assert {"segment", "accept", "wait"} <= every, every


def test_a_name_that_is_none_is_said_once():
    program = "if os.fork() == 0: os.execv(sys.executable, [sys.executable, '-S', '-c', ''])\nos.wait()\n"
    lines = said(program, "conns=1", "accept,nonsense,segment")
    unknown = [line for line in lines if "nonsense" in line]
    assert len(unknown) == 1 and unknown[0].startswith("backpressure: BACKPRESSURE_TRACE: "), lines
    assert all(subject in unknown[0] for subject in SUBJECTS + ["all"]), unknown
    what = [step[1] for step in steps([line for line in lines if line not in unknown])]
    assert what == ["enter", "enter-after-fork", "enter-after-exec", "reap"], what


def test_the_man_page_has_every_subject():
    with open(ROOT + "/tools/man/libbackpressure.so.8", encoding="utf-8") as page:
        text = page.read()
    section = text.split(".B BACKPRESSURE_TRACE")[1].split(".SH")[0]
    for subject in SUBJECTS + ["all"]:
        assert f"\n.B {subject}\n" in section, subject


# --- documents for people who work on it ---

FLOORS = "base limits segment process fd dialects policy accept requests output wait connect interpose".split()


def there(place):
    """A file, a folder or a room; a floor may be left out."""
    stems = [ROOT + "/" + place, ROOT + "/shim/" + place]
    if place.split("/")[0] in FLOORS:
        stems.append(ROOT + "/shim/" + place.split("/", 1)[1])
    return any(glob.glob(stem + end) for stem in stems for end in ("", ".c", ".h"))


def test_documents_name_what_is_there():
    for document in ("CONTRIBUTING.md", "shim/README.md"):
        with open(f"{ROOT}/{document}", encoding="utf-8") as file:
            text = file.read()
        places = set(re.findall(r"(?<![\w/.-])(?:" + "|".join(FLOORS + ["tools", "tests"]) + r")/[\w/]+(?:\.\w+)?", text))
        assert len(places) > 10, places
        missing = {place for place in places if "NAME" not in place and "FAMILY" not in place and not there(place)}
        assert not missing, (document, missing)


# --- gdb ---

HOLD_ONE = """
first = client()
served, _ = listener.accept()
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
"""


def gdb(*arguments):
    """What gdb says, and its complaints."""
    ran = subprocess.run(["gdb", "-q", "-batch", "-nx", "-iex", "set debuginfod enabled off", "-x",
                          ROOT + "/tools/gdb/backpressure.py", *arguments], capture_output=True, text=True, timeout=120,
                         check=False)
    return ran.stdout, ran.stderr


def of_file(path, library=LIBRARY):
    return gdb("-ex", f"backpressure-segment {path}", library)


@contextlib.contextmanager
def held_client(limits):
    """A server that holds a client: its process, its port, and the file of its segment."""
    if not shutil.which("gdb"):
        raise Skipped("gdb is not installed")
    with tempfile.TemporaryDirectory() as directory, \
            subprocess.Popen([PYTHON, "-S", "-c", START + HOLD_ONE], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             text=True, env={**environment(limits), "BACKPRESSURE_DIR": directory}) as server:
        port = int(server.stdout.readline())
        yield server, port, [f"{directory}/{name}" for name in os.listdir(directory) if name.startswith("debugging-")][0]
        server.stdin.close()
        assert server.wait(60) == 0


def check_view(view, server, port):
    for line in ("  conns=5", "  total-conns=off", "  peer-conns=3", "  when-full=busy",
                 "  queue-delay=50ms", "  buffer=1M", "  accepted 1", "  conns_peak 1"):
        assert f"\n{line}\n" in view, (line, view)
    for pattern in (r"version \d+: 1 connections, admission open", rf"1: pid {server.pid} live python3: 1 conns, 0 outbound",
                    rf"slot \d+ generation \d+ open: held by {server.pid}, inode [1-9]",
                    rf"0: 127\.0\.0\.1:{port}, cookie [1-9]\d*, held by {server.pid}, gate open", r"\d+: 127\.0\.0\.1 1\n"):
        assert re.search(pattern, view), (pattern, view)


def test_gdb_shows_the_segment_of_a_file():
    with held_client("conns=5 peer-conns=3 when-full=busy queue-delay=50ms buffer=1M") as (server, port, path):
        check_view(of_file(path)[0], server, port)


def test_gdb_shows_the_segment_of_a_process():
    with held_client("conns=5 peer-conns=3 when-full=busy queue-delay=50ms buffer=1M") as (server, port, _):
        view, complaints = gdb("-p", str(server.pid), "-ex", "backpressure-segment")
        if "ptrace: Operation not permitted" in complaints:
            raise Skipped("may not trace processes here")
        check_view(view, server, port)


def test_gdb_shows_every_limit_and_counter():
    with held_client("conns=5") as (_, _, path):
        view = of_file(path)[0]
        for table, wanted in (("limits", r'^LIMIT\(\w+, "([^"]+)"'), ("counters", r'^COUNTER\(\w+, "([^"]+)"')):
            part = re.search(rf"^{table}:\n((?:  .*\n)+)", view, re.M)[1]
            with open(master_copy(table + ".def"), encoding="utf-8") as rows:
                assert re.findall(r"^  ([\w-]+)", part, re.M) == re.findall(wanted, rows.read(), re.M), part


def master_copy(name):
    return next(os.path.join(place, name) for place, _, files in os.walk(ROOT + "/shim") if name in files)


def test_gdb_bears_damage():
    with held_client("conns=5") as (server, _, path), tempfile.NamedTemporaryFile() as damaged:
        with open(path, "rb") as whole:
            magic, head, rest = whole.read(8), whole.read(1 << 16), whole.read()
        damaged.write(magic + b"\xff" * len(head) + rest)
        damaged.flush()
        view, complaints = of_file(damaged.name)
        assert "limits:" in view and "peers:" in view and "Traceback" not in complaints, (view[-2000:], complaints)
        damaged.truncate(1000)
        view, complaints = of_file(damaged.name)
        assert "limits:" in view and "Traceback" not in complaints, (view, complaints)
        damaged.truncate(0)
        assert "no control segment" in of_file(damaged.name)[1]
        assert "No such file" in of_file("/nonexistent/segment")[1]
        stripped = damaged.name + ".d"
        os.mkdir(stripped)
        try:
            subprocess.run(["strip", "-o", stripped + "/libbackpressure.so", LIBRARY], check=True)
            assert "has no debugging symbols" in of_file(path, stripped + "/libbackpressure.so")[1]
        finally:
            shutil.rmtree(stripped)
        assert server.poll() is None


if __name__ == "__main__":
    sys.exit(run_tests(globals(), sys.argv[1:]))
