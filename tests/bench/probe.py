#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""What the eBPF probe costs: throughput with and without it in turn, and one walk at many sockets.

    probe.py [PAIRS] [soak SECONDS]
"""
import json
import os
import random
import re
import resource
import socket
import subprocess
import sys
import time

sys.argv, ARGUMENTS = sys.argv[:1], sys.argv[1:]
sys.path.insert(0, os.path.dirname(__file__))
import buffers  # noqa: E402

PAIRS = int(ARGUMENTS[0]) if ARGUMENTS and ARGUMENTS[0].isdigit() else 11
SOCKETS = "/sys/fs/bpf/backpressure/sockets"
BPCTL = buffers.BUILD + "/bpctl"


def probe(action):
    subprocess.run([BPCTL, "probe", action], stdout=subprocess.DEVNULL, check=True)


def throughput(kind):
    def with_probe():
        probe("start")
        try:
            return server.load()[0]
        finally:
            probe("stop")

    with kind(None) as server:
        buffers.PAIRS = PAIRS
        ratio = buffers.in_turns(lambda: server.load()[0], with_probe)
    print(f"{kind.name:6} with the probe, {kind.load_name}: {ratio[0]:.3f} of without"
          f"  (median of {PAIRS} pairs, {ratio[1]:.2f} to {ratio[2]:.2f})", flush=True)


def walk_cost():
    """Processor time of one reading of the table, least of five."""
    least = None
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_SELF)
        with open(SOCKETS, "rb", buffering=0) as table:
            while table.read(1 << 16):
                pass
        after = resource.getrusage(resource.RUSAGE_SELF)
        spent = after.ru_stime + after.ru_utime - before.ru_stime - before.ru_utime
        least = spent if least is None else min(least, spent)
    return least


def walks():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(4096)
    ends = []
    probe("start")
    nothing = walk_cost()
    for count in (10, 1000, 10000):
        while len(ends) < count:
            ends.append(socket.create_connection(listener.getsockname()))
            ends.append(listener.accept()[0])
        cost = walk_cost()
        print(f"one walk with {len(ends):5} sockets more: {cost * 1e3:6.2f} ms, "
              f"{(cost - nothing) / len(ends) * 1e9:5.0f} ns for each of them", flush=True)
    probe("stop")
    for end in ends:
        end.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def map_entries(name):
    output = subprocess.run(["bpftool", "-j", "map", "dump", "pinned",
                             f"/sys/fs/bpf/backpressure/{name}"],
                            capture_output=True, text=True, check=True).stdout
    return json.loads(output)


def soak(seconds):
    """Connects and closes without end, to servers that come and go; looks at what the maps hold."""
    probe("start")
    most = {"depth": 0, "accept_wait": 0}
    connections, servers, strays = 0, 0, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with buffers.Redis(None) as server:
            servers += 1
            until = time.monotonic() + random.uniform(1, 5)
            while time.monotonic() < until:
                clients = [socket.create_connection(("127.0.0.1", server.port))
                           for _ in range(random.randint(1, 200))]
                connections += len(clients)
                for client in clients:
                    client.close()
        time.sleep(0.5)
        for name in most:
            entries = map_entries(name)
            most[name] = max(most[name], len(entries))
            for entry in entries:
                key = entry.get("formatted", entry)["key"]
                if not os.path.exists(f"/proc/{key['process']}"):
                    strays += 1
    left = {name: len(map_entries(name)) for name in most}
    probe("stop")
    print(f"{seconds} s, {connections} connections to {servers} servers: at most {most['depth']} entries "
          f"in depth, {most['accept_wait']} in accept_wait; {left['depth']} and {left['accept_wait']} "
          f"at the end; {strays} outlived their process", flush=True)


def main():
    if "soak" in ARGUMENTS:
        soak(int(ARGUMENTS[-1]))
        return
    walks()
    for kind in (buffers.Nginx, buffers.Redis):
        throughput(kind)


if __name__ == "__main__":
    main()
