#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The shim beside other preloaded libraries, in both orders; under valgrind, gdb and strace; under programs
built with ASan; in a chroot, after setuid, in new namespaces: servers serve, and the ceiling holds.

    test_neighbours.py [NAME]...      only tests whose name contains one of these
"""
import contextlib
import functools
import json
import os
import re
import socket
import subprocess
import sys
import tempfile

import harness
from harness import free_port, needs_root, run_tests

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "bench"))
import syscalls  # noqa: E402

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
BPCTL = BUILD + "/bpctl"
SHIM = BUILD + "/libbackpressure.so"
PYTHON = "/usr/bin/python3"
wait_until = functools.partial(harness.wait_until, patience=30)
CEILING = 3
LIBDIR = f"/usr/lib/{os.uname().machine}-linux-gnu"
NEIGHBOURS = {
    "jemalloc": (LIBDIR + "/libjemalloc.so.2", {}),
    "libfaketime": (LIBDIR + "/faketime/libfaketime.so.1", {"FAKETIME": "+15d x3"}),
    "socket_wrapper": (LIBDIR + "/libsocket_wrapper.so", {}),
    "trickle": (LIBDIR + "/trickle/trickle-overload.so",
                {"TRICKLE_DOWNLOAD_LIMIT": "20000", "TRICKLE_UPLOAD_LIMIT": "20000", "TRICKLE_VERBOSE": "0",
                 "TRICKLE_WINDOW_SIZE": "0", "TRICKLE_ARGV": "server", "TRICKLE_SOCKNAME": "", "TRICKLE_TSMOOTH": "3.0",
                 "TRICKLE_LSMOOTH": "20"}),
}
# Echoes a line; keeps clients until they leave.
SERVER = """
import os, socket, sys, threading
exec(os.environ.get("PRELUDE", ""))
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=64)
def talk(client):
    with client:
        while (line := client.recv(4096)):
            client.sendall(line)
while True:
    threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()
"""
# Asks from inside whatever the server is in: a wrapped network, a namespace.
CLIENT = """
import socket, sys
held, refused = [], 0
for number in range(int(sys.argv[2])):
    client = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 20)
    try:
        client.sendall(b"hello %d\\n" % number)
        answer = client.recv(4096)
    except ConnectionError:
        answer = b""
    if answer == b"hello %d\\n" % number:
        held.append(client)
    elif answer in (b"", b"no"):
        refused += 1
    else:
        raise SystemExit("other bytes: %r" % answer)
print(len(held), refused)
"""


class Guest:
    """The server, started by `command`, with the shim and what else stands in `preload`."""

    def __init__(self, command=(PYTHON, "-c", SERVER), preload=(SHIM,), environment=None, wrapper=()):
        self.port = free_port()
        self.name = f"neighbours-{os.getpid()}-{self.port}"
        self.log = tempfile.TemporaryFile()
        preloaded = ":".join(preload)
        self.environment = {**os.environ, **(environment or {}), "LD_PRELOAD": preloaded,
                            "BACKPRESSURE": f"name={self.name} total-conns={CEILING} when-full=busy busy=text:no"}
        if wrapper:  # tools that would otherwise be under the shim themselves
            wrapper = [part.format(**self.environment) for part in wrapper]
            del self.environment["LD_PRELOAD"]
        self.process = subprocess.Popen([*wrapper, *command, str(self.port)], env=self.environment, stdout=self.log,
                                        stderr=self.log, start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)
        self.process.wait()
        subprocess.run([BPCTL, "ls"], capture_output=True, check=False)

    def said(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-3000:]

    def listens(self):
        shown = self.show()
        return self.process.poll() is not None or (shown and shown["listeners"])

    def show(self):
        result = subprocess.run([BPCTL, "show", self.name, "--json"], capture_output=True, text=True, check=False)
        return json.loads(result.stdout) if result.returncode == 0 else None

    def check(self, clients=CEILING + 2, environment=None, prefix=(), patience=60, inside=CEILING):
        """Of so many that stay, `inside` are in, the others hear 'no'; and again, after they left."""
        for _ in range(2):
            def ask():
                asked = subprocess.run([*prefix, PYTHON, "-c", CLIENT, str(self.port), str(clients)], text=True,
                                       capture_output=True, env={**os.environ, **(environment or {})}, timeout=120,
                                       check=False)
                self.answer = asked.stdout + asked.stderr
                return asked.stdout.strip() == f"{inside} {clients - inside}"
            wait_until(lambda: self.process.poll() is not None or ask(),
                       lambda: f"{inside} of {clients} inside (was: {self.answer}; {self.said()})", patience=patience)
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.said()}"
        return self.said()


def beside(name, shim_first):
    library, environment = NEIGHBOURS[name]
    assert os.path.exists(library), f"{library} is not installed"
    preload = (SHIM, library) if shim_first else (library, SHIM)
    with tempfile.TemporaryDirectory() as directory:
        inside = {}
        if name == "socket_wrapper":
            environment = {"SOCKET_WRAPPER_DIR": directory, "SOCKET_WRAPPER_DEFAULT_IFACE": "1"}
            inside = {**environment, "LD_PRELOAD": library}
        with Guest(preload=preload, environment=environment) as guest:
            # In front, socket_wrapper asks libc itself, past everybody: the program is unharmed, and unlimited.
            past = name == "socket_wrapper" and not shim_first
            said = guest.check(environment=inside, inside=CEILING + 2 if past else CEILING)
            assert "backpressure:" not in said, said


def test_beside_jemalloc():
    beside("jemalloc", True)
    beside("jemalloc", False)


def test_beside_libfaketime():
    beside("libfaketime", True)
    beside("libfaketime", False)


def test_beside_socket_wrapper():
    beside("socket_wrapper", True)
    beside("socket_wrapper", False)


def test_beside_trickle():
    beside("trickle", True)
    beside("trickle", False)


def test_under_strace():
    with Guest(wrapper=("strace", "-f", "-o", "/dev/null", "-E", "LD_PRELOAD={LD_PRELOAD}")) as guest:
        guest.check()


def system_calls(limits, connections, requests):
    """Those that an echo server makes from its start to its end, for so many clients and requests of each: but for
    waiting and looking, of which there are more or fewer as its clients are slow or fast."""
    port = free_port()
    environment = ["-E", f"LD_PRELOAD={SHIM}", "-E", f"BACKPRESSURE=name=calls-{port} {limits}"] if limits else []
    with tempfile.NamedTemporaryFile("r") as summary:
        tracer = subprocess.Popen(["strace", "-f", "-c", "-o", summary.name, *environment, BUILD + "/tests/echo", "level",
                                   str(port)])
        for _ in range(connections):
            with wait_until(lambda: harness.connected(port), "the server on its port") as client:
                for _ in range(requests):
                    client.sendall(b"x")
                    assert client.recv(1) == b"x"
        with open(f"/proc/{tracer.pid}/task/{tracer.pid}/children", encoding="ascii") as children:
            os.kill(int(children.read()), 15)
        tracer.wait()
        subprocess.run([BPCTL, "ls"], capture_output=True, check=False)
        made = {line.split()[-1]: int(line.split()[3]) for line in summary if re.match(r" *\d", line)}
        return sum(count for name, count in made.items()
                   if name != "total" and not re.match("epoll_p?wait|accept|read|recv", name))


def test_no_request_costs_a_system_call_more():
    """And a connection one: who it is; with queue-delay another: how long it waited; with stall: whether it blocks.
    No ceiling is near."""
    def each(limits):
        few, many, long = (system_calls(limits, *work) for work in ((20, 1), (60, 1), (20, 51)))
        return (long - few) / 20 / 50, (many - few) / 40
    request, connection = each(None)
    for limits, more in (("total-conns=1000 conns=500", 1), ("total-conns=1000 conns=500 queue-delay=50ms", 2),
                         ("stall=60s", 2)):
        shimmed = each(limits)
        assert shimmed[0] < request + 0.1, f"{limits}: {shimmed[0]} system calls a request, {request} bare"
        assert shimmed[1] < connection + more + 0.3, f"{limits}: {shimmed[1]} a connection, {connection} bare"


def test_accept_listen_and_connect_cost_these_system_calls_more():
    """Counted one by one; no ceiling is near."""
    who, known, listens = ("fstat", ""), ("getsockopt", "TCP_INFO"), dict.fromkeys(
        (("getsockopt", "SO_COOKIE"), ("getsockname", ""), ("getsockopt", "SO_PROTOCOL")), 1)
    ceiling = "total-conns=1000 conns=500"
    accepts = {"blocking": {who: 1, ("ppoll", ""): 2},
               "blocking-with-handler": {who: 1, ("ppoll", ""): 2, ("rt_sigprocmask", ""): 2},
               "poll-blocking": {who: 1, ("ppoll", ""): 1},
               **{style: {who: 1} for style in ("non-blocking", "poll", "select", "epoll")}}
    assert set(accepts) == set(syscalls.ACCEPTS)
    stream = {who: 1, ("getsockopt", "SO_TYPE"): 1}
    retried = {**stream, ("getsockopt", "SO_ERROR"): 1}
    for thing, style, limits, more in (
            *(("accept", style, ceiling, more) for style, more in accepts.items()),
            *(("accept", style, ceiling + " queue-delay=10s", {**more, known: 1}) for style, more in accepts.items()),
            ("listen", "listen", ceiling, listens),
            ("connect", "blocking", ceiling, {}), ("connect", "non-blocking", ceiling, {}),
            ("connect", "blocking", "connect-conns=500", stream), ("connect", "non-blocking", "connect-conns=500", stream),
            ("connect", "blocking", "connect-retries=3", retried),
            ("connect", "non-blocking", "connect-retries=3", {**retried, ("getpeername", ""): 1})):
        added = syscalls.added(thing, style, limits)
        assert added == more, f"{thing}, {style}, {limits}: {added}, not {more}"
        assert all(call in syscalls.REASONS for call in added)


def test_under_gdb():
    with Guest(wrapper=("gdb", "-q", "-batch", "-ex", "set environment LD_PRELOAD {LD_PRELOAD}", "-ex", "run",
                        "--args")) as guest:
        said = guest.check()
        assert "SIGSEGV" not in said, said


def test_under_valgrind():
    """memcheck finds nothing in the shim; suppressions are for nobody."""
    with Guest(command=(BUILD + "/tests/echo", "threads"),
               wrapper=("valgrind", "-q", "--error-exitcode=9", "--trace-children=yes",
                        "env", "LD_PRELOAD={LD_PRELOAD}")) as guest:
        said = guest.check(patience=120)
        complaints = re.findall(r"==\d+==.*libbackpressure.*", said)
        assert not complaints, said


def test_under_a_program_built_with_asan():
    with tempfile.TemporaryDirectory() as directory:
        source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "echo.c")
        subprocess.run(["gcc", "-std=c11", "-D_GNU_SOURCE", "-g", "-fsanitize=address,undefined", "-o", directory + "/echo",
                        source, "-pthread"], check=True)
        runtime = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True,
                                 check=True).stdout.strip()
        for style in ("threads", "edge"):
            with Guest(command=(directory + "/echo", style), preload=(os.path.realpath(runtime), SHIM),
                       environment={"ASAN_OPTIONS": "detect_leaks=0"}) as guest:
                said = guest.check()
                assert "ERROR: AddressSanitizer" not in said and "runtime error" not in said, said


def as_root(test):
    def run():
        needs_root()
        test()
    run.__doc__ = test.__doc__
    return run


@as_root
def test_after_setuid():
    with Guest(environment={"PRELUDE": "os.setgroups([]); os.setresgid(65534, 65534, 65534); "
                                       "os.setresuid(65534, 65534, 65534)"}) as guest:
        guest.check()


@as_root
def test_in_a_chroot():
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        with Guest(environment={"PRELUDE": f"import encodings.idna; os.chroot({directory!r}); os.chdir('/')"}) as guest:
            guest.check()


@as_root
def test_in_new_namespaces():
    """network, mount and pid namespaces that the program made for itself, after it had started."""
    prelude = "import subprocess; subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)"
    for flags in (("--net",), ("--mount", "--pid", "--fork"), ("--net", "--mount", "--pid", "--fork")):
        net = "--net" in flags
        with Guest(command=("unshare", *flags, PYTHON, "-c", SERVER),
                   environment={"PRELUDE": prelude if net else ""}) as guest:
            def inner():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    pid = guest.process.pid
                    children = open(f"/proc/{pid}/task/{pid}/children", encoding="ascii").read().split()
                    return int(children[0]) if "--fork" in flags else pid
                return None
            wait_until(inner, "the server's process")
            wait_until(lambda: guest.process.poll() is not None or os.path.exists(f"/proc/{inner()}/ns/net"), "its namespace")
            guest.check(prefix=("nsenter", f"--net=/proc/{inner()}/ns/net") if net else ())


def test_with_the_highest_descriptors_there_are():
    """A million, where the machine lets its processes have them."""
    prelude = ("import fcntl, resource; most = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 1000000)\n"
               "resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))\n"
               "real = socket.socket.accept\n"
               "def accept(self):\n"
               "    client, address = real(self)\n"
               "    high = fcntl.fcntl(client.fileno(), fcntl.F_DUPFD_CLOEXEC, most - most // 8 * len(threading.enumerate()))\n"
               "    client.close()\n"
               "    return socket.socket(fileno=high), address\n"
               "socket.socket.accept = accept\n")
    with Guest(environment={"PRELUDE": prelude}) as guest:
        guest.check()


if __name__ == "__main__":
    sys.exit(run_tests(globals(), sys.argv[1:]))
