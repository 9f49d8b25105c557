#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""What a limit on requests costs that nothing comes near, in system calls: none a request, and at most one a connection.
Clients ask one after another, so that a program's waits are told of one thing each, and every run makes the same calls.
(Not so where one thread waits while another is at work: it looks on every 20 ms as long as that lasts, and strace makes it last;
nor where each acknowledgement of the client is an edge of its own.)

    test_request_calls.py [NAME]...      only tests whose name contains one of these
"""
import functools
import os
import re
import shutil
import signal
import statistics
import sys

import harness
from answering import BUILD, PATIENCE, RUNTIME, Answerer, Client

STYLES = {"blocking": "prefork", "blocking recvmsg": "prefork reading=recvmsg", "level": "level", "level eager": "level eager",
          "poll": "poll", "select": "select", "AF_UNIX": "level family=unix"}
WITHOUT, WITH = "conns=1000 queue-delay=10s", "conns=1000 queue-delay=10s total-requests=1000"
# Of nobody's connection: as threads meet. TCP_INFO is asked for at most a hundred times a second.
NOT_COUNTED = {"futex", "restart_syscall", "sched_yield", "clock_nanosleep"}
# Whether the end of one client and the next one's coming are told by one wait or by two is the clients' doing.
WAITS = {"ppoll", "poll", "select", "pselect6", "epoll_wait", "epoll_pwait"}
CONNECTIONS, REQUESTS = 15, 8


class Traced(Answerer):
    """Under strace; `trace` is there when it has ended."""

    def shim(self):
        preload = [] if self.bare else ["-E", f"LD_PRELOAD={':'.join(filter(None, [RUNTIME, BUILD + '/libbackpressure.so']))}",
                                        "-E", f"BACKPRESSURE=name={self.name} {' '.join(self.limits)}"]
        return ["strace", "-f", "-o", self.gate.name + ".trace", *preload]

    def __exit__(self, *failed):
        for pid in self.workers():
            os.kill(pid, signal.SIGTERM)
        self.process.wait(timeout=PATIENCE)
        with open(self.gate.name + ".trace", encoding="latin-1") as file:
            self.trace = file.read().splitlines()
        os.unlink(self.gate.name + ".trace")
        super().__exit__(*failed)


def counted(lines, left_out):
    """How many calls begin in these lines."""
    calls = (re.match(r"\d+ +(\w+)\(", line) for line in lines)
    return sum(call is not None and call[1] not in left_out for call in calls) - sum("TCP_INFO" in line for line in lines)


def usual(trace, mark, left_out):
    """How many calls there are from one mark to the next: now and then something is due besides, and now and then two
    events are one. So the quartiles."""
    at = [number for number, line in enumerate(trace) if re.search(mark, line)]
    return statistics.quantiles((counted(trace[start:end], left_out) for start, end in zip(at, at[1:])), n=4)


def calls(style, limits):
    """Of a request, and of a connection with all its requests."""
    with Traced(style, *(limits or "").split(), bare=limits is None) as server:
        for _ in range(CONNECTIONS):
            client = Client(server)
            for number in range(REQUESTS):
                client.ask(0, "one")
                server.answered([client], number + 1)
            client.close()
    return (usual(server.trace, r'"HTTP/1.1 200', NOT_COUNTED),
            usual(server.trace, r"accept4.* = \d+$", NOT_COUNTED | WAITS))


def costs_no_calls(style):
    if not shutil.which("strace"):
        raise harness.Skipped("strace is missing")
    (bare, _), (_, without), (request, connection) = calls(style, None), calls(style, WITHOUT), calls(style, WITH)
    assert request[1] <= bare[1], f"{request} calls a request, {bare} bare"
    assert connection[0] <= without[2] + 1, f"{connection} calls a connection, {without} without the limit on requests"


for name, style in STYLES.items():
    globals()["test_no_calls_" + name.replace(" ", "_")] = functools.partial(costs_no_calls, style)


if __name__ == "__main__":
    sys.exit(harness.run_tests(globals(), sys.argv[1:]))
