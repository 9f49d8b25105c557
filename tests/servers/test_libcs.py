#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Programs of another libc than the one that everything here is built with.

    test_libcs.py [NAME]...
"""
import os
import shutil
import subprocess
import sys
import tempfile

from harness import Skipped, run_tests

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, os.environ.get("BUILD", "build"))
BPCTL, SHIM = BUILD + "/bpctl", BUILD + "/libbackpressure.so"
UNLIMITED = "it runs without limits"
PROGRAM = """
#include <stdio.h>
#include <stdlib.h>
int main(void)
{
    puts(getenv("LD_PRELOAD") ? "served, with LD_PRELOAD" : "served");
    return 0;
}
"""

directory = tempfile.mkdtemp(prefix="libcs.")


def run(*command, **more):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **more)


def service():
    return f"libcs-{os.getpid()}"


def compiled(name, compiler, *options):
    if not shutil.which(compiler):
        raise Skipped(f"no {compiler}")
    path = f"{directory}/{name}"
    subprocess.run([compiler, "-o", path, *options, "-x", "c", "-"], input=PROGRAM, text=True, check=True)
    return path


def of_musl():
    return compiled("musl", "musl-gcc")


def loader():
    """That of this machine's glibc."""
    shown = run("readelf", "-l", sys.executable).stdout
    return shown.split("program interpreter: ")[1].split("]")[0]


def with_loader(name):
    """A program that starts through a loader of its own: this machine's, under another name."""
    path = f"{directory}/{name}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    shutil.copy(loader(), path)
    return compiled("other", "gcc", f"-Wl,--dynamic-linker={path}")


def reached(program):
    """It is limited, and says nothing else than it would alone."""
    done = run(BPCTL, "run", "--name", service(), "total-conns=5", "--", program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "served, with LD_PRELOAD\n", ""), done
    shown = run(BPCTL, "show", service())
    assert shown.returncode == 0, shown
    checked = run(BPCTL, "check", program)
    assert checked.returncode == 0 and "limits reach it" in checked.stdout, checked


def out_of_reach(program, why):
    """It says so and starts as it would alone; or it does not start, where that was asked for."""
    done = run(BPCTL, "run", "--name", service(), "total-conns=5", "--", program)
    assert (done.returncode, done.stdout) == (0, "served\n"), done
    assert done.stderr.count("\n") == 1 and why in done.stderr and UNLIMITED in done.stderr, done
    done = run(BPCTL, "run", "--name", service(), "strict=on", "--", program)
    assert done.returncode == 1 and not done.stdout and why in done.stderr, done
    assert UNLIMITED not in done.stderr, done
    checked = run(BPCTL, "check", program)
    assert checked.returncode == 1 and why in checked.stdout, checked


def test_musl_is_reached():
    reached(of_musl())


def test_musl_by_ld_preload_alone():
    environment = dict(os.environ, LD_PRELOAD=SHIM, BACKPRESSURE=f"name={service()} total-conns=5")
    done = run(of_musl(), env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "served, with LD_PRELOAD\n", ""), done


def test_musl_as_a_helper_of_a_limited_program():
    done = run(BPCTL, "run", "--name", service(), "total-conns=5", "--", "sh", "-c", of_musl() + "; echo $?")
    assert (done.returncode, done.stdout, done.stderr) == (0, "served, with LD_PRELOAD\n0\n", ""), done


def test_trouble_is_said_in_musl_too():
    environment = dict(os.environ, LD_PRELOAD=SHIM, BACKPRESSURE="nonsense=5")
    done = run(of_musl(), env=environment)
    assert done.returncode == 0 and done.stdout.startswith("served"), done
    assert done.stderr.startswith("backpressure: ") and done.stderr.count("\n") == 1, done
    environment["BACKPRESSURE"] += " strict=on"
    done = run(of_musl(), env=environment)
    assert done.returncode == 2 and not done.stdout, done


def test_a_loader_of_neither_libc():
    out_of_reach(with_loader("strange/ld-strange.so.1"), "neither glibc's nor musl's")


def test_a_glibc_that_is_too_old():
    program = with_loader("old/ld-linux-of-its-own.so.2")
    versions = f"{directory}/versions"
    with open(versions, "w", encoding="ascii") as file:
        file.write("GLIBC_2.2.5 { global: accept; }; GLIBC_2.12 { global: accept4; } GLIBC_2.2.5;")
    subprocess.run(["gcc", "-shared", "-nostdlib", f"-Wl,--version-script={versions}", "-o",
                    f"{directory}/old/libc.so.6", "-x", "c", "-"],
                   input="int accept(void) { return 0; } int accept4(void) { return 0; }", text=True, check=True)
    out_of_reach(program, "its own glibc is older")


def test_a_glibc_of_its_own_that_will_do():
    program = with_loader("new/ld-linux-of-its-own.so.2")
    shutil.copy(os.path.join(os.path.dirname(os.path.realpath(loader())), "libc.so.6"), f"{directory}/new/")
    reached(program)


if __name__ == "__main__":
    try:
        sys.exit(run_tests(globals(), sys.argv[1:]))
    finally:
        shutil.rmtree(directory)
