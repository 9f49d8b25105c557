#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""What show, ls, top, metrics and events tell of requests: each figure under its own name, of the process that has it and
of the service. The figures are written into the segment (figures.c), or come of a real server.

    test_request_figures.py [NAME]...      only tests whose name contains one of these
"""
import contextlib
import functools
import json
import os
import re
import socket
import subprocess
import sys
import tempfile

import harness
from test_operators import BPCTL, BUILD, ROOT, Terminal, bpctl, promtool, sample

sys.path.insert(0, ROOT + "/tests/unit")
import metric_tables  # noqa: E402

wait_until = functools.partial(harness.wait_until, patience=60)
COUNTED = {"begun": 1200, "held": 31, "shed_busy": 7, "shed_late": 5, "shed_reset": 3, "exempt": 11, "in_flight_peak": 9}
NOW = {"in_flight": 4, "waiting": 6, "streams": 2}


def segment_of(name):
    return f"{os.environ.get('BACKPRESSURE_DIR') or f'/dev/shm/backpressure.{os.geteuid()}'}/{name}"


class Service:
    """Two processes that do nothing: the second joins what the first began."""

    def __init__(self, *limits):
        self.name = f"figures-{os.getpid()}-{os.urandom(3).hex()}"
        self.limits, self.stack = limits, contextlib.ExitStack()

    def start(self, *limits):
        process = self.stack.enter_context(subprocess.Popen(
            [BPCTL, "run", "--name", self.name, *limits, "--", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        process.stdin.write(b"up\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"up\n"
        return process

    def __enter__(self):
        self.processes = [self.start(*self.limits), self.start()]
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.stdin.close()
        self.stack.close()
        bpctl("ls")

    def write(self, process, **figures):
        written = subprocess.run([BUILD + "/tests/figures", segment_of(self.name), str(self.processes[process].pid),
                                  *(f"{what}={number}" for what, number in figures.items())], check=False)
        assert written.returncode == 0, written

    def show(self):
        return json.loads(bpctl("show", self.name, "--json").stdout)

    def of(self, process):
        return next(one for one in self.show()["processes"] if one["pid"] == self.processes[process].pid)


def counters(figures):
    return {"requests_" + name: number for name, number in figures.items()}


def test_json_has_each_figure_of_the_process_and_of_the_service():
    with Service("total-requests=10") as service:
        service.write(0, **counters(COUNTED), **NOW)
        service.write(1, requests_begun=100, waiting=1)
        own, other, all_of_it = service.of(0)["requests"], service.of(1)["requests"], service.show()["requests"]
        for name, number in {**COUNTED, **NOW}.items():
            assert own[name] == number, (name, own)
        assert other["begun"] == 100 and other["waiting"] == 1 and other["held"] == 0, other
        assert all_of_it["begun"] == 1300 and all_of_it["waiting"] == 7 and all_of_it["streams"] == 2, all_of_it
        assert all_of_it["in_flight"] == 4 and all_of_it["in_flight_peak"] == 5, all_of_it
        assert service.show()["totals"]["requests_shed_late"] == 5
        assert "auto" not in all_of_it and "auto" not in own


def test_times_are_told_in_halves_and_hundredths():
    with Service("total-requests=10") as service:
        assert service.show()["requests"]["sojourn"] == {"count": 0, "sum_us": 0, "p50_us": 0.0, "p99_us": 0.0, "buckets": []}
        for _ in range(9):
            service.write(0, sojourn=1500, response=9000)
        service.write(1, sojourn=250000)
        own, all_of_it = service.of(0)["requests"], service.show()["requests"]
        assert own["sojourn"]["count"] == 9 and own["sojourn"]["sum_us"] == 9 * 1500, own
        assert 1000 <= own["sojourn"]["p50_us"] <= own["sojourn"]["p99_us"] <= 2000, own
        assert 7000 <= own["response"]["p50_us"] <= 10000, own
        assert all_of_it["sojourn"]["count"] == 10 and 200000 <= all_of_it["sojourn"]["p99_us"] <= 300000, all_of_it
        assert all_of_it["sojourn"]["buckets"] == [{"to_us": 2000, "count": 9}, {"to_us": 300000, "count": 1}], all_of_it


def test_what_a_process_counted_and_timed_outlives_it():
    with Service("total-requests=10") as service:
        service.write(1, **counters(COUNTED), waiting=6, sojourn=1500)
        service.processes[1].kill()
        service.processes[1].wait()
        shown = service.show()["requests"]
        assert shown["begun"] == 1200 and shown["sojourn"]["count"] == 1 and shown["waiting"] == 0, shown
        # Its entry is another's now, and its figures are not.
        service.processes[1] = service.start()
        wait_until(lambda: len(service.show()["processes"]) == 2, "the third process")
        shown = service.show()["requests"]
        assert shown["begun"] == 1200 and shown["sojourn"]["count"] == 1 and shown["waiting"] == 0, shown
        fresh = service.of(1)["requests"]
        assert fresh["begun"] == fresh["waiting"] == fresh["sojourn"]["count"] == fresh["in_flight_peak"] == 0, fresh


def test_ceilings_that_find_themselves_are_told():
    with Service("total-requests=auto:3..40", "requests=auto") as service:
        assert service.show()["requests"]["auto"]["ceiling"] == 16
        assert service.of(0)["requests"]["auto"]["why"] == "nothing measured yet"
        text = bpctl("show", service.name).stdout
        assert re.search(r"^  total-requests +now 16; nothing measured yet", text, re.M), text
        assert re.search(r"^ +requests=auto +now 16; nothing measured yet", text, re.M), text


def test_show_tells_people_where_a_limit_on_requests_is_set():
    with Service() as service:
        assert "in_flight" not in bpctl("show", service.name).stdout
        assert bpctl("set", service.name, "request-rate=50").returncode == 0
        service.write(0, **counters(COUNTED), **NOW, sojourn=1500, response=9000)
        text = bpctl("show", service.name).stdout
        part = re.search(r"^requests\n(.*?)^processes$", text, re.M | re.S).group(1)
        for name, number in {**COUNTED, **NOW, "in_flight_peak": 5}.items():
            assert re.search(rf"^  {name} +{number}$", part, re.M), (name, text)
        assert re.search(r"^  sojourn +p50 1\.\d ms, p99 \d\.\d ms, of 1$", part, re.M), part
        assert "requests: 4 in flight (peak 9), 6 waiting, 1200 begun, 15 shed; streams: 2" in text, text


def test_ls_knows_how_full_requests_are():
    with Service("total-requests=8") as service:
        service.write(0, in_flight=6)
        one = next(one for one in json.loads(bpctl("ls", "--json").stdout) if one["name"] == service.name)
        assert one["full_percent"] == 75, one


def test_metrics_have_each_figure_and_prometheus_takes_them():
    with Service("total-requests=10", "request-rate=70/9", "requests=auto", "idle=2s", "header-timeout=3s") as service:
        service.write(0, **counters(COUNTED), **NOW, idle_closed=13, headers_timed_out=17, sojourn=1500, response=9000)
        text = bpctl("metrics").stdout
        checked = promtool("check", "metrics", text=text)
        assert checked.returncode == 0 and not checked.stderr.strip(), checked
        value = functools.partial(sample, text, service=service.name)
        wanted = {"requests_begun_total": 1200, "requests_held_total": 31, "requests_exempt_total": 11, "requests_waiting": 6,
                  "requests_in_flight": 4, "requests_in_flight_peak": 5, "streams": 2, "idle_closed_total": 13,
                  "headers_timed_out_total": 17, "request_sojourn_seconds_count": 1, "request_response_seconds_sum": 0.009,
                  "limit_requests_per_second": 70}
        for name, number in wanted.items():
            assert value("backpressure_" + name) == number, (name, value("backpressure_" + name))
        for how, number in (("busy", 7), ("late", 5), ("reset", 3)):
            assert value("backpressure_requests_shed_total", how=how) == number, how
        assert value("backpressure_limit_requests", limit="total-requests") == 10
        assert value("backpressure_limit_requests", limit="requests") is None
        assert value("backpressure_limit_seconds", limit="header-timeout") == 3
        pid = service.processes[0].pid
        assert value("backpressure_process_requests_in_flight", pid=pid) == 4
        assert value("backpressure_process_requests_waiting", pid=pid) == 6
        assert value("backpressure_process_streams", pid=pid) == 2
        assert value("backpressure_process_requests_limit", pid=pid) == 16


def test_top_has_bars_rates_and_times():
    with Service("total-requests=8", "requests=5", "request-rate=90000") as service, \
            Terminal(f"{BPCTL} top {service.name}", columns=100, lines=30) as terminal:
        service.write(0, in_flight=4, waiting=6, streams=2)
        wait_until(lambda: re.search(r"in flight +4, 6 waiting, 2 streams", terminal.screen()), terminal.screen)
        wait_until(lambda: re.search(r"total-requests \[#{10}-{10}\] +50%  4/8", terminal.screen()), terminal.screen)
        wait_until(lambda: re.search(r"requests +\[#{16}-{4}\] +80%  4/5 +\d+ cat", terminal.screen()), terminal.screen)
        state = {"requests_begun": 0}

        def rates():
            state["requests_begun"] += 1000
            service.write(0, **state, requests_shed_late=state["requests_begun"] // 10, sojourn=1500, response=250000)
            screen = terminal.screen()
            return re.search(r"/s: [1-9]\S* begun, 0 held, [1-9]\S* shed", screen) and \
                re.search(r"sojourn +p50 1\.\d ms +p99 [12]\.\d ms", screen) and \
                re.search(r"response +p50 2\d\d ms +p99 \d+ ms", screen) and \
                re.search(r"request-rate +\[#*-*\] +\d+%  [1-9]\d*/90000/s", screen)
        wait_until(rates, terminal.screen)
        assert re.search(rf"{service.processes[0].pid} cat +0 +4 ", terminal.screen()), terminal.screen()


def test_top_says_nothing_of_requests_where_no_limit_is_on_them():
    with Service("total-conns=8") as service, Terminal(f"{BPCTL} top {service.name}") as terminal:
        terminal.shows("total-conns")
        terminal.shows("accept wait")
        assert "in flight" not in terminal.screen(), terminal.screen()
        assert max(map(len, terminal.screen().split("\n"))) <= 80, terminal.screen()


# Answers when the file is there.
HOLDING = """
import http.server, os, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        while not os.path.exists(sys.argv[2]):
            time.sleep(0.01)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_real_server_is_told_of_as_it_is():
    """Three ask where one may be in flight: what the figures say follows from that."""
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        port, go, name = harness.free_port(), directory + "/go", f"figures-{os.getpid()}-real"
        server = stack.enter_context(subprocess.Popen(
            [BPCTL, "run", "--name", name, "total-requests=1", "--", "/usr/bin/python3", "-c", HOLDING, str(port), go],
            stderr=subprocess.DEVNULL))
        stack.callback(server.kill)
        wait_until(lambda: (probe := harness.connected(port)) and not probe.close(), "the server")

        def shown():
            return json.loads(bpctl("show", name, "--json").stdout)["requests"]

        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 60)) for _ in range(3)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: (shown()["in_flight"], shown()["waiting"]) == (1, 2), shown)
        with open(go, "w", encoding="ascii"):
            pass
        for client in clients:
            answer = b""
            while not answer.endswith(b"ok"):
                part = client.recv(4096)
                assert part, answer
                answer += part
        wait_until(lambda: shown()["in_flight"] == shown()["waiting"] == 0, shown)
        after = shown()
        assert after["begun"] == after["response"]["count"] == 3, after
        # The kernel begins to time arrivals a moment after it was asked to.
        assert 0 < after["sojourn"]["count"] <= 3, after
        assert after["held"] == 2 and after["in_flight_peak"] == 1, after
        assert "request_held" in bpctl("events", name).stdout


def test_the_lists_for_people_say_the_same():
    assert metric_tables.main() == 0


if __name__ == "__main__":
    sys.exit(harness.run_tests(globals(), sys.argv[1:]))
