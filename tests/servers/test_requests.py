#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Ceilings on requests, whatever way a program reads and waits: never more inside than the ceiling, by the program's own
count; everybody served, who asked first first; nothing lost, nobody stuck.

    test_requests.py [NAME]...      only tests whose name contains one of these, over all styles: `test_requests.py _` is all
"""
import functools
import itertools
import os
import random
import signal
import sys
import threading
import time

import harness
from answering import PATIENCE, Answerer, Client, hash_of, request

STYLES = {
    "blocking read": "blocking", "blocking recv": "blocking reading=recv", "blocking recvfrom": "blocking reading=recvfrom",
    "blocking readv": "blocking reading=readv", "blocking recvmsg": "blocking reading=recvmsg",
    "blocking after a peek": "blocking reading=peek", "blocking with SO_RCVTIMEO": "blocking timeout=30",
    "blocking AF_UNIX": "blocking family=unix",
    "prefork": "prefork processes=6", "fork for each": "forking",
    "poll": "poll", "poll eager": "poll eager", "poll with blocking descriptors": "poll-blocking",
    "select": "select", "select eager": "select eager", "select with blocking descriptors": "select-blocking",
    "level": "level", "level eager": "level eager", "level with blocking descriptors": "level-blocking",
    "level AF_UNIX": "level family=unix", "level recvmsg": "level reading=recvmsg",
    "level after a peek": "level reading=peek",
    "edge": "edge", "edge eager": "edge eager", "edge readv": "edge reading=readv",
    "edge for in and out": "edge-both eager", "oneshot": "oneshot threads=6", "workers": "workers threads=6",
    "workers eager": "workers threads=6 eager",
    "level, four processes": "level processes=4", "edge, four processes": "edge processes=4 eager",
    "poll, three processes": "poll processes=3", "workers, two processes": "workers processes=2 threads=4",
    "edge AF_UNIX, three processes": "edge processes=3 family=unix",
}
CLIENTS, ROUNDS, WORK_MS = 24, 3, 4


def load(server, clients=CLIENTS, rounds=ROUNDS, work_ms=WORK_MS):
    """Clients that each ask again when they were answered, and leave; returns what they were told."""
    crowd = server.crowd(clients)
    for client in crowd:
        client.ask(work_ms, "load")

    def step():
        for client in crowd:
            assert client.ended in (None, "closed"), client.ended
            while client.ended is None and len(client.answers) >= client.asked:
                client.asked += 1
                if client.asked > rounds:
                    client.close()
                else:
                    client.ask(work_ms, "load", body=b"x" * client.asked)
        return all(client.ended for client in crowd)
    for client in crowd:
        client.asked = 1
    server.pump(step, lambda: f"{[len(client.answers) for client in crowd]} {server.show()}")
    return [answer for client in crowd for answer in client.answers]


chosen = itertools.count()


def over(*styles):
    """A test for each of these styles that is asked for by name; otherwise for one, in turn, so that a run ends in a minute
    and every style has its share of them."""
    def make(test):
        some = styles if sys.argv[1:] else [styles[next(chosen) % len(styles)]]
        for style in some:
            own = f"test_{test.__name__}_{style}".replace(" ", "_").replace("=", "_").replace("-", "_")
            globals()[own] = functools.partial(test, style)
    return make


LOOPS = "level", "level eager", "edge eager", "oneshot threads=12", "workers threads=12", "poll", "select eager"
ALL = ("blocking", *LOOPS)
SEVERAL = "level processes=3", "edge processes=3 eager", "workers processes=3 threads=4"


def held(server, until=1, count=1, **more):
    """Clients whose requests are inside until so many are released; the client, where it is one."""
    clients = server.crowd(count)
    inside = server.counted("inside")
    for client in clients:
        client.ask(tag="holder", until=until, **more)
    harness.wait_until(lambda: server.counted("inside") == inside + count, "the first requests", PATIENCE)
    return clients[0] if count == 1 else clients


def wait_in_line(server, count):
    harness.wait_until(lambda: server.show()["waiting"] >= count, lambda: f"{count} waiting of {server.show()}", PATIENCE)


def becomes(server, **figures):
    """Waits until the program counts so many."""
    harness.wait_until(lambda: all(server.counted(name) == number for name, number in figures.items()),
                       lambda: f"{figures}: {[server.counted(name) for name in figures]} {server.show()}", PATIENCE)


def ends_empty(server):
    server.comes_to(in_flight=0, waiting=0)


def keeps_its_ceiling(style):
    with Answerer(style, "total-requests=1") as server:
        for ceiling in (1, 3):
            server.set(f"total-requests={ceiling}")
            server.forget_peak()
            answers = load(server)
            assert len(answers) == CLIENTS * ROUNDS and all(answer.status == 200 for answer in answers)
            assert server.counted("peak") == ceiling, (server.counted("peak"), ceiling, server.show())
        server.comes_to(in_flight=0, waiting=0)
        assert server.show()["in_flight_peak"] == 3, server.show()


for name, style in STYLES.items():
    globals()["test_ceiling_" + name.replace(" ", "_").replace(",", "")] = functools.partial(keeps_its_ceiling, style)


@over("blocking", "blocking timeout=30", *LOOPS, *SEVERAL, "prefork processes=16", "forking")
def who_asked_first_goes_first(style):
    with Answerer(style, "total-requests=1") as server:
        crowd = server.crowd(12)
        first = held(server)
        for client in crowd:
            client.ask(2, "next")
            time.sleep(0.003)  # they arrive one after the other
        wait_in_line(server, 12)
        server.release(1)
        server.answered([first, *crowd])
        order = [client.answers[0].nth for client in crowd]
        assert order == sorted(order), order
        assert server.counted("peak") == 1
        ends_empty(server)


@over("blocking", "level", "edge eager", "oneshot threads=12", "workers threads=12", "poll", "select", "level processes=3")
def a_raised_ceiling_lets_more_in_at_once(style):
    with Answerer(style, "total-requests=1") as server:
        crowd = server.crowd(7)
        first = held(server)
        for client in crowd:
            client.ask(tag="next", until=2)
        wait_in_line(server, 7)
        server.set("total-requests=4")
        becomes(server, inside=4)
        assert server.counted("peak") == 4
        server.set("total-requests=off")
        becomes(server, inside=8)
        # And set again, on connections that are open and were used.
        server.set("total-requests=2")
        server.release(2)
        server.answered([first, *crowd])
        for client in crowd:  # what is learnt of a connection is learnt from its first request
            client.ask(1, "again")
        server.answered(crowd, 2)
        server.forget_peak()
        for client in crowd:
            client.ask(20, "again")
        server.answered(crowd, 3)
        assert server.counted("peak") == 2, server.counted("peak")
        ends_empty(server)


@over("blocking", "level", "edge eager", "oneshot threads=12", "workers threads=12", "poll", "level processes=3")
def a_lowered_ceiling_holds(style):
    with Answerer(style, "total-requests=6") as server:
        crowd = server.crowd(14)
        inside = held(server, count=6)
        for client in crowd:
            client.ask(5, "one")
        server.set("total-requests=2")
        wait_in_line(server, 14)
        server.release(1)
        server.answered(inside)
        server.forget_peak()
        server.answered(crowd)
        for client in crowd:
            client.ask(5, "two")
        server.answered(crowd, 2)
        assert server.counted("peak") == 2, server.counted("peak")
        ends_empty(server)


@over(*ALL, "blocking reading=readv", "blocking family=unix", *SEVERAL, "forking")
def busy_is_answered_and_the_connection_stays(style):
    with Answerer(style, "total-requests=1", "when-full=busy", "retry-after=3") as server:
        crowd = server.crowd(5)
        first = held(server)
        for number, client in enumerate(crowd):
            client.ask(1, "refused", body=b"b" * 500 * number if number else None)
        server.answered(crowd)
        for client in crowd:
            assert client.statuses() == [503], client.answers
            assert b"Retry-After: 3" in client.answers[0].head, client.answers[0].head
            assert b"Connection: close" not in client.answers[0].head, client.answers[0].head
        server.release(1)
        server.answered([first])
        for client in crowd:
            client.ask(1, "served")
            server.answered([client], 2)
        for client in crowd:
            assert client.statuses() == [503, 200] and client.answers[1].tag == "served", client.answers
        assert server.counted("peak") == 1
        server.comes_to(in_flight=0, shed_busy=5)


@over(*ALL, "prefork processes=4")
def who_is_refused_and_asks_again_is_served_in_the_end(style):
    with Answerer(style, "total-requests=2", "when-full=busy") as server:
        crowd = server.crowd(4 if "prefork" in style else 10)
        for client in crowd:
            client.good, client.again = 0, 0

        def step():
            for client in random.sample(crowd, len(crowd)):
                assert not client.ended, client.ended
                if client.answers:
                    client.good += client.answers.pop().status == 200
                    client.again = time.monotonic() + random.uniform(0, 0.02)
                if client.again is not None and time.monotonic() > client.again:
                    client.again = None
                    client.ask(3, "again")
            return all(client.good >= 3 for client in crowd)
        server.pump(step, lambda: [client.good for client in crowd])
        assert server.counted("peak") <= 2, server.counted("peak")


@over(*ALL, "blocking family=unix", "level family=unix")
def reset(style):
    with Answerer(style, "total-requests=1", "when-full=reset") as server:
        crowd = server.crowd(3)
        first = held(server)
        for client in crowd:
            client.ask(1, "refused", body=b"b" * 100)
            server.pump(lambda c=client: c.ended, "the reset")
            assert client.ended == "reset" or server.unix, client.ended
            assert not client.answers, client.answers
        server.release(1)
        server.answered([first])
        assert server.counted("began") == 1, "the program has read a request whose client was reset"
        for other in [first, Client(server)]:
            before = len(other.answers)
            # The answer may be here before the program asks for more, and then its place is taken.
            server.comes_to(in_flight=0)
            other.ask(1, "served")
            server.answered([other], before + 1)
        server.comes_to(in_flight=0, waiting=0, shed_reset=3, in_flight_peak=1)


@over(*ALL, "level processes=3", "prefork processes=20")
def rate(style):
    with Answerer(style, "request-rate=100/2") as server:
        crowd = server.crowd(20)
        started = time.monotonic()
        for client in crowd:
            client.ask(0, "rated")
        server.answered(crowd)
        assert time.monotonic() - started >= 17 / 100, "faster than the rate"
        assert all(client.statuses() == [200] for client in crowd)
        ends_empty(server)


def overloaded(server, crowd, work_ms, seconds):
    """Asks as soon as it was answered, whatever that was."""
    end = time.monotonic() + seconds
    for client in crowd:
        client.ask(work_ms, "load")
        client.asked = 1

    def step():
        for client in crowd:
            assert not client.ended, client.ended
            if len(client.answers) >= client.asked and time.monotonic() < end:
                client.asked += 1
                client.ask(work_ms, "load")
        return time.monotonic() >= end and all(len(client.answers) == client.asked for client in crowd)
    server.pump(step, lambda: f"{[(len(client.answers), client.asked) for client in crowd]} {server.show()}")


@over(*(f"{style} {full}" for full in ("hold", "busy") for style in (*ALL, "edge processes=3", "prefork processes=16")))
def late_requests_are_shed(style):
    style, _, full = style.rpartition(" ")
    with Answerer(style, "total-requests=1" if full == "hold" else "total-requests=12", "queue-delay=10ms",
                  f"when-full={full}") as server:
        crowd = server.crowd(16)
        overloaded(server, crowd, 10, 0.8)
        answers = [answer for client in crowd for answer in client.answers]
        shown = server.show()
        good = sum(answer.status == 200 for answer in answers)
        assert {answer.status for answer in answers} <= {200, 503}
        assert shown["shed_late"] + shown["shed_busy"] == len(answers) - good, (shown, len(answers), good)
        if full == "hold":
            assert shown["shed_late"] > 0 and good >= 20, (shown, good)
        # The storm is over: who asks alone is served.
        harness.wait_until(lambda: served_alone(server, crowd), "nobody late", PATIENCE)
        ends_empty(server)


def served_alone(server, crowd):
    client = crowd[0]
    before = len(client.answers)
    for number in range(5):
        client.ask(1, "alone")
        server.answered([client], before + number + 1)
    return all(answer.status == 200 for answer in client.answers[before:])


@over(*ALL, *SEVERAL, "forking", "blocking timeout=20")
def clients_that_leave_the_line(style):
    with Answerer(style, "total-requests=1") as server:
        crowd = server.crowd(9)
        first = held(server)
        for client in crowd:
            client.ask(1, "waits")
        wait_in_line(server, 9)
        for client in crowd[1:3]:
            client.close()
        for client in crowd[4:6]:
            client.reset()
        server.release(1)
        stay = [first, crowd[0], crowd[3], *crowd[6:]]
        server.answered(stay)
        for client in stay:
            client.ask(1, "again")
        server.answered(stay, 2)
        assert server.counted("peak") == 1
        ends_empty(server)


@over(*ALL, "edge-both eager", "level family=unix", "blocking family=unix")
def clients_that_close_their_half(style):
    with Answerer(style, "total-requests=1") as server:
        crowd = server.crowd(4)
        first = held(server)
        for client in crowd:
            client.ask(1, "half")
            client.socket.shutdown(1)
        wait_in_line(server, 4)
        server.release(1)
        server.answered([first, *crowd])
        server.pump(lambda: all(client.ended == "end" for client in crowd), "the end")
        ends_empty(server)


@over(*ALL, "level processes=3", "blocking reading=readv", "edge-both eager", "forking")
def pipelines(style):
    with Answerer(style, "total-requests=2") as server:
        crowd = server.crowd(7)
        depths = [1, 2, 3, 8, 17, 33, 64]
        for client, depth in zip(crowd, depths):
            client.send(b"".join(request(0.5, f"r{number}", body=b"z" * (number % 3) or None) for number in range(depth)))
        server.pump(lambda: all(len(client.answers) == depth for client, depth in zip(crowd, depths)),
                    lambda: f"{[len(client.answers) for client in crowd]} {server.show()}")
        for client, depth in zip(crowd, depths):
            assert [answer.tag for answer in client.answers] == [f"r{number}" for number in range(depth)]
        server.comes_to(in_flight=0, waiting=0)
        assert server.counted("peak") == 2, (server.counted("peak"), server.show())


@over(*ALL, "forking")
def pipelines_above_the_ceiling_are_refused_in_order(style):
    with Answerer(style, "total-requests=1", "when-full=busy") as server:
        crowd = server.crowd(6)
        for client in crowd:
            client.send(b"".join(request(2, f"r{number}") for number in range(10)))
        server.pump(lambda: all(client.ended or len(client.answers) == 10 for client in crowd),
                    lambda: f"{[len(client.answers) for client in crowd]} {server.show()}")
        for client in crowd:
            for number, answer in enumerate(client.answers):
                assert answer.status == 503 or answer.tag == f"r{number}", client.answers
            assert not client.ended or b"Connection: close" in client.answers[-1].head, client.answers
        ends_empty(server)


@over("blocking", "blocking reading=readv", "level", "edge", "oneshot", "poll", "workers")
def requests_split_anywhere(style):
    with Answerer(style, "total-requests=1") as server:
        whole = request(0, "split", body=b"0123456789")
        split, bytewise, other = server.crowd(3)
        other.ask(0, "other")
        server.answered([other])
        for at in range(1, len(whole)):
            split.send(whole[:at])
            time.sleep(0.0005)  # mostly apart
            split.send(whole[at:])
            server.answered([split], at)
        for at in range(len(whole)):
            bytewise.send(whole[at:at + 1])
        server.answered([bytewise])
        for answer in (*split.answers, *bytewise.answers):
            assert (answer.status, answer.hash) == (200, hash_of(b"0123456789")), answer
        assert server.counted("peak") == 1
        ends_empty(server)


@over("blocking", "blocking reading=recvmsg", "level", "edge eager", "oneshot", "select", "workers eager", "poll processes=2")
def bodies_arrive_as_they_were_sent(style):
    with Answerer(style, "total-requests=2") as server:
        noise = os.urandom(1 << 21)
        bodies = [noise[:size] for size in (0, 1, 4000, 4095, 4096, 4097, 65536, 300000, 1 << 21)]
        crowd = server.crowd(4)
        for number, body in enumerate(bodies):
            for client in crowd:
                threading.Thread(target=client.ask, args=(1, "body"),
                                 kwargs={"body": body, "chunked": client is crowd[0]}, daemon=True).start()
            server.answered(crowd, number + 1)
        hashes = [(hash_of(body), len(body)) for body in bodies]
        for client in crowd:
            assert [(answer.hash, answer.bytes) for answer in client.answers] == hashes, client.answers
        assert server.counted("peak") <= 2
        ends_empty(server)


@over(*ALL)
def clients_that_expect_100_continue(style):
    with Answerer(style, "total-requests=1") as server:
        client, other = server.crowd(2)
        head, body = request(1, "expects", body=b"later", fields="Expect: 100-continue\r\n").split(b"later")[0], b"later"
        first = held(server)
        client.send(head)
        wait_in_line(server, 1)
        assert not client.interim, "told to go on while it had to wait"
        server.release(1)
        server.pump(lambda: client.interim, "100")
        client.send(body)
        server.answered([client])
        assert client.answers[0].hash == hash_of(body)
        if style == "blocking":  # what a thread has read already, and is no whole request, is held
            return
        server.set("when-full=busy")
        first = held(server, until=2)
        other.send(head)
        server.answered([other])
        assert other.statuses() == [503] and not other.interim, other.answers
        server.release(2)
        server.answered([first])
        ends_empty(server)


@over(*ALL, "prefork processes=3")
def half_a_head_holds_no_place(style):
    with Answerer(style, "total-requests=1") as server:
        half, whole = server.crowd(2)
        asked = request(1, "half")
        half.send(asked[:-3])
        for number in range(3):
            whole.ask(1, "whole")
            server.answered([whole], number + 1)
        half.send(asked[-3:])
        server.answered([half])
        ends_empty(server)


def pid_of(server, client):
    """The process that has the connection."""
    client.ask(0, "who")
    server.answered([client], len(client.answers) + 1)
    return client.answers.pop().pid


def stop(pid):
    os.kill(pid, signal.SIGSTOP)
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        def stopped():
            stat.seek(0)
            return stat.read().rsplit(")", 1)[1].split()[0] == "T"
        harness.wait_until(stopped, f"{pid} to stop", PATIENCE)


def in_two_processes(server, count):
    """Clients of two processes, `count` of each; and the pids. The kernel may wake one and the same for all of them: who
    has enough stands still until another has, too."""
    by_pid, stopped = {}, []
    try:
        for _ in range(200):
            client = Client(server)
            pid = pid_of(server, client)
            by_pid.setdefault(pid, []).append(client)
            enough = [pid for pid, clients in by_pid.items() if len(clients) >= count]
            if len(enough) == 2:
                return enough, [by_pid[pid][:count] for pid in enough]
            if enough and not stopped:
                stop(enough[0])
                stopped = enough
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    raise AssertionError(f"one process takes all: { {pid: len(clients) for pid, clients in by_pid.items()} }")


@over("level processes=3", "edge processes=3 eager", "workers processes=2 threads=4", "oneshot processes=2",
      "poll processes=2")
def a_killed_process_gives_its_places_back(style):
    with Answerer(style, "total-requests=2") as server:
        (victim, _), (its, others) = in_two_processes(server, 3)
        for client in its[:2]:
            client.ask(tag="for-ever", until=9)
        becomes(server, inside=2)
        for client in others:
            client.ask(1, "waits")
        its[2].ask(1, "waits")
        wait_in_line(server, 4)
        os.kill(victim, signal.SIGKILL)
        server.answered(others)
        becomes(server, inside=0)
        server.forget_peak()
        for client in others:
            client.ask(10, "again")
        server.answered(others, 2)
        assert server.counted("peak") == 2, server.counted("peak")
        ends_empty(server)


def test_killed_preforked_processes_give_their_places_back():
    with Answerer("prefork processes=4", "total-requests=2") as server:
        crowd = server.crowd(3)
        pids = [pid_of(server, client) for client in crowd]
        for client in crowd[:2]:
            client.ask(tag="for-ever", until=9)
        becomes(server, inside=2)
        crowd[2].ask(1, "waits")
        wait_in_line(server, 1)
        os.kill(pids[0], signal.SIGKILL)
        server.answered(crowd[2:])
        os.kill(pids[1], signal.SIGKILL)
        ends_empty(server)


@over("level processes=3", "edge processes=3 eager", "workers processes=2 threads=4", "oneshot processes=2",
      "poll processes=2")
def a_stopped_process_is_passed_over(style):
    with Answerer(style, "total-requests=1") as server:
        (stopped, _), (its, others) = in_two_processes(server, 2)
        others[0].ask(tag="holder", until=1)
        becomes(server, inside=1)
        its[0].ask(1, "first")
        wait_in_line(server, 1)
        others[1].ask(1, "second")
        wait_in_line(server, 2)
        os.kill(stopped, signal.SIGSTOP)
        server.release(1)
        server.answered(others)
        for _ in range(5):
            others[0].ask(1, "more")
            server.answered(others[:1], len(others[0].answers) + 1)
        os.kill(stopped, signal.SIGCONT)
        server.answered(its[:1])
        ends_empty(server)


@over("blocking", "level", "edge eager", "oneshot threads=12", "poll", "select", "level processes=3")
def a_fork_while_requests_wait(style):
    with Answerer(style, "total-requests=1") as server:
        crowd = server.crowd(6)
        first = held(server, action="fork=300")
        for client in crowd:
            client.ask(2, "waits")
        wait_in_line(server, 6)
        server.release(1)
        server.answered([first, *crowd])
        for client in crowd:
            client.ask(2, "again")
        server.answered(crowd, 2)
        assert server.counted("children") == 1 and server.counted("peak") == 1
        ends_empty(server)


@over("level", "edge eager", "oneshot threads=12", "poll", "select eager", "level-blocking")
def the_program_closes_one_that_waits(style):
    with Answerer(style, "total-requests=1") as server:
        dropped, other = server.crowd(2)
        dropped.ask(0, "victim")
        server.answered([dropped])
        first = held(server, action="drop=victim")
        dropped.ask(1, "waits")
        wait_in_line(server, 1)
        other.ask(1, "waits")
        server.release(1)
        server.answered([first, other])
        server.pump(lambda: dropped.ended, "the end of who was dropped")
        assert dropped.statuses() in ([200], [200, 503]), dropped.answers
        # Its number is another's.
        crowd = server.crowd(4)
        for client in crowd:
            client.ask(1, "new")
        server.answered(crowd)
        ends_empty(server)


@over("level", "level eager", "edge eager", "edge")
def one_that_waits_is_taken_out_of_the_set_and_put_back(style):
    with Answerer(style, "total-requests=1") as server:
        taken, other = server.crowd(2)
        taken.ask(0, "taken")
        server.answered([taken])
        first = held(server, action="off=taken")
        taken.ask(1, "waits")
        wait_in_line(server, 1)
        server.release(1)
        server.answered([first])
        other.ask(1, "goes", action="on=taken")
        server.answered([other])
        server.answered([taken], 2)
        taken.ask(0, "taken")
        server.answered([taken], 3)
        first.ask(tag="holder", until=2, action="mod=taken")
        becomes(server, inside=1)
        taken.ask(1, "waits")
        wait_in_line(server, 1)
        server.release(2)
        server.answered([first], 2)
        server.answered([taken], 4)
        ends_empty(server)


@over("blocking", "blocking timeout=20", "level", "edge eager", "oneshot threads=12", "workers threads=12", "poll", "select",
      "level processes=3", "prefork processes=12")
def limits_set_all_the_time(style):
    with Answerer(style, "total-requests=3") as server:
        crowd = server.crowd(12)
        settings = ("total-requests=1", "total-requests=5", "requests=2", "total-requests=2", "requests=off",
                    "request-rate=2000/4", "total-requests=4", "request-rate=off", "queue-delay=10s", "total-requests=3",
                    "queue-delay=off")
        stop = threading.Event()
        sets = []

        def set_on():
            while not stop.wait(0.02):
                server.set(settings[len(sets) % len(settings)])
                sets.append(time.monotonic())
        setter = threading.Thread(target=set_on, daemon=True)
        setter.start()
        try:
            overloaded(server, crowd, 3, 1.2)
        finally:
            stop.set()
            setter.join()
        answers = [answer for client in crowd for answer in client.answers]
        assert all(answer.status == 200 for answer in answers)
        assert server.counted("peak") <= 5, server.counted("peak")
        assert len(sets) > 5
        ends_empty(server)


def test_a_wait_in_line_times_out_as_SO_RCVTIMEO_says():
    with Answerer("blocking timeout=40", "total-requests=1") as server:
        client = Client(server)
        client.ask(0, "before")
        server.answered([client])
        first = held(server)
        before = server.counted("timed_out")
        harness.wait_until(lambda: server.counted("timed_out") > before, "a time-out of an idle read", PATIENCE)
        client.ask(0, "waits")
        wait_in_line(server, 1)
        before = server.counted("timed_out")
        harness.wait_until(lambda: server.counted("timed_out") > before + 2, "time-outs in line", PATIENCE)
        server.release(1)
        server.answered([first, client])
        ends_empty(server)


@over("blocking", "blocking restarting")
def a_signal_in_line(style):
    """Bare, it interrupts a read that waits, unless its handler restarts calls."""
    with Answerer(style, "total-requests=2", "exempt-request=/healthz") as server:
        client, other = server.crowd(2)
        interrupts = "restarting" not in style
        client.ask(0, "signalled")
        server.answered([client])
        first = held(server, until=9)
        server.set("total-requests=1")
        for number in (1, 2):  # in a read that has nothing to read; in one that waits for its turn
            if number == 2:
                client.ask(0, "waits")
                wait_in_line(server, 1)
            other.ask(0, "healthy", path="/healthz", action="signal=signalled")
            server.answered([other], number)
            becomes(server, handled=number, interrupted=number * interrupts)
            time.sleep(0.01)  # it is in its read again, mostly: else that finds the request at once
        server.release(9)
        server.answered([first])
        server.answered([client], 2)
        ends_empty(server)


@over("blocking", "blocking timeout=10000", "blocking reading=readv")
def a_thread_that_is_cancelled_in_line(style):
    with Answerer(style, "total-requests=1", "exempt-request=/healthz") as server:
        client, idle, other = server.crowd(3)
        client.ask(0, "victim")
        idle.ask(0, "idle")
        server.answered([client, idle])
        first = held(server)
        client.ask(0, "waits")
        wait_in_line(server, 1)
        for number, (tag, victim) in enumerate((("victim", client), ("idle", idle))):
            other.ask(0, "healthy", path="/healthz", action=f"cancel={tag}")
            server.answered([other], number + 1)
            server.pump(lambda gone=victim: gone.ended, "the end of who was cancelled")
        server.comes_to(waiting=0)
        server.release(1)
        server.answered([first])
        other.ask(0, "after")
        server.answered([other], 3)
        becomes(server, cancelled=2)
        ends_empty(server)


@over("blocking", "level", "edge eager", "oneshot threads=12", "workers threads=12", "poll", "select", "level processes=3",
      "forking")
def limits_set_on_connections_that_were_used(style):
    with Answerer(style, "conns=1000") as server:
        crowd = server.crowd(10)
        for count in (1, 2):
            for client in crowd:
                client.ask(1, "free")
            server.answered(crowd, count)
        server.set("total-requests=1")
        for client in crowd:
            client.ask(1, "learnt")
        server.answered(crowd, 3)
        server.forget_peak()
        for client in crowd:
            client.ask(3, "counted")
        server.answered(crowd, 4)
        assert server.counted("peak") == 1, server.counted("peak")
        server.set("total-requests=off")
        for client in crowd:
            client.ask(tag="free", until=1)
        becomes(server, inside=10)
        server.release(1)
        server.answered(crowd, 5)


@over("workers eager", "workers", "blocking")
def a_place_comes_back_while_the_loop_sleeps(style):
    """Where another thread answers than the one that waits: nothing wakes that for the end of a request."""
    with Answerer(style, "total-requests=1", "when-full=busy") as server:
        crowd = server.crowd(4)
        for number in range(12):
            client = crowd[number % 4]
            client.ask(5, "lonely")
            server.answered([client], number // 4 + 1)
            assert client.answers[-1].status == 200, (number, client.answers[-1], server.show())
            # The answer may be here before the write that sent it has returned to its thread.
            server.comes_to(in_flight=0)
        ends_empty(server)


@over("workers eager processes=2")
def a_place_comes_back_to_another_process(style):
    with Answerer(style, "total-requests=1") as server:
        _, crowds = in_two_processes(server, 2)
        for number in range(8):
            client = crowds[number % 2][0]
            client.ask(5, "lonely")
            server.answered([client], number // 2 + 1)
        ends_empty(server)


@over("level processes=3", "edge processes=3 eager", "workers processes=3 threads=4", "poll processes=3")
def ceilings_of_each_process(style):
    with Answerer(style, "requests=2") as server:
        _, crowds = in_two_processes(server, 5)
        for client in (*crowds[0], *crowds[1]):
            client.ask(tag="own", until=1)
        becomes(server, inside=4)
        wait_in_line(server, 6)
        assert server.counted("peak") == 4
        server.release(1)
        server.answered([*crowds[0], *crowds[1]])
        assert max(client.answers[-1].own for client in (*crowds[0], *crowds[1])) == 2
        ends_empty(server)


@over(*ALL)
def exempt_requests_go_by(style):
    with Answerer(style, "total-requests=1", "exempt-request=/healthz") as server:
        client, probe = server.crowd(2)
        first = held(server)
        client.ask(1, "waits")
        wait_in_line(server, 1)
        for number in range(3):
            probe.ask(0, "probe", path="/healthz")
            server.answered([probe], number + 1)
        assert not client.answers
        server.release(1)
        server.answered([first, client])
        server.comes_to(in_flight=0, waiting=0, exempt=3)


@over("blocking", "level", "edge eager", "oneshot threads=4", "workers threads=4", "poll", "select", "level processes=3")
def nobody_is_shed_where_there_is_room(style):
    with Answerer(style, "total-requests=8", "queue-delay=10ms", "when-full=busy") as server:
        answers = load(server, clients=4, rounds=60, work_ms=0.5)
        shown = server.show()
        assert all(answer.status == 200 for answer in answers) and len(answers) == 240
        assert shown["shed_late"] == shown["shed_busy"] == 0, shown



if __name__ == "__main__":
    sys.exit(harness.run_tests(globals(), sys.argv[1:]))
