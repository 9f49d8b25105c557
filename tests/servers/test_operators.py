#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""What operators use: top, metrics, check, events, configuration, completion, service managers.

    test_operators.py [NAME]...      only tests whose name contains one of these
"""
import fcntl
import functools
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time

import harness
from harness import free_port, needs_root, run_tests

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
BUILD = os.path.abspath(os.environ.get("BUILD", ROOT + "/build"))
BPCTL = BUILD + "/bpctl"
PYTHON = "/usr/bin/python3"
wait_until = functools.partial(harness.wait_until, patience=60)
BECOME_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
COMMANDS = "run ls show set pause resume drain top depth events metrics check probe".split()


def run(*command, **more):
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **more)


def bpctl(*arguments, **more):
    return run(BPCTL, *arguments, **more)


class Server:
    """python's own HTTP server, under limits."""

    def __init__(self, *limits, name=None, environment=None, extra=(), directory=BUILD, launcher=()):
        self.port = free_port()
        self.name = name or f"operators-{os.getpid()}-{self.port}"
        self.process = subprocess.Popen(
            [directory + "/bpctl", "run", "--name", self.name, *extra, *limits, "--", *launcher, PYTHON, "-m",
             "http.server", "--bind", "127.0.0.1", str(self.port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})})

    def __enter__(self):
        wait_until(self.get, "the server")
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        bpctl("ls")

    def get(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2) as client:
                if client.getsockname() == client.getpeername():
                    return False
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answer = b""
                while (part := client.recv(65536)):
                    answer += part
                return b" 200 " in answer
        except OSError:
            return False

    def show(self):
        return json.loads(bpctl("show", self.name, "--json").stdout)


# --- top ---

def on_terminal(controlling):
    """Before exec: without the terminal as the controlling one nobody sends SIGHUP; with it, it is ignored."""
    if controlling:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A terminal of 80 columns, by tmux."""

    def __init__(self, command, columns=80, lines=24):
        self.directory = tempfile.mkdtemp(prefix="backpressure-tmux-")
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", str(lines), command)

    def tmux(self, *arguments):
        return run("tmux", "-S", self.directory + "/socket", *arguments,
                   env={**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"})

    def screen(self):
        return self.tmux("capture-pane", "-p").stdout

    def keys(self, *keys):
        self.tmux("send-keys", *keys)

    def shows(self, text):
        wait_until(lambda: text in self.screen(), f"{text!r} on\n{self.screen()}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.tmux("kill-server")
        shutil.rmtree(self.directory, ignore_errors=True)


def test_top_shows_ceilings_rates_and_times_and_obeys_keys():
    with Server("total-conns=50", "buffer=64K") as server, Terminal(f"{BPCTL} top {server.name}") as terminal:
        terminal.shows("total-conns")

        def measured():
            server.get()
            return re.search(r"read to write p50 .* p99", terminal.screen())
        wait_until(measured, "times of requests")
        screen = terminal.screen()
        assert "0/50" in screen or "1/50" in screen, screen
        assert re.search(r"buffer +\[-+\] +0%  0/64.0K", screen), screen
        assert re.search(r"accept wait +p50 .* p99", screen), screen
        assert f"127.0.0.1:{server.port}" in screen, screen
        assert max(map(len, screen.split("\n"))) <= 80, screen
        terminal.keys("l")
        terminal.keys("-l", "total-conns=70 peer-conns=9")
        terminal.keys("Enter")
        terminal.shows("total-conns=70 peer-conns=9 set")
        assert server.show()["limits"]["total-conns"] == "70"
        terminal.keys("l")
        terminal.keys("-l", "bogus=1")
        terminal.keys("Enter")
        terminal.shows("bogus: unknown limit")
        terminal.keys("p")
        terminal.shows("PAUSED")
        assert server.show()["admission"] == "paused"
        terminal.keys("d")
        terminal.shows("DRAINING")
        terminal.keys("r")
        terminal.shows("  open")
        terminal.tmux("resize-window", "-x", "50", "-y", "12")
        terminal.shows("bpctl top")
        terminal.tmux("resize-window", "-x", "120", "-y", "30")
        terminal.shows("PID COMMAND")
        terminal.keys("q")
        wait_until(lambda: terminal.tmux("has-session").returncode != 0, "the end of top")


def test_top_ends_with_its_terminal():
    """Also where no SIGHUP tells it: reads say the end then, at once and for ever."""
    for ignoring in (False, True):
        with Server("total-conns=50") as server:
            master, slave = pty.openpty()
            try:
                top = subprocess.Popen(
                    [BPCTL, "top", server.name], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                    env={**os.environ, "TERM": "xterm"}, preexec_fn=functools.partial(on_terminal, ignoring))
            finally:
                os.close(slave)
            try:
                seen = b""
                while server.name.encode() not in seen:
                    assert select.select([master], [], [], 30)[0], seen
                    seen += os.read(master, 65536)
            finally:
                os.close(master)
            try:
                assert top.wait(30) == 1
            finally:
                top.kill()
                top.wait()


def test_top_without_a_terminal_points_to_show():
    with Server() as server:
        for environment in ({}, {"TERM": "nonsense"}):
            result = bpctl("top", server.name, env={**os.environ, **environment}, stdin=subprocess.DEVNULL)
            assert result.returncode == 1 and "bpctl show" in result.stderr, result
            assert len(result.stderr.strip().split("\n")) == 1, result
        assert bpctl("top", "nosuchservice").returncode == 1


# --- metrics ---

def promtool(*arguments, text=None):
    return run("promtool", *arguments, input=text)


def sample(text, name, **labels):
    for line in text.split("\n"):
        if line.startswith(name + "{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
            return float(line.rsplit(" ", 1)[1])
    return None


def get(url, *more):
    return run("curl", "-s", "-i", *more, url).stdout


def test_metrics_are_what_prometheus_wants():
    with Server("total-conns=50", "queue-delay=20ms", "buffer=1M") as server:
        bpctl("metrics")  # from now on answers are timed
        for _ in range(3):
            assert server.get()
        text = bpctl("metrics").stdout
        checked = promtool("check", "metrics", text=text)
        assert checked.returncode == 0 and not checked.stderr.strip(), checked
        assert text.endswith("# EOF\n")
        accepted = sample(text, "backpressure_connections_accepted_total", service=server.name)
        assert accepted == server.show()["totals"]["accepted"], accepted
        assert sample(text, "backpressure_limit_connections", service=server.name, limit="total-conns") == 50
        assert sample(text, "backpressure_limit_seconds", service=server.name, limit="queue-delay") == 0.02
        assert sample(text, "backpressure_limit_bytes", service=server.name, limit="buffer") == 1 << 20
        assert sample(text, "backpressure_accept_wait_seconds_count", service=server.name) >= 1
        wait_until(lambda: server.get() and sample(bpctl("metrics").stdout, "backpressure_request_duration_seconds_count",
                                                   service=server.name), "times of answers")


def test_metrics_are_served():
    with Server() as server:
        serving = subprocess.Popen([BPCTL, "metrics", "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
        try:
            url = serving.stdout.readline().strip()
            assert re.fullmatch(r"http://127.0.0.1:\d+/metrics", url), url
            plain = get(url)
            assert "text/plain; version=0.0.4" in plain, plain[:300]
            assert promtool("check", "metrics", text=plain.split("\n\n", 1)[-1].split("\r\n\r\n", 1)[-1]).returncode == 0
            open_text = get(url, "-H", "Accept: application/openmetrics-text; version=1.0.0")
            assert "application/openmetrics-text" in open_text and open_text.endswith("# EOF\n"), open_text[:300]
            assert "# TYPE backpressure_connections_accepted counter" in open_text
            assert server.name in open_text
            assert "404" in get(url + "x").split("\n")[0]
            assert "405" in get(url, "-X", "POST").split("\n")[0]
            # A server that cuts its own segment ends nobody but itself.
            segment = f"/dev/shm/backpressure.{os.geteuid()}/{server.name}"
            if os.path.exists(segment):
                os.truncate(segment, 4096)
                assert "200" in get(url).split("\n")[0]
                assert serving.poll() is None
                os.unlink(segment)
            serving.send_signal(signal.SIGTERM)
            assert serving.wait(10) == 0
        finally:
            serving.kill()
            serving.wait()


def test_metrics_say_what_is_wrong_with_an_address():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for address, code in (("nonsense", 2), ("127.0.0.1", 2), ("127.0.0.1:99999", 2), ("127.0.0.1:", 2),
                              (":9100", 2), ("::1:9100", 2), (f"127.0.0.1:{taken.getsockname()[1]}", 1)):
            result = bpctl("metrics", "--listen", address)
            assert result.returncode == code and result.stderr.count("\n") == 1, (address, result)


def test_dashboard_and_alerts_use_metrics_that_exist():
    with Server("conns=5", "total-conns=50", "total-buffer=1M"):
        text = bpctl("metrics").stdout
    known = set(re.findall(r"^# TYPE (\w+)", text, re.M))
    known |= {name + suffix for name in known for suffix in ("_bucket", "_sum", "_count")}
    checked = promtool("check", "rules", ROOT + "/tools/monitoring/alerts.yml")
    assert checked.returncode == 0, checked
    for path in ("alerts.yml", "dashboard.json"):
        with open(f"{ROOT}/tools/monitoring/{path}", encoding="utf-8") as file:
            used = set(re.findall(r"\bbackpressure_\w+", file.read()))
        assert used and not used - known, used - known
    with open(ROOT + "/tools/monitoring/dashboard.json", encoding="utf-8") as file:
        assert json.load(file)["panels"]


# --- check ---

def test_check_tells_what_limits_reach():
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        with open(directory + "/a.c", "w", encoding="ascii") as file:
            file.write("int main(void) { return 0; }\n")
        subprocess.run(["gcc", "-static", "-o", directory + "/static", directory + "/a.c"], check=True)
        with open(directory + "/script", "w", encoding="ascii") as file:
            file.write(f"#!{directory}/static\n")
        with open(directory + "/env", "w", encoding="ascii") as file:
            file.write("#!/usr/bin/env python3\n")
        for name in ("script", "env"):
            os.chmod(f"{directory}/{name}", 0o755)
        cases = [("redis-server", 0, "limits reach it"), (directory + "/static", 1, "statically linked"),
                 (directory + "/script", 1, "interpreter"), (directory + "/env", 0, "script"),
                 ("promtool", 1, "Go program"), ("mariadbd", 0, "io_uring"), ("nosuchprogram", 1, "no such program"),
                 ("4194305", 1, "no such process"), (str(os.getpid()), 1, "not mapped")]
        for what, code, said in cases:
            result = bpctl("check", what)
            assert result.returncode == code and said in result.stdout + result.stderr, (what, result)
        if os.geteuid() == 0:
            shutil.copy("/usr/bin/true", directory + "/setuid")
            os.chmod(directory + "/setuid", 0o4755)
            result = as_nobody(BPCTL, "check", directory + "/setuid")
            if os.access(BUILD, os.X_OK) and "Permission denied" not in result.stderr:
                assert result.returncode == 1 and "set-user-ID" in result.stdout, result
    assert bpctl("check").returncode == 2


def test_check_of_a_process_tells_what_was_intercepted():
    with Server("total-conns=5") as server:
        result = bpctl("check", str(server.process.pid))
        accepted = server.show()["totals"]["accepted"]
        assert result.returncode == 0 and server.name in result.stdout, result
        assert f"{accepted} accepted" in result.stdout, result


# --- events ---

def test_events_are_in_local_time_and_admit_what_was_lost():
    with Server() as server:
        first = bpctl("events", server.name, "--json", env={**os.environ, "TZ": "Asia/Kolkata"}).stdout
        assert json.loads(first.split("\n")[0])["time"].endswith("+05:30"), first
        followed = subprocess.Popen([BPCTL, "events", server.name, "--follow", "--json"], stdout=subprocess.PIPE,
                                    text=True)
        assert json.loads(followed.stdout.readline())["event"] == "started"
        os.kill(followed.pid, signal.SIGSTOP)
        rounds = 0
        while rounds < 700:  # three events each; the ring has 2048
            assert bpctl("set", server.name, f"total-conns={10 + rounds % 7}").returncode == 0
            bpctl("pause", server.name)
            bpctl("resume", server.name)
            rounds += 1
        os.kill(followed.pid, signal.SIGCONT)
        lines, lost = 1, 0
        while lines + lost < 1 + 3 * rounds:
            event = json.loads(followed.stdout.readline())
            lost += event["amount"] if event["event"] == "dropped" else 0
            lines += event["event"] != "dropped"
        assert lost >= 1 + 3 * rounds - 2048, (lines, lost)
        followed.kill()
        followed.wait()


# --- configuration, progress, help ---

def test_configuration_is_read_by_name():
    with tempfile.TemporaryDirectory() as directory:
        name = f"configured-{os.getpid()}"
        path = f"{directory}/{name}.conf"
        environment = {"BACKPRESSURE_CONFIG_DIR": directory}
        with open(path, "w", encoding="ascii") as file:
            file.write("# what the operator wants\ntotal-conns = 7\nwhen-full=busy\n".replace(" = ", "="))
        with Server("total-conns=9", name=name, environment=environment) as server:
            limits = server.show()["limits"]
            assert limits["total-conns"] == "9" and limits["when-full"] == "busy", limits
            # Who joins a running service brings no limits, though there is a file.
            assert bpctl("run", "--name", name, "--", "true", env={**os.environ, **environment}).returncode == 0
        for text, said in (("total-conns=many\n", f"{path}:1: total-conns"), ("name=other\n", "contradicts"),
                           ("peer-conns=1\nnonsense\n", f"{path}:2:")):
            with open(path, "w", encoding="ascii") as file:
                file.write(text)
            result = bpctl("run", "--name", name, "--", "true", env={**os.environ, **environment})
            assert result.returncode == 2 and said in result.stderr and result.stderr.count("\n") == 1, result


def test_drain_says_how_far_it_is():
    with Server() as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        wait_until(lambda: server.show()["totals"]["conns"] == 1, "the connection")
        result = bpctl("drain", server.name, "--timeout", "1500ms")
        assert result.returncode == 1 and "1 connections are still open after 1 s" in result.stderr, result
        client.close()
        assert bpctl("drain", server.name, "--timeout", "10").returncode == 0


def test_help_has_an_example_of_each_command():
    overview = bpctl("help").stdout
    assert bpctl("help", "--help").stdout == bpctl("--help").stdout == overview
    for command in COMMANDS:
        result = bpctl(command, "--help")
        assert result.returncode == 0 and f"Example: bpctl {command}" in result.stdout, result
        assert bpctl("help", command).stdout == result.stdout
        assert f"bpctl {command}" in overview, overview
    assert bpctl("help", "nosuch").returncode == bpctl("help", "limits", "nosuch").returncode == 2


def test_man_pages_are_clean():
    for page in os.listdir(ROOT + "/tools/man"):
        result = run("man", "--warnings", "-l", f"{ROOT}/tools/man/{page}", env={**os.environ, "MANWIDTH": "80"})
        assert result.returncode == 0 and not result.stderr, result.stderr
        result = run("mandoc", "-T", "lint", "-W", "warning", f"{ROOT}/tools/man/{page}")
        assert result.returncode == 0, result.stdout


# --- shells ---

def completed(words):
    script = f"""source {ROOT}/tools/completion/bpctl.bash
COMP_WORDS=({" ".join(f"'{word}'" for word in words)}); COMP_CWORD={len(words) - 1}
compopt() {{ :; }}
_bpctl bpctl "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
printf '%s\\n' "${{COMPREPLY[@]}}" """
    return run("bash", "-c", script, env={**os.environ, "PATH": BUILD + ":" + os.environ["PATH"]}).stdout.split()


def test_bash_completes_services_limits_and_values():
    with Server() as server:
        assert "metrics" in completed(["bpctl", "m"])
        assert completed(["bpctl", "show", server.name[:-1]]) == [server.name]
        assert "total-conns=" in completed(["bpctl", "set", server.name, "tot"])
        assert completed(["bpctl", "set", server.name, "when-full", "=", "b"]) == ["busy"]
        assert completed(["bpctl", "set", server.name, "backoff", "=", ""])[:2] == ["auto", "off"]
        assert "off" not in completed(["bpctl", "set", server.name, "jitter", "=", ""])
        assert "--follow" in completed(["bpctl", "events", server.name, "--"])
        assert "retry-after=" in completed(["bpctl", "run", "ret"])


def test_zsh_completes_services_and_limits():
    with Server() as server, tempfile.TemporaryDirectory() as directory:
        setup = (f"fpath=({ROOT}/tools/completion $fpath); autoload -Uz compinit; compinit -u -d {directory}/dump; "
                 "bindkey '^I' complete-word; setopt no_always_last_prompt; unsetopt list_beep; PS1='> '")
        with open(directory + "/.zshrc", "w", encoding="ascii") as file:
            file.write(setup + "\n")
        path = f"{BUILD}:{os.environ['PATH']}"
        with Terminal(f"env ZDOTDIR={directory} PATH={path} zsh -d") as terminal:
            terminal.shows(">")
            terminal.keys("-l", f"bpctl show {server.name[:-2]}")
            terminal.keys("Tab")
            terminal.shows(f"bpctl show {server.name}")
            terminal.keys("C-u")
            terminal.keys("-l", f"bpctl set {server.name} total-c")
            terminal.keys("Tab")
            wait_until(lambda: "total-conns=" in terminal.screen().replace("\n", ""), "the limit")
            terminal.keys("C-u")
            terminal.keys("-l", f"bpctl set {server.name} pause-reads=au")
            terminal.keys("Tab")
            wait_until(lambda: "pause-reads=auto" in terminal.screen().replace("\n", ""), "the value")


# --- service managers ---

ACTIVATED = """
import os, socket
assert os.environ["LISTEN_PID"] == str(os.getpid()), (os.environ["LISTEN_PID"], os.getpid())
assert os.environ["LISTEN_FDS"] == "1"
listener = socket.socket(fileno=3)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.connect(os.environ["NOTIFY_SOCKET"])
    notify.sendall(b"READY=1\\nMAINPID=%d" % os.getpid())
held = []
while True:
    held.append(listener.accept()[0])
    held[-1].sendall(b"in\\n")
"""


def test_readiness_and_socket_activation_pass_through():
    """As systemd does it: the socket is descriptor 3, LISTEN_PID is who execs, and it reports itself ready."""
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, \
            socket.socket() as listener:
        notify.bind(directory + "/notify")
        notify.settimeout(20)
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        name = f"activated-{os.getpid()}"
        child = os.fork()
        if child == 0:
            os.dup2(listener.fileno(), 3)
            os.set_inheritable(3, True)
            os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", NOTIFY_SOCKET=directory + "/notify")
            os.execv(BPCTL, [BPCTL, "run", "--name", name, "total-conns=2", "when-full=reset", "--", PYTHON, "-c",
                             ACTIVATED])
        try:
            said = notify.recv(256)
            assert said == b"READY=1\nMAINPID=%d" % child, said
            clients = [socket.create_connection(listener.getsockname()) for _ in range(2)]
            assert all(client.recv(3) == b"in\n" for client in clients)
            with socket.create_connection(listener.getsockname()) as third:
                third.settimeout(10)
                try:
                    assert third.recv(3) == b"", "the third one is in"
                except ConnectionResetError:
                    pass
            for client in clients:
                client.close()
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            bpctl("ls")


def test_units_are_what_systemd_takes():
    with tempfile.TemporaryDirectory() as directory:
        for unit in os.listdir(ROOT + "/tools/systemd"):
            with open(f"{ROOT}/tools/systemd/{unit}", encoding="utf-8") as file:
                text = file.read().replace("/usr/bin/bpctl", BPCTL)
            if unit.endswith(".service"):
                target = f"{directory}/{unit.replace('@', '@web')}"
            elif unit == "example.conf":
                continue
            else:
                os.makedirs(f"{directory}/{unit}.service.d")
                target = f"{directory}/{unit}.service.d/{unit}"
                with open(f"{directory}/{unit}.service", "w", encoding="ascii") as file:
                    file.write("[Service]\nExecStart=/bin/true\n")
            with open(target, "w", encoding="utf-8") as file:
                file.write(text)
        units = [f"{directory}/{unit}" for unit in os.listdir(directory) if unit.endswith(".service")]
        result = run("systemd-analyze", "verify", "--man=no", *units)
        complaints = [line for line in result.stderr.split("\n") if directory in line or "backpressure" in line]
        assert not complaints, complaints


def test_a_log_rotation_finds_nothing_of_ours_open():
    with Server("total-conns=5") as server:
        ours = [os.readlink(f"/proc/{server.process.pid}/fd/{fd}")
                for fd in os.listdir(f"/proc/{server.process.pid}/fd")]
        assert not [path for path in ours if path.startswith("/") and not path.startswith(("/dev/", "/proc/"))], ours


# --- permissions ---

def as_nobody(*command, **more):
    return run(*BECOME_NOBODY, *command, **more)


def install_for_anybody(directory):
    """What is built, where every user may read it."""
    os.chmod(directory, 0o755)
    for file in ("bpctl", "libbackpressure.so"):
        shutil.copy(f"{BUILD}/{file}", directory)


def test_a_server_whose_launcher_changes_the_user_is_found_by_its_name():
    """The service of the launcher's own user, in which nobody listens, does not stand before it."""
    needs_root()
    with tempfile.TemporaryDirectory() as directory:
        install_for_anybody(directory)
        for launcher in (BECOME_NOBODY, ["sh", "-c", '"$@" & child=$!; trap "kill $child" TERM; wait', "sh", *BECOME_NOBODY]):
            with Server("total-conns=5", directory=directory, launcher=launcher) as server:
                shown = server.show()
                assert shown["user"] == "nobody" and shown["limits"]["total-conns"] == "5", shown
                assert shown["totals"]["accepted"] > 0, shown
                assert f"{server.name} of user nobody: admission open" in bpctl("show", server.name).stdout
                assert bpctl("set", server.name, "total-conns=7").returncode == 0
                assert server.show()["limits"]["total-conns"] == "7"
                server.process.terminate()
                server.process.wait()


def test_another_user_neither_reads_nor_changes_a_service():
    needs_root()
    with Server("total-conns=5") as server, tempfile.TemporaryDirectory() as directory:
        install_for_anybody(directory)
        segment = f"/dev/shm/backpressure.0/{server.name}"
        assert os.stat(segment).st_mode & 0o777 == 0o600
        assert os.stat("/dev/shm/backpressure.0").st_mode & 0o777 == 0o700
        for command in (("show", server.name), ("set", server.name, "total-conns=1"), ("pause", server.name),
                        ("events", server.name), ("drain", server.name)):
            result = as_nobody(directory + "/bpctl", *command)
            assert result.returncode == 1 and result.stderr.count("\n") == 1, (command, result)
        assert server.name not in as_nobody(directory + "/bpctl", "ls").stdout
        assert server.name not in as_nobody(directory + "/bpctl", "metrics").stdout
        assert as_nobody("cat", segment).returncode == 1
        assert server.show()["limits"]["total-conns"] == "5"


def test_names_that_somebody_squats_on_are_refused():
    """The directory of a user's segments, made by another before: the program runs without limits, and says so."""
    needs_root()
    with tempfile.TemporaryDirectory() as directory:
        install_for_anybody(directory)
        squatted = "/dev/shm/backpressure.65534"
        backup = squatted + ".kept"
        if os.path.lexists(squatted):
            os.rename(squatted, backup)
        target = tempfile.mkdtemp()
        try:
            for squat in (lambda: os.symlink(target, squatted), lambda: os.mkdir(squatted, 0o777),
                          lambda: open(squatted, "w", encoding="ascii").close()):
                squat()
                result = as_nobody("env", f"LD_PRELOAD={directory}/libbackpressure.so", "BACKPRESSURE=name=x conns=5", "cat",
                                   "/dev/null")
                assert result.returncode == 0 and "backpressure:" in result.stderr, result
                assert as_nobody(directory + "/bpctl", "run", "--name", "x", "conns=5", "--", "true").returncode == 1
                assert not os.listdir(target)
                if os.path.isdir(squatted) and not os.path.islink(squatted):
                    os.rmdir(squatted)
                else:
                    os.unlink(squatted)
        finally:
            shutil.rmtree(target)
            if os.path.lexists(backup):
                os.rename(backup, squatted)


def test_what_a_service_says_of_itself_cannot_steer_a_terminal():
    """A program chooses its name, and scribbles on its segment; what root prints of it is plain text."""
    name = f"escapes-{os.getpid()}"
    directory = tempfile.mkdtemp()
    program = directory + "/\x1b[2J\x07evil"
    os.symlink("/bin/sleep", program)
    server = subprocess.Popen([BPCTL, "run", "--name", name, "total-conns=3", "--", program, "600"])
    try:
        wait_until(lambda: "evil" in bpctl("show", name).stdout, "the program's name for itself")
        with open(f"/dev/shm/backpressure.{os.geteuid()}/{name}", "r+b") as segment:
            text = segment.read()
            at = text.find(b"name=" + name.encode())
            if at >= 0:
                segment.seek(at)
                segment.write(b"\x1b]0;evil\x07\n\x9b")
        for command in (("show", name), ("show", name, "--json"), ("events", name), ("events", name, "--json"), ("ls",),
                        ("metrics",), ("depth", name)):
            said = bpctl(*command).stdout
            assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", said), (command, said[:500])
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(directory)
        bpctl("ls")


if __name__ == "__main__":
    sys.exit(run_tests(globals(), sys.argv[1:]))
