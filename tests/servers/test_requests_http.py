#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Real servers of HTTP under ceilings on requests that move 50 times a second: what clients put arrives as it was
sent, what they get is what is there, in the order in which they asked, however their bytes come.

    test_requests_http.py [NAME]...      only tests whose name contains one of these
"""
import contextlib
import fcntl
import functools
import hashlib
import json
import os
import pwd
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

import harness
from harness import Skipped, free_port, run_tests

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
BPCTL = BUILD + "/bpctl"
PATIENCE = 60
wait_until = functools.partial(harness.wait_until, patience=PATIENCE)
MEGABYTE = 1 << 20
SIOCOUTQ = 0x5411
LARGEST = 100 * MEGABYTE
CEILINGS = ["1", "2", "3", "5", "8", "auto", "off"]

# --- servers: PUT /name keeps a body, GET /name gives it back ---

NODE = """
const kept = new Map();
let inside = 0, most = 0;
const server = require('http').createServer((q, r) => {
    inside++; most = Math.max(most, inside);
    const end = (code, body) => { inside--; r.statusCode = code; r.setHeader('Content-Length', body.length); r.end(body); };
    const parts = [];
    q.on('data', part => parts.push(part));
    q.on('end', () => {
        if (q.method == 'PUT') { kept.set(q.url, Buffer.concat(parts)); end(201, ''); }
        else if (q.url == '/most') end(200, String(most));
        else if (q.url == '/slow') setTimeout(() => end(200, 'slow'), 5);
        else end(kept.has(q.url) ? 200 : 404, kept.get(q.url) || '');
    });
    q.on('aborted', () => { inside--; });
});
server.keepAliveTimeout = 60000;
server.listen(+process.argv[2], '127.0.0.1', 1024);
"""
PYTHON = """
import sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
kept, lock, inside, most = {}, threading.Lock(), 0, 0
class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True
    def body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while (size := int(self.rfile.readline().split(b";")[0], 16)):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)
    def answer(self, code, body):
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def count(self, step):
        global inside, most
        with lock:
            inside += step
            most = max(most, inside)
    def do_PUT(self):
        self.count(1)
        kept[self.path] = self.body()
        self.count(-1)
        self.answer(201, b"")
    def do_GET(self):
        self.count(1)
        if self.path == "/slow":
            time.sleep(0.005)
            body = b"slow"
        else:
            body = str(most).encode() if self.path == "/most" else kept.get(self.path)
        self.count(-1)
        self.answer(404 if body is None else 200, body or b"")
    def log_message(self, *_): pass
class Server(ThreadingHTTPServer):
    request_queue_size, daemon_threads = 1024, True
    def handle_error(self, *_): pass
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def write(path, text):
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
    return path


def nginx(directory, port):
    return ["nginx", "-e", "stderr", "-c", write(directory + "/conf", f"""
worker_processes 2; daemon off; pid {directory}/pid; user {user()};
error_log {directory}/error.log;
events {{ worker_connections 1000; }}
http {{ access_log off; client_max_body_size 0; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;
 fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
 keepalive_requests 1000000; sendfile on; create_full_put_path on;
 server {{ listen 127.0.0.1:{port} backlog=1024; root {directory}/files; dav_methods PUT DELETE; }} }}
""")]


def apache(directory, port):
    modules = "/usr/lib/apache2/modules"
    return ["apache2", "-D", "FOREGROUND", "-f", write(directory + "/conf", f"""ServerRoot {directory}
ServerName localhost
PidFile {directory}/pid
ErrorLog {directory}/error.log
Listen 127.0.0.1:{port}
DocumentRoot {directory}/files
Mutex file:{directory}
KeepAlive On
KeepAliveTimeout 60
MaxKeepAliveRequests 0
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule dav_module {modules}/mod_dav.so
LoadModule dav_fs_module {modules}/mod_dav_fs.so
DavLockDB {directory}/locks
<Location />
Dav On
</Location>
User {user()}
StartServers 2
ThreadsPerChild 25
""")]


def lighttpd(directory, port):
    script = write(directory + "/put.sh", f'cat > "{directory}/files$PATH_INFO" && printf "Status: 201\\r\\n\\r\\n"\n')
    return ["lighttpd", "-D", "-f", write(directory + "/conf", f"""
server.modules = ( "mod_rewrite", "mod_alias", "mod_cgi" )
server.document-root = "{directory}/files"
server.bind = "127.0.0.1"
server.port = {port}
server.max-keep-alive-requests = 1000000
server.max-keep-alive-idle = 60
server.upload-dirs = ( "{directory}" )
server.errorlog = "{directory}/error.log"
$HTTP["request-method"] == "PUT" {{
 url.rewrite-once = ( "^(/.*)" => "/put.sh$1" )
 alias.url = ( "/put.sh" => "{script}" )
 cgi.assign = ( ".sh" => "/bin/sh" )
}}
""")]


def node(directory, port):
    return ["node", write(directory + "/server.js", NODE), str(port)]


def python(directory, port):
    return ["/usr/bin/python3", write(directory + "/server.py", PYTHON), str(port)]


def user():
    return pwd.getpwuid(os.geteuid()).pw_name if os.geteuid() else "www-data"


SERVERS = {"nginx": nginx, "apache": apache, "lighttpd": lighttpd, "node": node, "python": python}
PROGRAMS = {"apache": "apache2", "python": "/usr/bin/python3"}


class Service:
    """A server under limits, or bare (None). While it is `moving`, its ceilings change 50 times a second."""

    def __init__(self, server, limits):
        if not shutil.which(PROGRAMS.get(server, server)):
            raise Skipped(f"{server} is not installed")
        self.directory = tempfile.mkdtemp(prefix="backpressure-http-")
        os.chmod(self.directory, 0o777)
        os.mkdir(self.directory + "/files")
        os.chmod(self.directory + "/files", 0o777)
        self.port = free_port()
        self.name = f"http-{os.getpid()}-{self.port}"
        command = SERVERS[server](self.directory, self.port)
        run = [BPCTL, "run", "--name", self.name, *limits, "--"] if limits is not None else []
        self.log = open(self.directory + "/log", "wb+")
        self.process = subprocess.Popen([*run, *command], stdout=self.log, stderr=self.log)
        self.still, self.moves, self.mover = threading.Event(), 0, None

    def __enter__(self):
        try:
            wait_until(self.listens, "a listener")
        except AssertionError as error:
            self.__exit__()
            raise error
        return self

    def __exit__(self, *_):
        self.still.set()
        if self.mover:
            self.mover.join()
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()
        self.log.close()
        subprocess.run([BPCTL, "ls"], capture_output=True, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    def listens(self):
        assert self.process.poll() is None, self.said()
        with open("/proc/net/tcp", encoding="ascii") as table:
            return any(int(line.split()[1].split(":")[1], 16) == self.port for line in table
                       if line.split()[3] == "0A")

    def said(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def totals(self):
        shown = subprocess.run([BPCTL, "show", self.name, "--json"], capture_output=True, text=True, check=True)
        return json.loads(shown.stdout)

    def set(self, *limits):
        subprocess.run([BPCTL, "set", self.name, *limits], capture_output=True, check=True)

    def move(self, seed):
        draw, began = random.Random(seed), time.monotonic()
        while not self.still.wait(max(0, began + self.moves / 50 - time.monotonic())):
            self.set(f"{draw.choice(['total-requests', 'requests'])}={draw.choice(CEILINGS)}")
            self.moves += 1

    def moving(self, seed=18):
        self.mover = threading.Thread(target=self.move, args=(seed,))
        self.mover.start()
        return self


# --- a client ---

class Client:
    """Sends bytes as it is told to, and reads answers one by one."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.unread = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def send_pieces(self, pieces):
        """A piece has reached the server's socket before the next goes."""
        for piece in pieces:
            self.socket.sendall(piece)
            wait_for_empty(self.socket)

    def more(self):
        part = self.socket.recv(MEGABYTE)
        self.unread += part
        return bool(part)

    def until(self, mark):
        while mark not in self.unread:
            assert self.more(), f"the end after {self.unread[:200]}"
        found, _, self.unread = self.unread.partition(mark)
        return found

    def exactly(self, count):
        parts, had = [self.unread[:count]], len(self.unread[:count])
        self.unread = self.unread[count:]
        while had < count:
            part = self.socket.recv(min(count - had, MEGABYTE))
            assert part, "the end within a body"
            parts.append(part)
            had += len(part)
        return b"".join(parts)

    def chunks(self):
        body = b""
        while (size := int(self.until(b"\r\n").split(b";")[0], 16)):
            body += self.exactly(size)
            assert self.exactly(2) == b"\r\n"
        assert self.until(b"\r\n") == b""
        return body

    def answer(self):
        """Status, fields and body of the next one; interim ones are passed over."""
        while True:
            first, *lines = self.until(b"\r\n\r\n").split(b"\r\n")
            status = int(first.split()[1])
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
            if status >= 200:
                break
        if status in (204, 304):
            return status, fields, b""
        if b"chunked" in fields.get(b"transfer-encoding", b""):
            return status, fields, self.chunks()
        if b"content-length" in fields:
            return status, fields, self.exactly(int(fields[b"content-length"]))
        while self.more():
            pass
        body, self.unread = self.unread, b""
        return status, fields, body


def wait_for_empty(sock):
    """Until all that was sent is acknowledged: tcp(7)."""
    deadline = time.monotonic() + PATIENCE
    while struct.unpack("i", fcntl.ioctl(sock, SIOCOUTQ, b"\0" * 4))[0]:
        assert time.monotonic() < deadline, "what was sent is not taken"
        time.sleep(0)


def chunked(body, draw):
    """The body in chunks of any size, some with an extension, with or without a trailer."""
    parts, at, most = [], 0, max(16, len(body) // 20)
    while at < len(body):
        size = draw.randint(1, most)
        part = body[at:at + size]
        parts.append(b"%x%s\r\n%b\r\n" % (len(part), draw.choice([b"", b"", b";a=b"]), part))
        at += size
    return b"".join(parts) + b"0\r\n" + draw.choice([b"", b"X-After: all\r\n"]) + b"\r\n"


def put(path, body, draw=None, *fields):
    """Its chunks are drawn by `draw`; None: it has a Content-Length."""
    head = f"PUT {path} HTTP/1.1\r\nHost: a\r\n" + "".join(field + "\r\n" for field in fields)
    if draw:
        return head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body, draw)
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


def get(path, *fields):
    return (f"GET {path} HTTP/1.1\r\nHost: a\r\n" + "".join(field + "\r\n" for field in fields) + "\r\n").encode()


def content(draw, size):
    return draw.randbytes(size)


def put_and_got(client, path, body, request):
    """What was put is what is there."""
    client.send(request)
    status, _, _ = client.answer()
    assert status in (200, 201, 204), status
    client.send(get(path))
    status, _, found = client.answer()
    assert status == 200, status
    assert hashlib.sha1(found).digest() == hashlib.sha1(body).digest(), f"{len(found)} of {len(body)} bytes came back"


# --- what clients do ---

def bodies(service, draw, own):
    """0 to 100 MB, with a length and in chunks."""
    sizes = [0, 1, 2, 100, 4095, 4096, 4097, 16384, 65535, 65536, 300000, MEGABYTE, 10 * MEGABYTE]
    with Client(service.port) as client:
        for i, size in enumerate(sizes):
            body = content(draw, size)
            put_and_got(client, f"{own}a{i}", body, put(f"{own}a{i}", body))
            put_and_got(client, f"{own}b{i}", body, put(f"{own}b{i}", body, draw))
        body = content(draw, LARGEST)
        put_and_got(client, own + "large", body, put(own + "large", body))


def expect(service, draw, own):
    """100-continue: the body goes when the server says so."""
    with Client(service.port) as client:
        for i in range(20):
            body = content(draw, draw.choice([1, 5000, 200000]))
            request = put(f"{own}e{i}", body, draw if i % 2 else None, "Expect: 100-continue")
            head, _, rest = request.partition(b"\r\n\r\n")
            client.send(head + b"\r\n\r\n")
            assert client.until(b"\r\n\r\n").split()[1] == b"100"
            client.send(rest)
            assert client.answer()[0] in (200, 201, 204)
            client.send(get(f"{own}e{i}"))
            assert client.answer()[2] == body


def pipelines(service, draw, own):
    """1 to 64 deep; sent in one piece while the answers are read."""
    for depth in [*range(1, 17), 23, 32, 48, 64]:
        with Client(service.port) as client:
            kept = [content(draw, draw.choice([0, 3, 700, 9000])) for _ in range(4)]
            for i, body in enumerate(kept):
                put_and_got(client, f"{own}p{depth}-{i}", body, put(f"{own}p{depth}-{i}", body))
            asked = [draw.randrange(4) for _ in range(depth)]
            sender = threading.Thread(target=client.send,
                                      args=(b"".join(get(f"{own}p{depth}-{i}") for i in asked),))
            sender.start()
            for i in asked:
                status, _, body = client.answer()
                assert status == 200 and body == kept[i], f"{depth} deep: {status}, {len(body)} of {len(kept[i])} bytes"
            sender.join()


def pipelined_bodies(service, draw, own):
    """Bodies and questions in turn, all at once."""
    for depth in (2, 5, 16):
        with Client(service.port) as client:
            kept = [content(draw, draw.choice([0, 10, 5000, 70000])) for _ in range(depth)]
            text = b"".join(put(f"{own}q{depth}-{i}", body, draw if i % 2 else None) + get(f"{own}q{depth}-{i}")
                            for i, body in enumerate(kept))
            sender = threading.Thread(target=client.send, args=(text,))
            sender.start()
            for body in kept:
                assert client.answer()[0] in (200, 201, 204)
                assert client.answer()[2] == body
            sender.join()


def split(service, draw, own):
    """Cut at every byte, and byte by byte."""
    body = b"\r\n\r\n0\r\n\r\nGET /"
    text = put(own + "s", body, random.Random(1)) + get(own + "s") + put(own + "t", body) + get(own + "t")
    with Client(service.port) as client:
        pieces = [[text[:cut], text[cut:]] for cut in range(1, len(text))]
        draw.shuffle(pieces)
        for cut in [*pieces[:150], [text[i:i + 1] for i in range(len(text))]]:
            client.send_pieces(cut)
            for want in (None, body, None, body):
                status, _, found = client.answer()
                assert status in (200, 201, 204) and (want is None or found == want), (status, found)


def half_closed(service, draw, own):
    """Clients that shut their side down behind what they asked hear all of the answers."""
    body = content(draw, 50000)
    with Client(service.port) as client:
        put_and_got(client, own + "h", body, put(own + "h", body))
    for depth in (1, 2, 8):
        with Client(service.port) as client:
            client.send(get(own + "h") * depth)
            client.socket.shutdown(socket.SHUT_WR)
            for _ in range(depth):
                assert client.answer()[2] == body
            assert not client.more()


GARBAGE = [b"\x16\x03\x01\x02\x00\x01\x00\x01", b"\0" * 64, b"NOT HTTP\r\n\r\n", b"GET\r\n\r\n",
           b"GET / HTTP/1.1\r\nHost: a\r\nA B\r\n\r\n", b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
           b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
           b"PUT /g HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
           b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n"]


def heard(port, text):
    """What the server says to it until it closes: the statuses."""
    with Client(port) as client:
        client.send(get("/") + text)
        client.socket.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while client.more():
                pass
        return [part.split()[0] for part in client.unread.split(b"HTTP/1.1 ")[1:] if part.split()]


# --- tests ---

def with_moving_limits(server, what, clients=1):
    """Clients do it side by side, each with names of its own, while the ceilings move."""
    failed = []

    def one(service, number):
        try:
            what(service, random.Random(number), f"/{number}")
        except Exception as error:  # pylint: disable=broad-except
            failed.append(error)

    with Service(server, ["total-requests=2"]) as service:
        service.moving()
        threads = [threading.Thread(target=one, args=(service, number)) for number in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        service.still.set()
        service.mover.join()
        if failed:
            raise failed[0]
        # The last ones end as the connections do.
        service.set("requests=off", "total-requests=4")
        wait_until(lambda: service.totals()["requests"]["in_flight"] == 0, "no request in flight")


def garbage(server):
    """It is the program's to refuse, in its own words."""
    with Service(server, None) as bare, Service(server, ["total-requests=2"]) as limited:
        limited.moving()
        for text in GARBAGE:
            assert heard(limited.port, text) == heard(bare.port, text), text
        with Client(limited.port) as client:
            put_and_got(client, "/after", b"after", put("/after", b"after"))


def endless(server):
    """Those who never end their request leave room for others while they are fewer than the ceiling; a head that is not
    whole has no place at all."""
    with Service(server, ["total-requests=3"]) as service, contextlib.ExitStack() as open_clients:
        stuck = [open_clients.enter_context(Client(service.port)) for _ in range(14)]
        for client in stuck[:12]:
            client.send(b"PUT /never HTTP/1.1\r\nHost: a\r\nX-A: ")
        for client in stuck[12:]:
            client.send(b"PUT /never HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nand")
        with Client(service.port) as client:
            for i in range(20):
                body = content(random.Random(i), 1000)
                put_and_got(client, f"/n{i}", body, put(f"/n{i}", body))


def shed(server):
    """Above the ceiling each question of a pipeline is answered in its place, by what it asked for or by a 503."""
    draw = random.Random(5)
    with Service(server, ["total-requests=1", "when-full=busy", "retry-after=2..4"]) as service:
        kept = [content(draw, size) for size in (1, 900, 40000)]
        with Client(service.port) as client:
            for i, body in enumerate(kept):
                put_and_got(client, f"/r{i}", body, put(f"/r{i}", body))
        counted, lock = {200: 0, 503: 0}, threading.Lock()
        failed = []

        def one(seed):
            own = random.Random(seed)
            try:
                for _ in range(30):
                    with Client(service.port) as client:
                        asked = [own.randrange(3) for _ in range(own.choice([1, 2, 8, 30]))]
                        client.send(b"".join(get(f"/r{i}") for i in asked))
                        for i in asked:
                            status, fields, body = client.answer()
                            assert (status == 200 and body == kept[i]) or \
                                (status == 503 and int(fields[b"retry-after"]) in (2, 3, 4)), (status, len(body))
                            with lock:
                                counted[status] += 1
                            if fields.get(b"connection", b"").lower() == b"close":
                                break
            except Exception as error:  # pylint: disable=broad-except
                failed.append(error)

        threads = [threading.Thread(target=one, args=(seed,)) for seed in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]
        assert counted[200] > 0, counted


def answered_early(server):
    """The rest of a body whose request was answered already, with an error, is no request: nobody answers it."""
    with Service(server, ["total-requests=1", "when-full=busy"]) as service:
        with Client(service.port) as first, Client(service.port) as client:
            put_and_got(first, "/kept", b"kept", put("/kept", b"kept"))
            body = content(random.Random(7), 300000)
            head, _, _ = put("/kept", body).replace(b"PUT", b"POST", 1).partition(b"\r\n\r\n")
            client.send(head + b"\r\n\r\n" + body[:1000])
            assert client.answer()[0] == 405
            wait_until(lambda: service.totals()["requests"]["in_flight"] == 0, "the end of what was answered")
            first.send(put("/more", b"12345678")[:-4])
            wait_until(lambda: service.totals()["requests"]["in_flight"] == 1, "a request that does not end")
            for at in range(1000, len(body), 29900):
                client.send_pieces([body[at:at + 29900]])
            for _ in range(3):
                client.send(get("/kept"))
                status, fields, _ = client.answer()
                assert status == 503 and b"connection" not in fields, (status, fields)
            first.send(b"5678" + get("/kept"))
            assert [first.answer()[0], first.answer()[2]] == [201, b"kept"]
            client.send(get("/kept"))
            assert client.answer()[2] == b"kept"


def by_the_programs_count(server):
    """The program itself never counts more inside than the highest ceiling that was in force."""
    highest = 4
    with Service(server, [f"total-requests={highest}"]) as service:
        def one():
            with Client(service.port) as client:
                for _ in range(25):
                    client.send(get("/slow"))
                    assert client.answer()[2] == b"slow"
        done, still = [], threading.Event()

        def counted():
            one()
            done.append(1)

        threads = [threading.Thread(target=counted) for _ in range(30)]
        for thread in threads:
            thread.start()
        mover = random.Random(3)
        while any(thread.is_alive() for thread in threads) and not still.wait(0.02):
            service.set(f"total-requests={mover.randint(1, highest)}")
        for thread in threads:
            thread.join()
        assert len(done) == len(threads)
        service.set(f"total-requests={highest}")
        with Client(service.port) as client:
            client.send(get("/most"))
            most = int(client.answer()[2])
        assert 1 <= most <= highest, f"{most} inside under a ceiling of {highest}"


def tests():
    named = {}
    for server in SERVERS:
        for what, clients in ((bodies, 1), (expect, 3), (pipelines, 4), (pipelined_bodies, 4), (split, 3),
                              (half_closed, 3)):
            named[f"test_{server}_{what.__name__}"] = functools.partial(with_moving_limits, server, what, clients)
        for what in (garbage, endless, shed):
            named[f"test_{server}_{what.__name__}"] = functools.partial(what, server)
    named["test_nginx_answered_early"] = functools.partial(answered_early, "nginx")
    for server in ("node", "python"):
        named[f"test_{server}_count"] = functools.partial(by_the_programs_count, server)
    return named


if __name__ == "__main__":
    sys.exit(run_tests(tests(), sys.argv[1:]))
