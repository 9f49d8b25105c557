#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""System calls of an accept, a listen and a connect (each with its close), bare and under the shim, and what each
one that the shim adds is for.

    syscalls.py

`calls` is for tests, too: it counts exactly, since the traced program does everything alone and in order.
"""
import collections
import os
import re
import shutil
import subprocess
import sys
import tempfile

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
SHIM = BUILD + "/libbackpressure.so"
TIMES, WARM = 20, 3
# By another name the same call: as the shim makes it, or as this machine's libc does.
SAME = {"accept": "accept4", "poll": "ppoll", "select": "pselect6", "epoll_wait": "epoll_pwait", "newfstatat": "fstat"}
ACCEPTS = "blocking blocking-with-handler poll-blocking non-blocking poll select epoll".split()
CEILING = "total-conns=1000 conns=500"
SERVERS = (("no limits", ""), ("ceiling", CEILING), ("ceiling, queue-delay", CEILING + " queue-delay=10s"),
           ("ceiling, accept-rate", CEILING + " accept-rate=1000000"))
CLIENTS = (("no limits", ""), ("connect-conns", "connect-conns=500"), ("connect-retries", "connect-retries=3"))
# (call, what it is about): what it is for
REASONS = {
    ("fstat", ""): "who the socket is (its inode), for the audits: a close that nobody saw gives its place back",
    ("getsockopt", "SO_COOKIE"): "which socket listens: the entry of the service's table goes by it",
    ("getsockname", ""): "where it listens, for show and depth",
    ("getsockopt", "SO_PROTOCOL"): "whether it is TCP, which the kernel can list, or another stream",
    ("getsockopt", "TCP_INFO"): "how long the client waited in the queue",
    ("getsockopt", "SO_TYPE"): "whether it is a stream: datagrams connect, too",
    ("getsockopt", "SO_ERROR"): "at close: a server that accepts and resets refuses, too",
    ("getpeername", ""): "SO_ERROR says 0 while it connects, too: whether it is there",
    ("ppoll", ""): "once more, for oneself, in the turn at the listener: whoever is left in the kernel's accept would have "
                   "kept a place and the turn; before it, the wait itself, with no place taken",
    ("rt_sigprocmask", ""): "a handler runs in the wait, not between it and accept, where it would not end it (EINTR) or "
                            "would leave with the turn (siglongjmp); not where the program has no handler",
}
# Not each connection's: how long clients wait is looked at now and then, for show and metrics.
SAMPLED = ("getsockopt", "TCP_INFO")


def about(call, words):
    """The option that getsockopt asks for."""
    return (re.findall(r"\b(?:SO|TCP)_\w+", words) or [""])[0] if call == "getsockopt" else ""


def traced(thing, style, limits):
    """The trace of a run; `limits` None is bare."""
    environment = ["-E", f"LD_PRELOAD={SHIM}", "-E", f"BACKPRESSURE=name=syscalls-{os.getpid()} {limits}"]
    with tempfile.NamedTemporaryFile("r") as log:
        subprocess.run(["strace", "-o", log.name, *(environment if limits is not None else []),
                        BUILD + "/tests/syscalls", thing, style, str(TIMES)], check=True, timeout=60)
        trace = log.read()
    subprocess.run([BUILD + "/bpctl", "ls"], capture_output=True, check=False)
    return trace


def calls(thing, style, limits):
    """How often each call is made, as most times of a run have it: at first more is looked at, and some things are
    due now and then."""
    times = traced(thing, style, limits).split("getppid()")[1 + WARM:-1]
    counts = collections.Counter()
    for time in times:
        made = [(SAME.get(call, call), about(call, words)) for call, words in re.findall(r"^(\w+)\((.*)", time, re.M)]
        if limits is not None and "queue-delay" not in limits:
            made = [call for call in made if call != SAMPLED]
        counts[tuple(sorted(collections.Counter(made).items()))] += 1
    return dict(counts.most_common(1)[0][0])


def added(thing, style, limits):
    """What the shim adds to each."""
    bare, shimmed = calls(thing, style, None), calls(thing, style, limits)
    more = {call: shimmed.get(call, 0) - bare.get(call, 0) for call in {*bare, *shimmed}}
    return {call: count for call, count in more.items() if count}


def spoken(call, count):
    return f"{' '.join(filter(None, call))}{'' if count == 1 else f' x{count:g}'}"


def table(thing, styles, columns):
    """Prints how many are made bare, and which are added; returns which calls those are."""
    seen = set()
    for style in styles:
        print(f"  {thing + ', ' + style if style != thing else thing:<32} bare: {sum(calls(thing, style, None).values()):g}")
        for name, limits in columns:
            more = added(thing, style, limits)
            seen |= set(more)
            words = ", ".join(spoken(call, count) for call, count in sorted(more.items()))
            print(f"    {name:<30} {sum(more.values()):+g}  {words}", flush=True)
    return seen


def main():
    if not shutil.which("strace"):
        print("strace is missing: system calls are not counted")
        return 0
    print("system calls for each (strace), with its close; what the shim adds")
    seen = table("accept", ACCEPTS, SERVERS) | table("listen", ["listen"], SERVERS[:3])
    seen |= table("connect", ["blocking", "non-blocking"], CLIENTS)
    print("what each is for")
    for call in sorted(seen):
        print(f"  {' '.join(filter(None, call))}: {REASONS.get(call, 'not known')}")
    print("  (besides: TCP_INFO, at most a hundred times a second, to show how long clients wait; F_GETFL and SO_RCVTIMEO "
          "at the first\n  accept of a listener, and F_GETFL and SO_SNDTIMEO in a connect that failed or has to wait: whether "
          "and how long it blocks)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
