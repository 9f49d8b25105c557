#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""A probe that asks for an exempt path is answered by a full service, whatever becomes of the others.

    test_exempt_requests.py [NAME]...      only tests whose name contains one of these
"""
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile

import harness
from harness import free_port, run_tests

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
BPCTL = BUILD + "/bpctl"
PATIENCE = 30
wait_until = functools.partial(harness.wait_until, patience=PATIENCE)

THREADED = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
NGINX = """daemon off; worker_processes 1; pid %(dir)s/pid; error_log %(dir)s/log; events {}
http { access_log off; client_body_temp_path %(dir)s/b; proxy_temp_path %(dir)s/p; fastcgi_temp_path %(dir)s/f;
uwsgi_temp_path %(dir)s/u; scgi_temp_path %(dir)s/s;
server { listen 127.0.0.1:%(port)s; location / { return 200 "ok"; } } }
"""


class Service:
    """nginx, one event loop, or python, a thread a connection, under limits."""

    def __init__(self, program, *limits):
        self.port = free_port()
        self.name = f"exempt-{os.getpid()}-{self.port}"
        # Below /tmp, where nginx's worker, another user, may go.
        self.place = tempfile.TemporaryDirectory(dir="/tmp")
        os.chmod(self.place.name, 0o755)
        command = ["/usr/bin/python3", "-c", THREADED, str(self.port)]
        if program == "nginx":
            conf = self.place.name + "/conf"
            with open(conf, "w", encoding="ascii") as file:
                file.write(NGINX % {"dir": self.place.name, "port": self.port})
            command = ["nginx", "-c", conf]
        self.process = subprocess.Popen([BPCTL, "run", "--name", self.name, *limits, "--", *command],
                                        stderr=subprocess.DEVNULL)

    def __enter__(self):
        wait_until(lambda: harness.connected(self.port), "a listener")
        wait_until(lambda: self.shown()["totals"]["conns"] == 0, "the first connection to be gone")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.place.cleanup()

    def shown(self):
        shown = subprocess.run([BPCTL, "show", self.name, "--json"], capture_output=True, text=True, check=True)
        return json.loads(shown.stdout)

    def come(self):
        client = socket.create_connection(("127.0.0.1", self.port))
        client.settimeout(PATIENCE)
        return client


def ask(client, path, first=0):
    """The status of the answer, or None at the end; `first` bytes are sent by themselves."""
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    try:
        if first:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(request[:first])
        client.sendall(request[first:])
        head = client.recv(4096)
        while head and b"ok" not in head and b"\n" not in head:
            head += client.recv(4096)
    except ConnectionError:
        return None
    return int(head.split()[1]) if head else None


def probed_when_full(program, policy):
    with Service(program, "total-conns=1", f"when-full={policy}", "exempt-request=/healthz,/readyz") as service:
        inside = service.come()
        assert ask(inside, "/") == 200
        other = service.come()
        if policy == "hold":
            other.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        else:
            assert ask(other, "/") == (503 if policy == "busy" else None)
        for path in "/healthz", "/readyz?full", "/healthz/db":
            assert ask(service.come(), path) == 200, path
        assert ask(service.come(), "/healthz", first=6) == 200
        if policy != "hold":
            assert ask(service.come(), "/healthzz") == (503 if policy == "busy" else None)
            return
        inside.close()
        assert other.recv(4096).split()[1] == b"200", "the one that was held"


def test_a_probe_is_answered_by_a_full_event_loop():
    for policy in "hold", "busy", "reset":
        probed_when_full("nginx", policy)


def test_a_probe_is_answered_by_full_threads():
    for policy in "hold", "busy", "reset":
        probed_when_full("python", policy)


def test_a_probe_is_no_request_that_counts_and_takes_no_token():
    with Service("nginx", "total-requests=1", "request-rate=1/1", "exempt-request=/healthz") as service:
        client = service.come()
        assert [ask(client, "/healthz") for _ in range(20)] == [200] * 20
        assert [ask(client, path) for path in ("/", "/healthz", "/")] == [200] * 3
        assert service.shown()["requests"]["begun"] == 2


if __name__ == "__main__":
    sys.exit(run_tests(dict(globals()), sys.argv[1:]))
