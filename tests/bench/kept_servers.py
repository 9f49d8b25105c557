# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Servers whose clients keep their connections, for requests.py: each does as many turns of a loop in a request,
or in a transaction of three statements, as it is asked for."""
import glob
import os
import pwd
import shutil
import subprocess
import tempfile
import time

NODE = """
const work = turns => { let x = 0; for (let i = 0; i < turns; i++) x += Math.sqrt(i ^ x); return x; };
const server = require('http').createServer((q, r) => { work(+q.url.slice(1)); r.end('served\\n'); });
server.keepAliveTimeout = 60000;
server.listen(+process.argv[2], '127.0.0.1', 1024);
"""
PYTHON = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version, wbufsize, disable_nagle_algorithm = "HTTP/1.1", 65536, True
    def do_GET(self):
        x = 0
        for i in range(int(self.path[1:])): x += i * i
        self.send_response(200)
        self.send_header("Content-Length", "7")
        self.end_headers()
        self.wfile.write(b"served\\n")
    def log_message(self, *_): pass
class Server(ThreadingHTTPServer):
    request_queue_size = 1024
    def handle_error(self, *_): pass
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
JAVA = """
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;
public class Served {
    public static void main(String[] words) throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(words[0])), 1024);
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/", exchange -> {
            int turns = Integer.parseInt(exchange.getRequestURI().getPath().substring(1));
            double x = 0;
            for (int i = 0; i < turns; i++) x += Math.sqrt(i ^ (int)x);
            byte[] body = (x < 0 ? "negative\\n" : "served\\n").getBytes();
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.getResponseBody().close();
        });
        server.start();
    }
}
"""
LUA = """
function handle(r)
    local x = 0
    for i = 1, tonumber(r.uri:sub(2)) do x = x + i % 7 end
    r.content_type = "text/plain"
    r:puts("served\\n")
    return apache2.OK
end
"""


def write(path, text):
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
    return path


class Server:
    """`dialect` is what its clients speak (answers.c), `user` what stands before a command that root must not run."""

    dialect, ceiling, user, program = "http", 8, [], None

    def __init__(self):
        self.turns = self.first_turns

    def prepare(self, directory, port):
        """Makes what the server needs in the directory; returns its command."""
        raise NotImplementedError

    def populate(self, port):
        """What is to be there before the first question."""

    def drop(self):
        """The server is needed no more."""

    def questions(self):
        return [f"/{self.turns}"]

    def installed(self):
        return shutil.which(self.program) is not None


class Node(Server):
    name, program, first_turns = "node", "node", 300000

    def prepare(self, directory, port):
        return ["node", write(directory + "/server.js", NODE), str(port)]


class Python(Server):
    name, program, first_turns = "python", "/usr/bin/python3", 60000

    def prepare(self, directory, port):
        return [self.program, write(directory + "/server.py", PYTHON), str(port)]


class Java(Server):
    name, program, first_turns = "java", "javac", 300000

    def prepare(self, directory, port):
        properties = ("maxIdleConnections=1000", "idleInterval=60", "nodelay=true")
        return ["java", "-XX:+UseSerialGC", *(f"-Dsun.net.httpserver.{each}" for each in properties),
                write(directory + "/Served.java", JAVA), str(port)]


class Apache(Server):
    program, first_turns = "apache2", 300000
    modules = "/usr/lib/apache2/modules"

    def prepare(self, directory, port):
        write(directory + "/page.lua", LUA)
        return ["apache2", "-D", "FOREGROUND", "-f", write(directory + "/conf", f"""ServerRoot {directory}
ServerName localhost
PidFile {directory}/pid
ErrorLog {directory}/error
Listen 127.0.0.1:{port}
ListenBacklog 1024
DocumentRoot {directory}
Mutex file:{directory}
KeepAlive On
KeepAliveTimeout 60
MaxKeepAliveRequests 0
LoadModule mpm_{self.mpm}_module {self.modules}/mod_mpm_{self.mpm}.so
LoadModule authz_core_module {self.modules}/mod_authz_core.so
LoadModule lua_module {self.modules}/mod_lua.so
User {pwd.getpwuid(os.geteuid()).pw_name if os.geteuid() else "www-data"}
LuaMapHandler / {directory}/page.lua
{self.workers}
""")]


class ApachePrefork(Apache):
    """A process a connection: as many as there are clients that keep theirs."""

    name, mpm = "apache-prefork", "prefork"
    workers = ("ServerLimit 600\nMaxRequestWorkers 600\nStartServers 520\nMinSpareServers 1\nMaxSpareServers 600\n"
               "LuaScope server")


class ApacheEvent(Apache):
    name, mpm = "apache-event", "event"
    workers = ("ServerLimit 8\nThreadsPerChild 64\nMaxRequestWorkers 512\nStartServers 8\nMinSpareThreads 1\n"
               "MaxSpareThreads 512\nLuaScope thread")


class Redis(Server):
    name, program, dialect, first_turns = "redis", "redis-server", "redis", 300000

    def prepare(self, directory, port):
        return ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory,
                "--tcp-backlog", "1024", "--protected-mode", "no"]

    def questions(self):
        return [f"EVAL\nlocal x = 0 for i = 1, {self.turns} do x = x + i % 7 end return x\n0"]


class Database(Server):
    """Transactions of three statements, whose clients meet at few rows: who is held half way holds others up."""

    tables = "CREATE TABLE counts (id INTEGER PRIMARY KEY, n INTEGER NOT NULL);"
    rows = "INSERT INTO counts VALUES " + ", ".join(f"({i}, 0)" for i in range(1000)) + ";"

    def __init__(self):
        super().__init__()
        self.template = tempfile.mkdtemp(prefix="backpressure-requests-")
        os.chmod(self.template, 0o777)

    def fresh_data(self, directory):
        """A copy of what was made once: making it takes longer than a measurement."""
        if not os.path.exists(self.template + "/data"):
            self.make_data(self.template + "/data")
        subprocess.run(["cp", "-a", self.template + "/data", directory], check=True)
        return directory + "/data"

    def drop(self):
        shutil.rmtree(self.template, ignore_errors=True)

    def fill(self, client):
        """`client` is a command that takes SQL; it fails until the server is up."""
        until = time.monotonic() + 60
        while subprocess.run(client, input=self.tables + self.rows, text=True, capture_output=True,
                             check=False).returncode:
            if time.monotonic() > until:
                raise SystemExit(f"requests.py: {self.name} takes no table")
            time.sleep(0.2)

    def questions(self):
        return ["BEGIN", "SELECT n FROM counts WHERE id = {client} % 20", self.work % self.turns,
                "UPDATE counts SET n = n + 1 WHERE id = {client} % 20", "COMMIT"]


class Postgres(Database):
    name, dialect, first_turns = "postgres", "postgres", 30000
    work = "SELECT sum(i) FROM generate_series(1, %d) i"

    def __init__(self):
        super().__init__()
        self.programs = (sorted(glob.glob("/usr/lib/postgresql/*/bin")) or ["/nonexistent"])[-1]
        self.program = self.programs + "/postgres"
        self.user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []

    def make_data(self, path):
        subprocess.run([*self.user, self.programs + "/initdb", "-D", path, "-A", "trust", "-U", "postgres"], check=True,
                       stdout=subprocess.DEVNULL, cwd="/")
        write(path + "/pg_hba.conf", "host all all 127.0.0.0/8 trust\n")

    def prepare(self, directory, port):
        return [self.program, "-D", self.fresh_data(directory), "-p", str(port), "-h", "127.0.0.1", "-k", "", "-F",
                "-c", "max_connections=1200", "-c", "jit=off"]

    def populate(self, port):
        self.fill(["psql", "-q", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-v", "ON_ERROR_STOP=1"])


class MariaDB(Database):
    name, dialect, program, first_turns = "mariadb", "mysql", "mariadbd", 20000
    work = "SELECT BENCHMARK(%d, MD5('x'))"
    account = "mysql" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    tables = "CREATE DATABASE IF NOT EXISTS bench; USE bench; DROP TABLE IF EXISTS counts; " + Database.tables

    def make_data(self, path):
        subprocess.run(["mariadb-install-db", "--no-defaults", f"--user={self.account}", f"--datadir={path}",
                        "--innodb-log-file-size=8M", "--auth-root-authentication-method=normal"],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def prepare(self, directory, port):
        return ["mariadbd", "--no-defaults", f"--user={self.account}", f"--datadir={self.fresh_data(directory)}",
                f"--port={port}", "--bind-address=127.0.0.1", f"--socket={directory}/sock", f"--pid-file={directory}/pid",
                "--max-connections=1200", "--skip-grant-tables", "--skip-networking=0", "--skip-name-resolve",
                "--back-log=1024", "--innodb-log-file-size=8M", "--innodb-flush-log-at-trx-commit=0"]

    def populate(self, port):
        self.fill(["mariadb", "--no-defaults", "-h", "127.0.0.1", "-P", str(port), "-u", "root"])

    def questions(self):
        return [question.replace("counts", "bench.counts") for question in super().questions()]


SERVERS = {kind.name: kind for kind in (Node, Python, ApachePrefork, ApacheEvent, Java, Redis, Postgres, MariaDB)}
