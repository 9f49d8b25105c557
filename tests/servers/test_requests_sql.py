#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""PostgreSQL and MariaDB under a ceiling on requests: no transaction is refused half way, who is refused goes on on the
same connection, and what is no request is left alone.

    test_requests_sql.py [NAME]...      only tests whose name contains one of these
"""
import atexit
import contextlib
import functools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading

import harness
import mysql_wire
import postgres_wire
from harness import Skipped, free_port, run_tests
from postgres_wire import BIND, EXECUTE, FLUSH, SYNC, parse, series, simple

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
BPCTL = BUILD + "/bpctl"
POSTGRES = "/usr/lib/postgresql/15/bin/"
PATIENCE = 120
wait_until = functools.partial(harness.wait_until, patience=PATIENCE)
TRY_AGAIN = 1213


# --- the servers, each started once ---

class Service:
    """A server under a ceiling of `places` requests, which refuses."""

    def __init__(self, kind, places, user=None):
        self.kind, self.places, self.port = kind, places, free_port()
        self.name = f"sql-{kind}-{os.getpid()}"
        self.user = user if os.geteuid() == 0 else None
        self.directory = tempfile.mkdtemp(prefix="backpressure-sql-")
        atexit.register(self.end)
        os.chmod(self.directory, 0o777)
        self.process = None

    def as_user(self, *command):
        if not self.user:
            return list(command)
        return ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups", *command]

    def run(self, *command, **options):
        return subprocess.run(self.as_user(*command), check=True, capture_output=True, text=True, timeout=PATIENCE,
                              **options)

    def start(self, *command):
        log = open(self.directory + "/log", "w", encoding="utf-8")
        limits = [f"total-requests={self.places}", "when-full=busy", "queue-delay=off"]
        self.process = subprocess.Popen(self.as_user(BPCTL, "run", "--name", self.name, *limits, "--", *command),
                                        stdout=log, stderr=log)

    def end(self):
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def bpctl(self, *arguments):
        return self.run(BPCTL, *arguments).stdout

    def figures(self):
        return json.loads(self.bpctl("show", self.name, "--json"))["requests"]

    def set(self, **limits):
        self.bpctl("set", self.name, *(f"{key.replace('_', '-')}={value}" for key, value in limits.items()))

    @contextlib.contextmanager
    def limits(self, when_full="busy", queue_delay="off"):
        self.set(when_full=when_full, queue_delay=queue_delay)
        try:
            yield
        finally:
            self.set(when_full="busy", queue_delay="off")


@functools.lru_cache(None)
def postgres():
    if not os.path.exists(POSTGRES + "postgres"):
        raise Skipped("PostgreSQL 15 is not installed")
    service = Service("postgres", 2, "postgres")
    data = service.directory + "/data"
    service.run(POSTGRES + "initdb", "-D", data, "-A", "trust", "-N", "-U", "postgres")
    service.start(POSTGRES + "postgres", "-D", data, "-c", "listen_addresses=127.0.0.1", "-p", str(service.port), "-c",
                  "unix_socket_directories=", "-c", "fsync=off", "-c", "max_connections=200", "-c",
                  "shared_buffers=32MB", "-c", "max_prepared_transactions=5")
    ready = [POSTGRES + "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(service.port)]
    wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, "PostgreSQL's readiness")
    session = service.session = postgres_wire.Session(service.port)
    session.query("create table account(id int primary key, value bigint not null)")
    session.query("insert into account select i, 0 from generate_series(1, 50) i")
    return service


@functools.lru_cache(None)
def mariadb():
    if not shutil.which("mariadbd"):
        raise Skipped("MariaDB is not installed")
    service = Service("mariadb", 2)
    data = service.directory + "/data"
    user = "root" if os.geteuid() == 0 else os.environ.get("USER", "nobody")
    service.run("mariadb-install-db", "--no-defaults", f"--datadir={data}", f"--user={user}",
                "--auth-root-authentication-method=normal", "--skip-test-db")
    service.start("mariadbd", "--no-defaults", f"--user={user}", f"--datadir={data}", f"--port={service.port}",
                  "--bind-address=127.0.0.1", f"--socket={service.directory}/socket", "--skip-name-resolve",
                  "--innodb-flush-method=nosync", "--local-infile=1", "--max-connections=200")

    def answers():
        assert service.process.poll() is None, "mariadbd has ended"
        with contextlib.suppress(OSError, mysql_wire.Refused):
            return mysql_wire.Session(service.port)

    session = service.session = wait_until(answers, "MariaDB's readiness")
    session.query("create database test")
    session.query("use test")
    session.query("create table account(id int primary key, value bigint not null) engine=innodb")
    session.query("insert into account select seq, 0 from seq_1_to_50")
    return service


def at_rest(service):
    """Waits until nobody has a place any more: who has answered just now may have."""
    wait_until(lambda: service.figures()["in_flight"] == 0, "rest")


def postgres_session(service):
    session = postgres_wire.Session(service.port)
    at_rest(service)
    return session


def mysql_session(service, **options):
    session = mysql_wire.Session(service.port, **options)
    with service.limits(when_full="hold"):
        session.query("use test")
    at_rest(service)
    return session


# --- a server that is full ---

def lock_postgres(session, waits):
    session.send(simple("select pg_advisory_xact_lock(1)" if waits else "begin; select pg_advisory_xact_lock(1)"))
    if not waits:
        session.answer()


def lock_mariadb(session, waits):
    if waits:
        session.command(mysql_wire.QUERY, b"do if(get_lock('full', 600), release_lock('full'), 0)")
    else:
        session.query("do get_lock('full', 600)")


@contextlib.contextmanager
def full(service):
    """As many sessions as there are places wait for a lock; `release` lets them go on."""
    lock, session = (lock_postgres, postgres_wire.Session) if service.kind == "postgres" else \
        (lock_mariadb, mysql_wire.Session)
    owner, waiters = session(service.port), [session(service.port) for _ in range(service.places)]
    released = []

    def release():
        if not released:
            released.append(True)
            owner.close()
            for waiter in waiters:
                waiter.answer() if service.kind == "postgres" else waiter.results()
                waiter.close()

    lock(owner, False)
    at_rest(service)
    for waiter in waiters:
        lock(waiter, True)
    wait_until(lambda: service.figures()["in_flight"] == service.places, "a full server")
    try:
        yield release
    finally:
        release()
        at_rest(service)


def refused(work, *arguments):
    """Whether it was refused in the way that means: try again. A session that was refused waits the next time, until it
    was served."""
    try:
        work(*arguments)
    except postgres_wire.Refused as error:
        assert error.state == "40001", error
        return True
    except mysql_wire.Refused as error:
        assert (error.number, error.state) == (TRY_AGAIN, "40001"), error
        return True
    return False


# --- PostgreSQL ---

PGBENCH = """\\set id random(1, 50)
begin;
update account set value = value + 1 where id = :id;
select sum(value), pg_sleep(0.003) from account;
commit;
"""


def pgbench(mode, *more):
    service, clients, each = postgres(), 12, 15
    script = service.directory + "/script"
    with open(script, "w", encoding="ascii") as file:
        file.write(PGBENCH)
    before = service.session.value("select sum(value) from account")
    figures = service.figures()
    out = subprocess.run(["pgbench", "-n", "-h", "127.0.0.1", "-p", str(service.port), "-U", "postgres", "-M", mode, "-c",
                          str(clients), "-j", "2", "-t", str(each), "-f", script, *more, "postgres"],
                         capture_output=True, text=True, timeout=PATIENCE * 2, check=False,
                         env={**os.environ, "PGSSLMODE": "disable"})
    assert out.returncode == 0, out.stderr[-2000:]
    assert f"number of transactions actually processed: {clients * each}/{clients * each}" in out.stdout, out.stdout
    at_rest(service)
    after = service.session.value("select sum(value) from account")
    assert int(after) - int(before) == clients * each, (before, after)
    shed = service.figures()["shed_busy"] + service.figures()["shed_late"] - figures["shed_busy"] - figures["shed_late"]
    return out.stderr, shed


def check_pgbench(mode):
    errors, shed = pgbench(mode, "--max-tries=1000000", "--verbose-errors")
    commands = set(re.findall(r"got an error in command (\d+)", errors))
    assert commands == {"1"}, commands  # `begin`; the one before it is \set
    assert shed > 0, "nobody was refused"
    assert "aborted" not in errors, errors[-1000:]


def test_pgbench_tries_again_and_no_transaction_is_refused_half_way():
    check_pgbench("simple")


def test_the_same_in_the_extended_protocol():
    check_pgbench("extended")


def test_the_same_with_prepared_statements():
    check_pgbench("prepared")


def test_whoever_waits_too_long_is_refused_likewise():
    with postgres().limits(when_full="hold", queue_delay="5ms"):
        check_pgbench("extended")


def test_held_nobody_sees_anything():
    with postgres().limits(when_full="hold"):
        errors, shed = pgbench("extended", "--max-tries=1")
    assert shed == 0 and "error" not in errors, (shed, errors)


def test_psql_reads_the_refusal_and_goes_on():
    service = postgres()
    psql = subprocess.Popen(["psql", "-X", "-q", "-A", "-t", "-h", "127.0.0.1", "-p", str(service.port), "-U", "postgres",
                             "-v", "VERBOSITY=verbose"],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1)

    def say(text):
        psql.stdin.write(text + "\n")
        psql.stdin.flush()
        return psql.stdout.readline().strip()

    backend = say("select pg_backend_pid();")
    with full(service) as release:
        assert "ERROR:  40001: the server is busy" in say("select 1;")
        release()
        assert say("select pg_backend_pid();") == backend
    psql.stdin.close()
    assert psql.wait(PATIENCE) == 0


def test_what_stands_inside_a_transaction_goes_on_in_a_full_server():
    service = postgres()
    inside, outside, other = (postgres_session(service) for _ in range(3))
    inside.query("begin")
    inside.query("insert into account values (1000, 1)")
    with full(service):
        assert refused(outside.query, "select 1") and refused(other.ask, series("select 1"))
        inside.query("update account set value = 2 where id = 1000")
        assert inside.value("select value from account where id = 1000") == "2"
        inside.ask(series("delete from account where id = 1000", "commit"))
        assert inside.status == "I"
        assert refused(inside.query, "select 1")
    assert outside.value("select 1") == "1" and inside.value("select 2") == "2"
    for session in (inside, outside, other):
        session.close()


def test_a_failed_transaction_can_be_ended_in_a_full_server():
    service = postgres()
    session = postgres_session(service)
    session.query("begin")
    with contextlib.suppress(postgres_wire.Refused):
        session.query("select 1/0")
    assert session.status == "E"
    with full(service):
        session.query("rollback")
        assert session.status == "I"
        assert refused(session.query, "begin")
    session.close()


def test_what_was_prepared_for_two_phases_can_be_ended():
    service = postgres()
    session = postgres_session(service)
    for text in ("begin", "insert into account values (1001, 1)", "prepare transaction 'two'"):
        session.query(text)
    with full(service) as release:
        session.send(simple("rollback prepared 'two'"))
        wait_until(lambda: service.figures()["waiting"] == 1, "one that waits")
        release()
        session.answer()
    session.close()


def test_a_series_is_refused_as_one_and_prepared_statements_stay():
    service = postgres()
    session = postgres_session(service)
    session.ask(parse("select 41 + 1", b"kept") + SYNC)
    execute = message_bind(b"kept") + EXECUTE + SYNC
    with full(service):
        before = service.figures()["shed_busy"]
        assert refused(session.ask, series("insert into account values (1002, 1)", "insert into account values (1003, 1)"))
        assert service.figures()["shed_busy"] == before + 1
        # To prepare is no request of its own.
        session.ask(parse("select 43", b"other") + SYNC)
    assert any(b"42" in body for kind, body in session.ask(execute) if kind == b"D")
    with full(service):
        assert refused(session.ask, execute)
    assert any(b"43" in body for kind, body in session.ask(message_bind(b"other") + EXECUTE + SYNC) if kind == b"D")
    assert session.value("select count(*) from account where id > 1000") == "0"
    session.close()


def message_bind(name):
    return postgres_wire.message(b"B", b"\0" + name + b"\0" + b"\0" * 6)


def test_what_was_sent_behind_a_begin_is_not_left_without_it():
    service = postgres()
    session = postgres_session(service)
    texts = ["begin", "insert into account values (1004, 1)", "insert into account values (1005, 1)", "rollback"]
    for form in (simple, series):
        with full(service) as release:
            session.send(b"".join(form(text) for text in texts))
            wait_until(lambda: service.figures()["waiting"] == 1, "one that waits")
            release()
            statuses = []
            for _ in texts:
                session.answer()
                statuses.append(session.status)
            assert statuses == ["T", "T", "T", "I"], statuses
    assert session.value("select count(*) from account where id > 1000") == "0"
    session.close()


def test_what_was_flushed_is_not_refused_in_its_middle():
    service = postgres()
    session = postgres_session(service)
    session.send(parse("insert into account values (1006, 1)") + BIND + EXECUTE + FLUSH)
    while session.next()[0] != b"C":
        pass
    with full(service):
        session.ask(parse("insert into account values (1007, 1)") + BIND + EXECUTE + SYNC)
    assert session.value("select count(*) from account where id in (1006, 1007)") == "2"
    session.query("delete from account where id > 1000")
    session.close()


def test_a_long_statement_is_refused_whole_and_one_that_was_read_in_part_is_not():
    service = postgres()
    session, other = postgres_session(service), postgres_session(service)
    for length in (5000, 30000):
        long = "select length('" + "x" * length + "')"
        with full(service):
            assert refused(session.query, long) and refused(other.ask, series(long, "select 1"))
        assert session.value(long) == other.value(long) == str(length)
    # The backend has read a part of its first message's header, and asks for more.
    text = series("select length('" + "y" * 5000 + "')")
    session.send(text[:3])
    wait_until(lambda: unread(service.port, session.socket) == 0, "the first bytes being read")
    with full(service) as release:
        session.send(text[3:])
        wait_until(lambda: service.figures()["waiting"] == 1, "one that waits")
        release()
        assert any(b"5000" in body for kind, body in session.answer() if kind == b"D")
    session.close()
    other.close()


def unread(port, client):
    """Bytes that the server's side of the connection has not read."""
    pair = [f"0100007F:{end:04X}" for end in (port, client.getsockname()[1])]
    with open("/proc/net/tcp", encoding="ascii") as table:
        for line in table:
            fields = line.split()
            if fields[1:3] == pair:
                return int(fields[4].split(":")[1], 16)
    return None


def test_notifications_come_in_a_full_server():
    service = postgres()
    listener, notifier = postgres_session(service), postgres_session(service)
    listener.query("listen news")
    notifier.query("begin")
    with full(service):
        notifier.query("notify news, 'word'")
        notifier.query("commit")
        kind, body = listener.next()
        assert kind == b"A" and b"news\0word\0" in body, (kind, body)
    listener.query("unlisten news")
    listener.close()
    notifier.close()


def test_copy_goes_on_in_a_full_server():
    service = postgres()
    session = postgres_session(service)
    session.query("create temp table copied(text text)")
    rows = b"".join(b"row %d\n" % i for i in range(20000))
    session.send(simple("copy copied from stdin"))
    assert session.next()[0] == b"G"
    with full(service):
        for at in range(0, len(rows), 7000):
            session.send(postgres_wire.message(b"d", rows[at:at + 7000]))
        session.send(postgres_wire.message(b"c"))
        session.answer()
        assert refused(session.query, "select 1")
    back = b"".join(body for kind, body in session.query("copy copied to stdout") if kind == b"d")
    assert back == rows, (len(back), len(rows))
    session.close()


def test_copies_of_the_cluster_and_of_its_log_are_streams():
    service = postgres()
    at = ["-h", "127.0.0.1", "-p", str(service.port), "-U", "postgres"]
    slot = ["--slot", f"slot_{os.getpid()}", "-D", service.directory + "/log-copy"]
    os.mkdir(service.directory + "/log-copy")
    with full(service):
        subprocess.run([POSTGRES + "pg_basebackup", *at, "-D", service.directory + "/copy", "-X", "stream", "-c", "fast"],
                       check=True, capture_output=True, timeout=PATIENCE)
        subprocess.run([POSTGRES + "pg_receivewal", *at, *slot, "--create-slot"], check=True, capture_output=True,
                       timeout=PATIENCE)
        receiver = subprocess.Popen([POSTGRES + "pg_receivewal", *at, *slot, "-n"], stderr=subprocess.DEVNULL)
        wait_until(lambda: os.listdir(service.directory + "/log-copy"), "a copy of the log")
        assert service.figures()["streams"] >= 1
        receiver.terminate()
        receiver.wait(PATIENCE)
    service.session.query(f"select pg_drop_replication_slot('slot_{os.getpid()}')")
    assert os.path.exists(service.directory + "/copy/PG_VERSION")


# --- MariaDB ---

def transactions(session, count, counts):
    """So many transactions of three statements, each tried again until it is committed."""
    while count:
        step = 0
        try:
            for text in ("begin", "update account set value = value + 1 where id = " + str(count % 50 + 1),
                         "select sum(value), sleep(0.003) from account", "commit"):
                session.query(text)
                step += 1
            count -= 1
        except mysql_wire.Refused as error:
            assert error.number == TRY_AGAIN, error
            if "busy" not in error.args[2]:  # a true deadlock
                continue
            assert step == 0, f"refused at statement {step}"
            counts["refused"] += 1


def sums_and_identities(service, sessions):
    """What the accounts sum up to, and which connections the sessions are. A thread that has answered just now may still
    have a place: here nobody is refused for that."""
    with service.limits(when_full="hold"):
        return (int(service.session.value("select sum(value) from account")),
                [session.value("select connection_id()") for session in sessions])


def many_transactions(**limits):
    service, each = mariadb(), 15
    sessions = [mysql_session(service) for _ in range(12)]
    before = sums_and_identities(service, sessions)
    counts, failures = {"refused": 0}, []

    def work(session):
        try:
            transactions(session, each, counts)
        except Exception as error:  # pylint: disable=broad-except
            failures.append(repr(error))

    with service.limits(**limits):
        threads = [threading.Thread(target=work, args=(session,)) for session in sessions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures, failures[:3]
    after = sums_and_identities(service, sessions)
    assert after == (before[0] + each * len(sessions), before[1]), (before, after)
    for session in sessions:
        session.close()
    return counts["refused"]


def test_mariadb_refuses_no_transaction_half_way():
    assert many_transactions() > 0, "nobody was refused"


def test_mariadb_refuses_whoever_waits_too_long_likewise():
    assert many_transactions(when_full="hold", queue_delay="5ms") > 0, "nobody was refused"


def test_mariadb_holds_and_nobody_sees_anything():
    assert many_transactions(when_full="hold") == 0


def test_the_mysql_client_reads_the_refusal_and_goes_on():
    service = mariadb()
    client = subprocess.Popen(["mysql", "--no-defaults", "-N", "-n", "-A", "--force", "-h", "127.0.0.1", "-P",
                               str(service.port), "-u", "root"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1)

    def say(text):
        """What it prints for the statement; before an error it prints that, too."""
        client.stdin.write(text + "\n")
        client.stdin.flush()
        return next(line.strip() for line in client.stdout if line.startswith("ERROR") or line.strip().isdigit())

    identity = say("select connection_id();")
    with full(service) as release:
        assert "ERROR 1213 (40001)" in (said := say("select 1;")), said
        release()
        assert say("select connection_id();") == identity
    client.stdin.close()
    assert client.wait(PATIENCE) in (0, 1)


def test_what_stands_inside_a_transaction_of_mariadb_goes_on():
    service = mariadb()
    outside = mysql_session(service)
    ways = {"begin": ["begin", "select count(*) from account"],
            "autocommit": ["set autocommit=0", "select count(*) from account"],
            "several": ["select 1; begin; select 2"],
            "procedure": ["create or replace procedure opens() begin select 1; start transaction; select 2; end",
                          "call opens()"],
            "read only": ["start transaction read only"],
            "locked": ["lock tables account write"]}
    for capabilities in (mysql_wire.USUAL, mysql_wire.USUAL | mysql_wire.DEPRECATE_EOF):
        for name, texts in ways.items():
            inside = mysql_session(service, capabilities=capabilities)
            for text in texts:
                inside.query(text)
            with full(service):
                assert refused(outside.query, "select 1"), name
                inside.query("select count(*) from account")
            inside.query("rollback")
            inside.query("unlock tables")
            with full(service):
                assert refused(inside.query, "select 1"), name
            inside.close()
            outside.query("select 1")
    outside.close()


def test_an_implicit_commit_ends_the_transaction():
    service = mariadb()
    session = mysql_session(service)
    for text in ("begin", "insert into account values (1000, 1)", "create or replace table other(a int)"):
        session.query(text)
    with full(service):
        assert refused(session.query, "delete from account where id = 1000")
    session.query("delete from account where id = 1000")
    session.close()


def test_the_binary_protocol_and_cursors():
    service = mariadb()
    for capabilities in (mysql_wire.USUAL, mysql_wire.USUAL | mysql_wire.DEPRECATE_EOF):
        session = mysql_session(service, capabilities=capabilities)
        statement = session.prepare("select id from account where id > ? order by id")
        begins, commits = session.prepare("begin"), session.prepare("commit")
        session.execute(statement, 0, cursor=True)
        with full(service):
            # What belongs to what was asked before, what prepares, and what only asks whether the server lives.
            assert len(session.fetch(statement, 10)) == 11
            session.prepare("select 1")
            session.ping()
            assert refused(session.execute, statement, 0)
        session.execute(begins)
        session.execute(statement, 0)
        with full(service):
            session.execute(statement, 0)
            session.execute(statement, 0, cursor=True)
            session.fetch(statement, 100)
            session.execute(commits)
            assert refused(session.execute, statement, 0)
        session.close()


def test_long_data_is_not_sent_twice():
    service = mariadb()
    session = mysql_session(service)
    session.query("create or replace table texts(text longtext)")
    statement = session.prepare("insert into texts values (?)")
    execute = statement.to_bytes(4, "little") + b"\0\1\0\0\0\0\1\xfc\0"
    with full(service) as release:
        session.command(0x18, statement.to_bytes(4, "little") + b"\0\0once")
        session.command(mysql_wire.EXECUTE, execute)
        wait_until(lambda: service.figures()["waiting"] == 1, "one that waits")
        release()
        session.results()
    assert session.value("select text from texts") == "once"
    session.close()


def test_a_local_file_is_loaded_in_a_full_server():
    service = mariadb()
    session = mysql_session(service)
    session.query("create or replace table loaded(text text)")
    session.command(mysql_wire.QUERY, b"load data local infile 'any' into table loaded")
    number, payload = session.packet()
    assert payload[0] == 0xfb, payload
    with full(service):
        for _ in range(600):  # more packets than there are numbers
            number = number + 1 & 0xff
            session.socket.sendall(b"\x08\0\0" + bytes((number,)) + b"\x12 a row\n")
        session.socket.sendall(b"\0\0\0" + bytes((number + 1 & 0xff,)))
        session.results()
        assert refused(session.query, "select 1")
    assert session.value("select count(*) from loaded") == "600"
    session.close()


def test_a_long_statement_to_mariadb_is_refused_whole():
    service = mariadb()
    session = mysql_session(service)
    for length in (5000, 30000):
        long = "select length('" + "x" * length + "')"
        with full(service):
            assert refused(session.query, long)
        assert session.value(long) == str(length)
    session.close()


def test_a_dump_of_mariadb_is_whole():
    service = mariadb()
    with service.limits(when_full="hold"):
        out = subprocess.run(["mariadb-dump", "--no-defaults", "-h", "127.0.0.1", "-P", str(service.port), "-u", "root",
                              "--single-transaction", "test", "account"], capture_output=True, text=True, check=True,
                             timeout=PATIENCE)
    assert "Dump completed" in out.stdout, out.stdout[-300:]


if __name__ == "__main__":
    sys.exit(run_tests(dict(globals()), sys.argv[1:]))
