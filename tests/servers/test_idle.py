#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""`idle` and `header-timeout` on real servers: slots go from clients that do nothing to those that wait, the one that is
idle longest first and no more than are wanted; nobody who is at work loses anything, and nothing happens where neither is set.

    test_idle.py [NAME]...      (parts of the tests' names)
"""
import atexit
import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

from harness import Skipped, ends_with_all_it_started, free_port, run_here, wait_until

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
BPCTL = BUILD + "/bpctl"
PYTHON = "/usr/bin/python3"
PATIENCE = 60
IDLE = "300ms"
HEADER = "500ms"
HTTP = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
SLOW = HTTP.replace(b"/ ", b"/slow ")
MODULES = "/usr/lib/apache2/modules"

# --- servers: each is told a directory and where to listen, and returns its command ---


def write(path, text):
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
    return path


def nginx(workers):
    return lambda directory, port: ["nginx", "-e", "stderr", "-c", write(
        directory + "/conf",
        f"worker_processes {workers}; daemon off; user root; pid {directory}/pid; error_log {directory}/error;\n"
        f"events {{ }} http {{ access_log off; keepalive_timeout 600; keepalive_requests 9999999; client_header_timeout 600; client_body_temp_path {directory}/b;\n"
        f"proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u;\n"
        f"scgi_temp_path {directory}/s; server {{ listen 127.0.0.1:{port}; location / {{ return 200 ok; }} }} }}\n")]


def apache(mpm):
    return lambda directory, port: ["apache2", "-D", "FOREGROUND", "-f", write(
        directory + "/conf",
        f"ServerRoot {directory}\nServerName x\nListen 127.0.0.1:{port}\nPidFile {directory}/pid\nErrorLog {directory}/error\n"
        f"DefaultRuntimeDir {directory}\nMutex posixsem\nLoadModule mpm_{mpm}_module {MODULES}/mod_mpm_{mpm}.so\n"
        f"LoadModule authz_core_module {MODULES}/mod_authz_core.so\nKeepAlive On\nKeepAliveTimeout 600\nTimeout 600\n"
        f"MaxKeepAliveRequests 0\nDocumentRoot {directory}\n")]


PYTHON_HTTP = """
import http.server, os, socketserver, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/slow":
            time.sleep(1.5)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()
    def log_message(self, *_):
        pass
class Server(socketserver.%sMixIn, http.server.HTTPServer):
    request_queue_size = 64
    daemon_threads = True
    block_on_close = False
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

# A process a client, and its parent in a blocking accept.
ACCEPTING = """
import os, signal, socket, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    client, _ = server.accept()
    if os.fork() == 0:
        server.close()
        while client.recv(65536):
            client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
        os._exit(0)
    client.close()
"""

ASYNCIO = """
import asyncio, sys
async def serve(reader, writer):
    try:
        while await reader.readuntil(b"\\r\\n\\r\\n"):
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
    except asyncio.IncompleteReadError:
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()
asyncio.run(main())
"""

SELECTING = """
import select, socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
every = [server]
while True:
    for one in select.select(every, [], [])[0]:
        if one is server:
            every.append(server.accept()[0])
        elif one.recv(65536):
            one.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
        else:
            every.remove(one)
            one.close()
"""


def python(program):
    return lambda _directory, port: [PYTHON, "-c", program, str(port)]


def node(_directory, port):
    return ["node", "-e", "const s = require('http').createServer((q, r) => r.end('ok')); s.keepAliveTimeout = 0;"
            f"s.headersTimeout = 0; s.requestTimeout = 0; s.listen({port}, '127.0.0.1');"]


def redis(directory, port):
    return ["redis-server", "--port", str(port), "--save", "", "--dir", directory]


HTTP_SERVERS = {
    "nginx": nginx(1), "nginx of two workers": nginx(2), "node": node, "apache prefork": apache("prefork"),
    "apache event": apache("event"), "python threads": python(PYTHON_HTTP % "Threading"),
    "python forking": python(PYTHON_HTTP % "Forking"), "accept and fork": python(ACCEPTING), "asyncio": python(ASYNCIO),
    "select": python(SELECTING)}


class Service:
    def __init__(self, server, *limits):
        self.port, self.name = free_port(), f"idle-{os.getpid()}-{os.urandom(3).hex()}"
        self.directory, self.stack = tempfile.mkdtemp(prefix="backpressure-idle-"), contextlib.ExitStack()
        os.chmod(self.directory, 0o755)
        command = server(self.directory, self.port)
        program = command[0]
        if subprocess.run(["which", program], stdout=subprocess.DEVNULL, check=False).returncode != 0:
            raise Skipped(f"{program} is not installed")
        self.process = subprocess.Popen([BPCTL, "run", "--name", self.name, *limits, "--", *command],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def __enter__(self):
        def comes_up():
            assert self.process.poll() is None, "the server ended"
            try:
                with socket.create_connection(("127.0.0.1", self.port), 5) as probe:
                    return probe.getsockname() != probe.getpeername()
            except OSError:
                return False
        wait_until(comes_up, "the server", PATIENCE)
        self.has("conns", 0)
        return self

    def __exit__(self, *_):
        self.stack.close()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, 9)
            self.process.wait()
        subprocess.run([BPCTL, "ls"], stdout=subprocess.DEVNULL, check=False)

    def totals(self):
        shown = subprocess.run([BPCTL, "show", self.name, "--json"], capture_output=True, text=True, check=False).stdout
        return json.loads(shown)["totals"] if shown else {}

    def has(self, what, number):
        wait_until(lambda: self.totals().get(what) == number, lambda: f"{what}={number}: {self.totals()}", PATIENCE)

    def set(self, *limits):
        assert subprocess.run([BPCTL, "set", self.name, *limits], check=False).returncode == 0

    def client(self, said=b""):
        client = self.stack.enter_context(socket.create_connection(("127.0.0.1", self.port), PATIENCE))
        if said:
            client.sendall(said)
        return client

    def waits_for_a_slot(self):
        """A client that asked, and is not let in."""
        before = self.totals()["held"]
        client = self.client(HTTP)
        wait_until(lambda: self.totals()["held"] > before, "a client that waits", PATIENCE)
        return client

    def asked(self, said=HTTP, answered=b"ok"):
        """A client that asked, was answered, and stays."""
        client = self.client(said)
        answer_of(client, answered)
        return client


def answer_of(client, wanted=b"ok"):
    answer = b""
    while not answer.endswith(wanted):
        part = client.recv(65536)
        assert part, answer
        answer += part
        if b" 404 " in answer or b" 403 " in answer:
            return answer  # apache's document root is empty: an answer all the same
    return answer


def rest_of(client):
    """All until the end, which may be a reset."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            answer += part
    return answer


def is_open(client):
    client.setblocking(False)
    try:
        return client.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False
    finally:
        client.settimeout(PATIENCE)


def each(test, servers=None):
    """Runs the test on every server, and says which one failed."""
    skipped = []
    for name, server in (servers or HTTP_SERVERS).items():
        try:
            test(server)
        except Skipped as why:
            skipped.append(str(why))
        except Exception as why:
            raise AssertionError(f"on {name}: {why!r}") from why
    if len(skipped) == len(servers or HTTP_SERVERS):
        raise Skipped("; ".join(skipped))


# --- idle ---

def the_longest_idle_goes(server):
    with Service(server, "total-conns=3", "idle=" + IDLE) as service:
        first = service.asked()
        others = [service.asked(), service.asked()]
        service.has("conns", 3)
        newcomer = service.client(HTTP)
        answer_of(newcomer)
        assert rest_of(first) == b""
        service.has("idle_closed", 1)
        for client in others:  # those who are idle less long stay, and are served
            client.sendall(HTTP)
            answer_of(client)
        assert service.totals()["idle_closed"] == 1


def test_the_longest_idle_gives_its_slot_to_who_waits():
    each(the_longest_idle_goes)


def test_as_many_as_are_wanted_and_no_more():
    with Service(nginx(1), "total-conns=6", "idle=" + IDLE) as service:
        old = [service.asked() for _ in range(6)]
        newcomers = [service.client(HTTP) for _ in range(3)]
        for newcomer in newcomers:
            answer_of(newcomer)
        for client in old[:3]:
            assert rest_of(client) == b""
        for client in old[3:]:
            client.sendall(HTTP)
            answer_of(client)
        service.has("idle_closed", 3)


def test_nobody_goes_while_nobody_waits():
    """At the ceiling, too. A client that asks now and then shows that the time has passed."""
    with Service(nginx(1), "total-conns=2", "idle=" + IDLE) as service:
        idle, busy = service.asked(), service.asked()
        until = time.monotonic() + 2
        while time.monotonic() < until:
            busy.sendall(HTTP)
            answer_of(busy)
        assert is_open(idle)
        idle.sendall(HTTP)
        answer_of(idle)
        assert service.totals()["idle_closed"] == 0


def test_who_is_served_just_now_is_not_idle():
    """The answer takes five times as long as `idle` says."""
    with Service(python(PYTHON_HTTP % "Threading"), "total-conns=1", "idle=" + IDLE) as service:
        at_work = service.client(SLOW)
        service.has("conns", 1)
        newcomer = service.client(HTTP)
        assert b" 200 " in answer_of(at_work)
        answer_of(newcomer)
        assert rest_of(at_work) == b""


def test_a_transaction_is_not_idle():
    with Service(redis, "total-conns=2", "idle=" + IDLE) as service:
        inside = service.asked(b"MULTI\r\n", b"+OK\r\n")
        idle = service.asked(b"PING\r\n", b"+PONG\r\n")
        newcomer = service.client(b"PING\r\n")
        answer_of(newcomer, b"+PONG\r\n")
        assert rest_of(idle) == b""
        inside.sendall(b"INCR x\r\nEXEC\r\n")
        answer_of(inside, b"*1\r\n:1\r\n")


def test_who_never_said_anything_is_idle():
    each(lambda server: never_said_anything(server), {"nginx": nginx(1), "redis": redis, "python threads": HTTP_SERVERS["python threads"]})


def never_said_anything(server):
    with Service(server, "total-conns=1", "idle=" + IDLE) as service:
        silent = service.client()
        service.has("conns", 1)
        newcomer = service.client(HTTP if server is not redis else b"PING\r\n")
        answer_of(newcomer, b"ok" if server is not redis else b"+PONG\r\n")
        assert rest_of(silent) == b""


def test_a_ceiling_of_each_process_counts_as_well():
    with Service(nginx(1), "conns=1", "idle=" + IDLE) as service:
        idle = service.asked()
        newcomer = service.client(HTTP)
        answer_of(newcomer)
        assert rest_of(idle) == b""


def test_who_was_refused_makes_room_for_the_next():
    with Service(nginx(1), "total-conns=1", "when-full=busy", "idle=" + IDLE) as service:
        idle = service.asked()

        def served():
            answer = rest_of(service.client(HTTP.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")))
            assert b" 200 " in answer or b" 503 " in answer, answer
            return b" 200 " in answer
        wait_until(served, "a slot", PATIENCE)
        assert rest_of(idle) == b""


def test_idle_can_be_set_while_clients_are_there():
    with Service(nginx(1), "total-conns=1") as service:
        idle = service.asked()
        newcomer = service.waits_for_a_slot()
        assert is_open(idle)
        service.set("idle=" + IDLE)
        for _ in range(2):  # nobody looked at what it did before: where its requests begin is seen from an answer on
            idle.sendall(HTTP)
            answer_of(idle)
        answer_of(newcomer)
        assert rest_of(idle) == b""
        service.set("idle=off")
        another = service.waits_for_a_slot()
        newcomer.sendall(HTTP)
        answer_of(newcomer)
        newcomer.close()
        answer_of(another)
        assert service.totals()["idle_closed"] == 1


COUNTING = """
import http.server, socketserver, sys, threading
counted, lock = 0, threading.Lock()
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        global counted
        with lock:
            counted += self.path == "/"
            body = b"%d ok" % counted
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    request_queue_size = 64
    daemon_threads = True
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def ask_around_the_limit(service, answers, stop):
    """Asks, again and again, just when its connection may be closed; counts what is answered."""
    chance, client = random.Random(threading.get_ident()), None
    while not stop.is_set():
        client = client or socket.create_connection(("127.0.0.1", service.port), PATIENCE)
        try:
            client.sendall(HTTP)
            answer_of(client)
            answers.append(1)
            time.sleep(chance.uniform(0.005, 0.05))
        except (AssertionError, ConnectionError):  # closed before it was answered: it asks again on another one
            client.close()
            client = None
    if client:
        client.close()


def test_a_request_that_crosses_the_close_is_not_begun():
    """What the server did is what was answered, though clients ask just when they are closed."""
    with Service(python(COUNTING), "total-conns=3", "idle=10ms") as service:
        answers, stop = [], threading.Event()
        clients = [threading.Thread(target=ask_around_the_limit, args=(service, answers, stop)) for _ in range(6)]
        for client in clients:
            client.start()
        wait_until(lambda: service.totals().get("idle_closed", 0) >= 200, lambda: f"closes: {service.totals()}", PATIENCE)
        stop.set()
        for client in clients:
            client.join()
        done = answer_of(service.client(HTTP.replace(b"/ ", b"/count ")))
        assert int(done.split(b"\r\n")[-1].split()[0]) == len(answers), (done, len(answers))


# --- header-timeout ---

def drip(client, text):
    """One byte after the other, until the connection ends: what came."""
    client.settimeout(0.02)
    answer = b""
    for byte in text:
        try:
            client.sendall(bytes([byte]))
            part = client.recv(65536)
            if not part:
                return answer
            answer += part
        except TimeoutError:
            continue
        except (ConnectionResetError, BrokenPipeError):
            return answer
    raise AssertionError(f"all of it was taken; {answer}")


def heads_that_do_not_end(server):
    with Service(server, "header-timeout=" + HEADER) as service:
        assert drip(service.client(), b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 4000).startswith(b"HTTP/1.1 408 ")
        again = service.asked()  # the next head on a connection that stays is waited for as long
        assert drip(again, b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 4000).startswith(b"HTTP/1.1 408 ")
        service.has("headers_timed_out", 2)
        service.has("conns", 0)


def test_a_drip_does_not_hold_a_slot():
    each(heads_that_do_not_end, {name: server for name, server in HTTP_SERVERS.items()
                                 if name not in ("accept and fork", "select")})  # those do not wait for heads


def test_who_says_nothing_is_closed_without_a_word():
    for server in (nginx(1), redis, HTTP_SERVERS["python threads"]):
        with Service(server, "header-timeout=" + HEADER) as service:
            assert rest_of(service.client()) == b""
            service.has("conns", 0)


def test_half_a_command_is_closed_without_a_word():
    with Service(redis, "header-timeout=" + HEADER) as service:
        assert rest_of(service.client(b"*2\r\n$3\r\nGE")) == b""
        service.has("headers_timed_out", 1)


def test_between_two_requests_nobody_has_to_hurry():
    with Service(nginx(1), "header-timeout=" + HEADER) as service:
        idle = service.asked()
        assert rest_of(service.client(b"GET / HT")).startswith(b"HTTP/1.1 408 ")
        service.has("headers_timed_out", 1)
        idle.sendall(HTTP)
        answer_of(idle)


def test_a_slow_body_is_no_slow_head():
    with Service(python(PYTHON_HTTP % "Threading"), "header-timeout=" + HEADER) as service:
        client = service.client(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60\r\n\r\n")
        for _ in range(60):
            time.sleep(0.02)
            client.sendall(b"x")
        assert b" 200 " in answer_of(client)
        assert service.totals()["headers_timed_out"] == 0


def test_a_head_in_time_is_served():
    with Service(nginx(1), "header-timeout=30s") as service:
        client = service.client()
        for byte in HTTP:
            client.sendall(bytes([byte]))
        answer_of(client)


# --- both, and neither ---

def test_two_that_do_nothing_give_way_to_a_third():
    """One asked and stays, one never ends its head."""
    with Service(nginx(1), "total-conns=2", "idle=" + IDLE, "header-timeout=" + HEADER) as service:
        asked, begun = service.asked(), service.client(b"GET / HTTP/1.1\r\nX: ")
        service.has("conns", 2)
        thirds = [service.client(HTTP), service.client(HTTP)]
        for third in thirds:
            answer_of(third)
        assert rest_of(asked) == b""
        assert rest_of(begun).startswith(b"HTTP/1.1 408 ")


def test_both_are_off_unless_set():
    with Service(nginx(1), "total-conns=2") as service:
        asked, begun = service.asked(), service.client(b"GET / HTTP/1.1\r\nX: ")
        service.has("conns", 2)
        third = service.waits_for_a_slot()
        time.sleep(1)
        assert is_open(asked) and is_open(begun)
        asked.close()
        answer_of(third)
        assert service.totals()["idle_closed"] == service.totals()["headers_timed_out"] == 0


def main():
    os.environ["BACKPRESSURE_DIR"] = tempfile.mkdtemp(prefix="backpressure-idle-", dir="/dev/shm")
    atexit.register(shutil.rmtree, os.environ["BACKPRESSURE_DIR"], ignore_errors=True)
    for variable in ("LD_PRELOAD", "BACKPRESSURE"):
        os.environ.pop(variable, None)
    return ends_with_all_it_started(lambda: run_here(globals(), sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
