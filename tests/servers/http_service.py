# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Servers of HTTP that keep what is PUT and give it back, under limits that can move, and a client that knows what it
sends and hears, for the tests of requests."""
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
import tempfile
import threading
import time

import harness
from harness import Skipped, free_port

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
BPCTL = BUILD + "/bpctl"
PATIENCE = 60
wait_until = functools.partial(harness.wait_until, patience=PATIENCE)
MEGABYTE = 1 << 20
SIOCOUTQ = 0x5411
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
        else if (q.url == '/events') {
            r.writeHead(200, {'Content-Type': 'text/event-stream'});
            const timer = setInterval(() => r.write('data: tick\\n\\n'), 10);
            r.on('close', () => { clearInterval(timer); inside--; });
        }
        else if (q.url == '/slow') setTimeout(() => end(200, 'slow'), 5);
        else end(kept.has(q.url) ? 200 : 404, kept.get(q.url) || '');
    });
    q.on('aborted', () => { inside--; });
});
const echo = (q, socket, head, line) => {
    socket.write(line);
    socket.write(head);
    socket.pipe(socket);
};
server.on('upgrade', (q, s, h) => echo(q, s, h, 'HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: echo\\r\\n\\r\\n'));
server.on('connect', (q, s, h) => echo(q, s, h, 'HTTP/1.1 200 Connected\\r\\n\\r\\n'));
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
