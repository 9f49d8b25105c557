#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""What backing off does for the server: unmodified clients, bare and under the shim, for people to read.

    clients.py
"""
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "servers"))
import test_clients as clients  # noqa: E402

CROWD = 200
DOWN_SECONDS = 5
BIN_SECONDS = 0.1
STORM_CLIENTS = 500
STORM_CEILING = 50


def histogram(arrivals):
    """Arrivals in each tenth of a second, from the first one on."""
    bins = [0] * (int((max(arrivals) - min(arrivals)) / BIN_SECONDS) + 1)
    for arrival in arrivals:
        bins[int((arrival - min(arrivals)) / BIN_SECONDS)] += 1
    return bins


LOCK_STEP = clients.PREAMBLE + """
def client():
    while connect(("127.0.0.1", int(sys.argv[1])))[1] != 0:
        time.sleep(0.5 - time.time() % 0.5)
threads = [threading.Thread(target=client) for i in range(int(sys.argv[2]))]
[t.start() for t in threads]; [t.join() for t in threads]
"""


def bare_in_step(port):
    subprocess.run([clients.PYTHON, "-c", LOCK_STEP, str(port), str(CROWD)], check=True)


def under_the_shim(port):
    service = clients.Service("connect-retries=50 backoff=100ms..2s retry-budget=off")
    crowd = [service.start("bash", "-c", f"read line < /dev/tcp/127.0.0.1/{port} && echo $line")
             for _ in range(CROWD)]
    for client in crowd:
        client.communicate(timeout=120)


def return_of_the_server():
    """200 clients meet a server that is down for five seconds. Bare ones try again twice a second, in step."""
    port = clients.free_port()
    for name, run in (("bare", bare_in_step), ("shim", under_the_shim)):
        with clients.Server(("127.0.0.1", port), after=DOWN_SECONDS) as server:
            began = time.monotonic()
            run(port)
            took = time.monotonic() - began
        # From the server's return on, over the two seconds that a wait lasts at most.
        bins = histogram(server.arrivals) + [0] * 20
        mean = len(server.arrivals) / 20
        print(f"  {name}: {len(server.arrivals)} served after {took:.1f} s; busiest tenth of a second "
              f"{max(bins) / mean:.1f} times the mean\n    " + " ".join(map(str, bins[:20])), flush=True)


SERVER = """
import sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep(0.2)
        self.send_response(200); self.end_headers(); self.wfile.write(b"hello")
    def log_message(self, *_): pass
class Server(ThreadingHTTPServer): request_queue_size = 1000
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def retry_storm():
    """500 clients of a server with 50 places under when-full=reset, each until it is served."""
    for name, limits in (("at once", None), ("shim", "connect-retries=10 backoff=50ms..2s")):
        port = clients.free_port()
        server = subprocess.Popen([clients.BUILD + "/bpctl", "run", "--name", f"storm-{os.getpid()}-{port}",
                                   f"total-conns={STORM_CEILING}", "when-full=reset", "--", clients.PYTHON, "-c",
                                   SERVER, str(port)])
        try:
            clients.wait_for(port)
            environment = clients.Service(limits).environment if limits else None
            served, attempts, took = clients.persistent_clients(port, STORM_CLIENTS, environment)
            print(f"  {name}: {served} of {STORM_CLIENTS} served in {took:.1f} s, {attempts} attempts", flush=True)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    print(f"{CROWD} clients, a server that comes up after {DOWN_SECONDS} s: arrivals in each tenth of a second")
    return_of_the_server()
    print(f"{STORM_CLIENTS} clients, {STORM_CEILING} at a time, the others are reset")
    retry_storm()
    subprocess.run([clients.BUILD + "/bpctl", "ls"], check=False, capture_output=True)
