#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Every limit, by every way in and out: run, -f, BACKPRESSURE and set; show, --json, the variable that run makes, and
the tables for people. What is given is kept, and what is said is what happens.

    test_limits.py [NAME]...      only tests whose name contains one of these
"""
import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile

import harness

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
BUILD = os.path.abspath(os.environ.get("BUILD", ROOT + "/build"))
BPCTL = BUILD + "/bpctl"
sys.path.insert(0, ROOT + "/tests/unit")
import limit_tables  # noqa: E402

# A value of each form, and as what it is shown.
FORMS = {"N": "7", "auto:MIN..MAX": "auto:3..9", "N/BURST": "9/2", "TIME": "70ms", "SIZE": "64K", "MIN..MAX": "2..9",
         "N%": "7%", "CIDR,...": "10.0.0.0/8,::1/128", "PATH,...": "/healthz,/a(b)/",
         "BASE..CAP": "20ms..3s", "SHARE": "0.25",
         "text:STRING": "text:it's \"full\" \\r\\n"}
SHOWN = {("accept-rate", "7"): "7/1", ("request-rate", "7"): "7/1", ("retry-after", "7"): "7..7"}


def run(*command, **more):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **more)


def bpctl(*arguments, **more):
    return run(BPCTL, *arguments, **more)


def values(row):
    """What it may be given: each form, and its default."""
    typed = [FORMS.get(form, form) for form in row["forms"]] + [row["default"]]
    return [(value, SHOWN.get((row["name"], value), value)) for value in dict.fromkeys(typed)]


ROWS = list(limit_tables.rows())
EVERY = [(row["name"], value, shown) for row in ROWS for value, shown in values(row)]
ROUNDS = max(len(values(row)) for row in ROWS)


def service():
    return f"limits-{os.getpid()}-{os.urandom(4).hex()}"


@contextlib.contextmanager
def running(name, *command, **more):
    """A program of that service, until its input ends."""
    with subprocess.Popen([*command, "sh", "-c", "echo up; read line"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          **more) as process:
        assert process.stdout.readline() == b"up\n"
        yield
        process.stdin.close()
    bpctl("ls")


def shown_by_json(name):
    return json.loads(bpctl("show", name, "--json").stdout)["limits"]


def shown_as_text(name):
    lines = re.findall(r"^  ([a-z-]+) +(.*?)(?:  \(default\))?$", bpctl("show", name).stdout.split("\ntotals\n")[0], re.M)
    return dict(reversed(lines))  # a ceiling that finds itself has a second line


def test_what_is_set_is_shown_and_what_is_shown_can_be_set():
    name = service()
    with running(name, BPCTL, "run", "--name", name, "--"):
        for limit, value, shown in EVERY:
            for again in (value, shown):
                result = bpctl("set", name, f"{limit}={again}")
                assert result.returncode == 0, (limit, again, result)
                assert shown_by_json(name)[limit] == shown, (limit, again)
            assert shown_as_text(name)[limit] == shown, limit


def test_what_is_given_to_run_is_kept_though_it_equals_a_default():
    for limit, value, shown in EVERY:
        result = bpctl("run", "--name", service(), f"{limit}={value}", "--", "sh", "-c", 'printf %s "$BACKPRESSURE"')
        assert result.returncode == 0, (limit, value, result)
        assert shlex.split(result.stdout)[1:] == [f"{limit}={shown}"], (limit, value, result.stdout)


def together(number):
    """The value of that number of every limit, or its last one."""
    return {row["name"]: values(row)[min(number, len(values(row)) - 1)] for row in ROWS}


def test_all_ways_in_say_the_same():
    for number in range(ROUNDS):
        chosen = together(number)
        wanted = {limit: shown for limit, (_, shown) in chosen.items()}
        pairs = [f"{limit}={value}" for limit, (value, _) in chosen.items()]
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            file.write("# a file\n" + "\n".join(pairs) + "\n")
            file.flush()
            variable = bpctl("run", "-f", file.name, "--", "sh", "-c", 'printf %s "$BACKPRESSURE"').stdout
            ways = [([BPCTL, "run", *pairs, "--"], {}), ([BPCTL, "run", "-f", file.name, "--"], {}),
                    (["env"], {"LD_PRELOAD": BUILD + "/libbackpressure.so", "BACKPRESSURE": variable})]
            for command, environment in ways:
                name = service()
                more = dict(environment)
                if "BACKPRESSURE" in more:
                    more["BACKPRESSURE"] = re.sub(r"\bname=\S+", "name=" + name, more["BACKPRESSURE"], count=1)
                else:
                    command = [*command[:2], "--name", name, *command[2:]]
                with running(name, *command, env={**os.environ, **more}):
                    assert shown_by_json(name) == wanted, command


def test_who_joins_changes_nothing():
    name = service()
    wanted = {limit: shown for limit, (_, shown) in together(0).items()}
    with running(name, BPCTL, "run", "--name", name, *(f"{limit}={value}" for limit, (value, _) in together(0).items()), "--"):
        joining = {**os.environ, "LD_PRELOAD": BUILD + "/libbackpressure.so", "BACKPRESSURE": f"name={name} conns=99"}
        with running(name, "env", env=joining):
            assert len(json.loads(bpctl("show", name, "--json").stdout)["processes"]) == 2
            assert shown_by_json(name) == wanted
        assert shown_by_json(name) == wanted


def test_what_is_refused_changes_nothing_and_says_what_is_allowed():
    name = service()
    with running(name, BPCTL, "run", "--name", name, "--"):
        before = shown_by_json(name)
        for row in ROWS:
            wrong = ["nonsense", "", "-1"] + (["off"] if "off" not in row["forms"] else [])
            for value in wrong:
                result = bpctl("set", name, "peer-conns=3", f"{row['name']}={value}")
                assert result.returncode == 2 and result.stderr.count("\n") == 1, (row["name"], value, result)
                assert row["allowed"] in result.stderr and f"{row['name']}={value}" in result.stderr, result
        assert shown_by_json(name) == before


def test_zero_is_off_but_where_it_is_said_to_be_a_value():
    name, exceptions = service(), set()
    with running(name, BPCTL, "run", "--name", name, "--"):
        for row in ROWS:
            if "off" in row["forms"]:
                assert bpctl("set", name, row["name"] + "=0").returncode == 0, row
                if shown_by_json(name)[row["name"]] != "off":
                    exceptions.add(row["name"])
    with open(ROOT + "/README.md", encoding="utf-8") as file:
        said = re.search(r"and `0` is the same; but in (.*?) it is a value", file.read(), re.S).group(1)
    assert set(re.findall(r"`(.*?)`", said)) == exceptions == {"queue", "retry-after", "retry-budget"}, (said, exceptions)


def test_the_tables_for_people_say_the_same():
    assert limit_tables.main() == 0


def main():
    for variable in ("LD_PRELOAD", "BACKPRESSURE"):
        os.environ.pop(variable, None)
    return harness.run_tests(globals(), sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
