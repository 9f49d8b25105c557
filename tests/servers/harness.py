# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""What the tests in Python share: ports, waiting for a condition, and running those that were asked for."""
import os
import socket
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


def run_tests(functions, names):
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
