#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Programs that put a seccomp filter around themselves are served as without the shim, whatever limits are set and
whoever looks: nothing is asked of the kernel that would get them killed.

    test_sandboxes.py [NAME]...       only tests whose name contains one of these
"""
import contextlib
import ftplib
import functools
import io
import json
import os
import pty
import socket
import subprocess
import sys
import tempfile
import threading

import harness
from harness import Skipped, connected, free_port, needs_root, run_tests

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
BPCTL = BUILD + "/bpctl"
SANDBOXED = BUILD + "/tests/sandboxed"
# In a build with a sanitizer its runtime has to come first.
PRELOAD = ":".join(filter(None, [os.environ.get("SANITIZER_RUNTIME"), BUILD + "/libbackpressure.so"]))
wait_until = functools.partial(harness.wait_until, patience=60)
LIMITS = ("total-conns=40 conns=auto:20..40 peer-conns=40 queue-delay=10s buffer=4M conn-buffer=1M stall=30s "
          "send-rate=100M conn-send-rate=50M connect-conns=20")
FILTERS = ("kill", "trap", "errno", "raw", "twice", "strict", "forbidding")


def bpctl(*arguments):
    return subprocess.run([BPCTL, *arguments], capture_output=True, text=True, check=False)


@contextlib.contextmanager
def watched(name):
    """`bpctl top` on a terminal of its own, and `bpctl metrics` again and again."""
    assert bpctl("metrics").returncode == 0
    over = threading.Event()
    top, there = pty.openpty()
    process = subprocess.Popen([BPCTL, "top", name], stdin=there, stdout=there, stderr=there,
                               env={**os.environ, "TERM": "xterm"}, start_new_session=True)
    os.close(there)

    def read_screen():
        with contextlib.suppress(OSError):
            while os.read(top, 65536):
                pass

    def ask():
        while not over.wait(0.1):
            bpctl("metrics")
    threads = [threading.Thread(target=work) for work in (read_screen, ask)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        process.kill()
        process.wait()
        for thread in threads:
            thread.join()
        os.close(top)


class Server:
    """`command` under the limits; its port, and what it said."""

    def __init__(self, command, limits=LIMITS, preload=PRELOAD):
        self.name = f"sandboxes-{os.getpid()}-{free_port()}"
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, start_new_session=True,
                                        env={**os.environ, "LD_PRELOAD": preload,
                                             "BACKPRESSURE": f"name={self.name} {limits}"})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)
        self.process.wait()

    def said(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def show(self):
        shown = bpctl("show", self.name, "--json")
        return json.loads(shown.stdout) if shown.returncode == 0 else None

    def conns(self):
        shown = self.show()
        return shown["totals"]["conns"] if shown else None

    def kept_out(self):
        return [process["sandbox_keeps_out"] for process in self.show()["processes"] if "sandbox_keeps_out" in process]

    def events(self, kind):
        return [line for line in bpctl("events", self.name).stdout.splitlines() if f" {kind} " in line]


def reached(port):
    return lambda: connected(port)


def echoed(client, size=70000):
    """What is sent comes back."""
    text = os.urandom(size)
    sender = threading.Thread(target=client.sendall, args=(text,))
    sender.start()
    got = b""
    while len(got) < size:
        part = client.recv(65536)
        assert part, f"the connection ended after {len(got)} bytes"
        got += part
    sender.join()
    assert got == text


def talk_to(server, port, clients=3):
    """Clients that stay, while limits change and somebody looks. They are still connected at the end."""
    inside = [wait_until(reached(port), server.said) for _ in range(clients)]
    for client in inside:
        client.settimeout(60)
        echoed(client)
    with watched(server.name):
        for stall in ("20s", "off", "30s"):
            assert bpctl("set", server.name, f"stall={stall}", f"buffer={'off' if stall == 'off' else '4M'}").returncode == 0
            for client in inside:
                echoed(client)
    return inside


def leave(server, inside):
    for client in inside:
        client.close()
    wait_until(lambda: server.conns() == 0, lambda: f"nobody is inside any more: {server.show()}")
    assert "child" not in server.said(), server.said()


def check_filter(name, style):
    port = free_port()
    with Server([SANDBOXED, name, style, str(port)]) as server:
        inside = talk_to(server, port)
        wait_until(lambda: server.conns() == len(inside), lambda: f"3 are counted: {server.show()}")
        lacks = {"forbidding": []}.get(name, ["conns", "bytes", "connects"])
        assert server.kept_out() == [lacks] * (3 if style == "fork" else 1), server.kept_out()
        assert len(server.events("sandboxed")) == (1 if lacks else 0), server.events("sandboxed")
        leave(server, inside)
        assert server.process.poll() is None, server.said()


def test_a_process_for_each_client():
    for name in FILTERS:
        check_filter(name, "fork")


def test_one_process_that_accepts_in_its_sandbox():
    for name in FILTERS:
        if name != "strict":  # which knows no accept
            check_filter(name, "alone")


def test_where_the_filter_allows_it_ceilings_hold():
    port = free_port()
    with Server([SANDBOXED, "forbidding", "alone", str(port)], "total-conns=2 stall=30s") as server:
        inside = [wait_until(reached(port), server.said) for _ in range(2)]
        for client in inside:
            echoed(client)
        third = wait_until(reached(port), server.said)
        third.settimeout(60)
        third.sendall(b"in?")
        wait_until(lambda: server.show()["totals"]["held"] == 1, "the third is held")
        assert server.conns() == 2
        inside.pop().close()
        assert third.recv(16) == b"in?"
        leave(server, [*inside, third])


def test_a_filter_that_allows_the_end_alone():
    for name in FILTERS:
        if name == "strict":  # which knows no exit_group
            continue
        ended = subprocess.run([SANDBOXED, name, "end"], check=False, timeout=60,
                               env={**os.environ, "LD_PRELOAD": PRELOAD,
                                    "BACKPRESSURE": f"name=sandboxes-end-{os.getpid()} {LIMITS}"})
        assert ended.returncode == 7, (name, ended.returncode)


# --- real servers ---

class Sshd(Server):
    """Debian's, with the sandbox it has before a login; root may log in with a key."""

    def __init__(self, directory):
        self.port = free_port()
        self.key = directory + "/user"
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{directory}/{key}"], check=True)
        config = directory + "/sshd_config"
        with open(config, "w", encoding="ascii") as file:
            file.write(f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {directory}/host\nPidFile none\nUsePAM no\n"
                       f"AuthorizedKeysFile {directory}/user.pub\nStrictModes no\nPermitRootLogin prohibit-password\n"
                       "MaxStartups 1000\nPrintMotd no\nLogLevel VERBOSE\n")
        super().__init__(["/usr/sbin/sshd", "-D", "-e", "-f", config])

    def log_in(self):
        return subprocess.run(["ssh", "-F", "/dev/null", "-i", self.key, "-p", str(self.port), "-o", "BatchMode=yes",
                               "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o",
                               "LogLevel=ERROR", "root@127.0.0.1", "echo inside"], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, check=False, timeout=120)


def log_in_many(server, logins, at_once):
    """How each of them failed: nothing where none did."""
    failed, turn = [], iter(range(logins))
    lock = threading.Lock()

    def work():
        while True:
            with lock:
                if next(turn, None) is None:
                    return
            result = server.log_in()
            if result.stdout != "inside\n":
                failed.append(result)
    workers = [threading.Thread(target=work) for _ in range(at_once)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return failed


def test_logins_by_ssh():
    needs_root()
    if not os.path.exists("/usr/sbin/sshd"):
        raise Skipped("no sshd")
    logins = int(os.environ.get("LOGINS", "12"))
    with tempfile.TemporaryDirectory() as directory, Sshd(directory) as server:
        wait_until(reached(server.port), server.said).close()
        with watched(server.name):
            failed = log_in_many(server, logins, 4)
        assert not failed, (len(failed), failed[0], server.said()[-3000:])
        assert server.said().count("Accepted publickey") == logins
        assert len(server.events("sandboxed")) == 1
        wait_until(lambda: server.conns() == 0, "all have left")


def transfer(port, content, name):
    """Fetches the file, and sends it back under another name."""
    with ftplib.FTP() as client:
        client.connect("127.0.0.1", port, 60)
        client.login()
        got = io.BytesIO()
        client.retrbinary("RETR file", got.write)
        assert got.getvalue() == content
        client.storbinary(f"STOR incoming/{name}", io.BytesIO(content))
        client.quit()


def test_transfers_by_ftp():
    """Debian's vsftpd in its sandbox, which its own libc does not fit any more: old_calls.c tells more."""
    needs_root()
    if not os.path.exists("/usr/sbin/vsftpd") or os.uname().machine != "x86_64":
        raise Skipped("no vsftpd that works in its sandbox")
    port = free_port()
    os.makedirs("/run/vsftpd/empty", mode=0o755, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        content = os.urandom(3_000_000)
        with open(directory + "/file", "wb") as file:
            file.write(content)
        os.chmod(directory + "/file", 0o644)
        os.mkdir(directory + "/incoming")
        os.chmod(directory + "/incoming", 0o777)
        config = directory + "/vsftpd.conf"
        with open(config, "w", encoding="ascii") as file:
            file.write(f"listen=YES\nlisten_address=127.0.0.1\nlisten_port={port}\nbackground=NO\nanonymous_enable=YES\n"
                       f"local_enable=NO\nsecure_chroot_dir=/run/vsftpd/empty\nseccomp_sandbox=YES\nanon_root={directory}\n"
                       "write_enable=YES\nanon_upload_enable=YES\nanon_umask=022\n")
        preload = f"{PRELOAD}:{BUILD}/tests/old_calls.so"
        # TZ in full, so that no time is looked up in a file.
        with Server(["env", "TZ=UTC0", "/usr/sbin/vsftpd", config], preload=preload) as server:
            wait_until(reached(port), server.said).close()
            with watched(server.name):
                for turn in range(6):
                    transfer(port, content, str(turn))
                    with open(f"{directory}/incoming/{turn}", "rb") as file:
                        assert file.read() == content
            wait_until(lambda: server.conns() == 0, "all have left")


if __name__ == "__main__":
    sys.exit(run_tests(dict(globals()), sys.argv[1:]))
