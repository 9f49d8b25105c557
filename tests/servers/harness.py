# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""What the tests in Python share: ports, waiting for a condition, and running those that were asked for."""
import atexit
import ctypes
import os
import signal
import socket
import sys
import time
import traceback


def free_port():
    """One that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def connected(port):
    """A connection to it, or None where nobody listens yet."""
    try:
        client = socket.create_connection(("127.0.0.1", port), 20)
    except ConnectionRefusedError:
        return None
    if client.getsockname() != client.getpeername():
        return client
    client.close()  # nobody listens, and it found itself
    return None


def wait_until(condition, what, patience):
    """Waits for the condition, so many seconds, and returns what it came to. `what` is for people, or tells it."""
    deadline = time.monotonic() + patience
    while True:
        outcome = condition()
        if outcome:
            return outcome
        assert time.monotonic() < deadline, f"{what() if callable(what) else what} did not come about"
        time.sleep(0.02)


class Skipped(Exception):
    """Raised by a test that this machine cannot run, with the reason."""


def needs_root():
    if os.geteuid() != 0:
        raise Skipped("needs root")


PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LIBC = ctypes.CDLL(None)


def descendants(ancestor):
    """The pids of all that come from it, itself left out."""
    parents = {}
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as file:
                parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
    found = [ancestor]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def end_all_children():
    """Whatever session or group they are in. What was forked meanwhile is found by the next look."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for pid in descendants(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.02)


def ends_with_all_it_started(work):
    """The exit code of `work`, done in a child. When that ends, or this process is told to end, everything that it started
    ends, too: what is orphaned comes to this process, which waits for the child all the while."""
    sys.stdout.flush()
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    supervisor, child = os.getpid(), os.fork()
    if child == 0:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != supervisor:
            os._exit(1)
        code = 1
        try:
            code = work()
        except KeyboardInterrupt:
            pass
        finally:
            sys.stdout.flush()
            atexit._run_exitfuncs()  # what was to be removed at the end
            os._exit(code)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: os.kill(child, signal.SIGKILL))
    while (ended := os.wait())[0] != child:
        pass
    end_all_children()
    return os.waitstatus_to_exitcode(ended[1]) if os.WIFEXITED(ended[1]) else 1


def run_tests(functions, names):
    """As run_here, and nothing that the tests started outlives them, even if they are killed."""
    return ends_with_all_it_started(lambda: run_here(functions, names))


def run_here(functions, names):
    """Runs each test_... of `functions` whose name contains one of `names`, or all; returns the exit code."""
    tests = [(name[5:].replace("_", " "), test) for name, test in functions.items() if name.startswith("test_")]
    failed = passed = skipped = 0
    for name, test in tests:
        if names and not any(part.replace("_", " ") in name for part in names):
            continue
        try:
            test()
            passed += 1
            print(f"  passed  {name}", flush=True)
        except Skipped as why:
            skipped += 1
            print(f"  skipped  {name}: {why}", flush=True)
        except Exception:  # pylint: disable=broad-except
            failed += 1
            print(f"  FAILED  {name}\n{traceback.format_exc()}", flush=True)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not passed + skipped else 0
