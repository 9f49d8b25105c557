#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Real servers of HTTP under ceilings on requests that move 50 times a second: what clients put arrives as it was
sent, what they get is what is there, in the order in which they asked, however their bytes come.

    test_requests_http.py [NAME]...      only tests whose name contains one of these
"""
import contextlib
import functools
import random
import shutil
import socket
import struct
import subprocess
import sys
import threading

from harness import Skipped, run_tests
from http_service import MEGABYTE, SERVERS, Client, Service, content, get, put, put_and_got, wait_until

LARGEST = 100 * MEGABYTE
# A ceiling of `auto` would bring a queue-delay with it, and late requests are refused.
HOLD = ["total-requests=2", "queue-delay=off"]

# --- what clients do ---

def bodies(service, draw, own):
    """0 to 100 MB, with a length and in chunks."""
    sizes = [0, 1, 2, 100, 4095, 4096, 4097, 16384, 65535, 65536, 300000, MEGABYTE, 10 * MEGABYTE]
    with Client(service.port) as client:
        for i, size in enumerate(sizes):
            body = content(draw, size)
            put_and_got(client, f"{own}a{i}", body, put(f"{own}a{i}", body))
            put_and_got(client, f"{own}b{i}", body, put(f"{own}b{i}", body, draw))
        body = content(draw, LARGEST)
        put_and_got(client, own + "large", body, put(own + "large", body))


def expect(service, draw, own):
    """100-continue: the body goes when the server says so."""
    with Client(service.port) as client:
        for i in range(20):
            body = content(draw, draw.choice([1, 5000, 200000]))
            request = put(f"{own}e{i}", body, draw if i % 2 else None, "Expect: 100-continue")
            head, _, rest = request.partition(b"\r\n\r\n")
            client.send(head + b"\r\n\r\n")
            assert client.until(b"\r\n\r\n").split()[1] == b"100"
            client.send(rest)
            assert client.answer()[0] in (200, 201, 204)
            client.send(get(f"{own}e{i}"))
            assert client.answer()[2] == body


def pipelines(service, draw, own):
    """1 to 64 deep; sent in one piece while the answers are read."""
    for depth in [*range(1, 17), 23, 32, 48, 64]:
        with Client(service.port) as client:
            kept = [content(draw, draw.choice([0, 3, 700, 9000])) for _ in range(4)]
            for i, body in enumerate(kept):
                put_and_got(client, f"{own}p{depth}-{i}", body, put(f"{own}p{depth}-{i}", body))
            asked = [draw.randrange(4) for _ in range(depth)]
            sender = threading.Thread(target=client.send,
                                      args=(b"".join(get(f"{own}p{depth}-{i}") for i in asked),))
            sender.start()
            for i in asked:
                status, _, body = client.answer()
                assert status == 200 and body == kept[i], f"{depth} deep: {status}, {len(body)} of {len(kept[i])} bytes"
            sender.join()


def pipelined_bodies(service, draw, own):
    """Bodies and questions in turn, all at once."""
    for depth in (2, 5, 16):
        with Client(service.port) as client:
            kept = [content(draw, draw.choice([0, 10, 5000, 70000])) for _ in range(depth)]
            text = b"".join(put(f"{own}q{depth}-{i}", body, draw if i % 2 else None) + get(f"{own}q{depth}-{i}")
                            for i, body in enumerate(kept))
            sender = threading.Thread(target=client.send, args=(text,))
            sender.start()
            for body in kept:
                assert client.answer()[0] in (200, 201, 204)
                assert client.answer()[2] == body
            sender.join()


def split(service, draw, own):
    """Cut at every byte, and byte by byte."""
    body = b"\r\n\r\n0\r\n\r\nGET /"
    text = put(own + "s", body, random.Random(1)) + get(own + "s") + put(own + "t", body) + get(own + "t")
    with Client(service.port) as client:
        pieces = [[text[:cut], text[cut:]] for cut in range(1, len(text))]
        draw.shuffle(pieces)
        for cut in [*pieces[:150], [text[i:i + 1] for i in range(len(text))]]:
            client.send_pieces(cut)
            for want in (None, body, None, body):
                status, _, found = client.answer()
                assert status in (200, 201, 204) and (want is None or found == want), (status, found)


def half_closed(service, draw, own):
    """Clients that shut their side down behind what they asked hear all of the answers."""
    body = content(draw, 50000)
    with Client(service.port) as client:
        put_and_got(client, own + "h", body, put(own + "h", body))
    for depth in (1, 2, 8):
        with Client(service.port) as client:
            client.send(get(own + "h") * depth)
            client.socket.shutdown(socket.SHUT_WR)
            for _ in range(depth):
                assert client.answer()[2] == body
            assert not client.more()


GARBAGE = [b"\x16\x03\x01\x02\x00\x01\x00\x01", b"\0" * 64, b"NOT HTTP\r\n\r\n", b"GET\r\n\r\n",
           b"GET / HTTP/1.1\r\nHost: a\r\nA B\r\n\r\n", b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
           b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
           b"PUT /g HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
           b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n"]


def heard(port, text):
    """What the server says to it until it closes: the statuses."""
    with Client(port) as client:
        client.send(get("/") + text)
        client.socket.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while client.more():
                pass
        return [part.split()[0] for part in client.unread.split(b"HTTP/1.1 ")[1:] if part.split()]


# --- tests ---

def with_moving_limits(server, what, clients=1):
    """Clients do it side by side, each with names of its own, while the ceilings move."""
    failed = []

    def one(service, number):
        try:
            what(service, random.Random(number), f"/{number}")
        except Exception as error:  # pylint: disable=broad-except
            failed.append(error)

    with Service(server, HOLD) as service:
        service.moving()
        threads = [threading.Thread(target=one, args=(service, number)) for number in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        service.still.set()
        service.mover.join()
        if failed:
            raise failed[0]
        # The last ones end as the connections do.
        service.set("requests=off", "total-requests=4")
        wait_until(lambda: service.totals()["requests"]["in_flight"] == 0, "no request in flight")


def garbage(server):
    """It is the program's to refuse, in its own words."""
    with Service(server, None) as bare, Service(server, HOLD) as limited:
        limited.moving()
        for text in GARBAGE:
            assert heard(limited.port, text) == heard(bare.port, text), text
        with Client(limited.port) as client:
            put_and_got(client, "/after", b"after", put("/after", b"after"))


def endless(server):
    """Those who never end their request leave room for others while they are fewer than the ceiling; a head that is not
    whole has no place at all."""
    with Service(server, ["total-requests=3"]) as service, contextlib.ExitStack() as open_clients:
        stuck = [open_clients.enter_context(Client(service.port)) for _ in range(14)]
        for client in stuck[:12]:
            client.send(b"PUT /never HTTP/1.1\r\nHost: a\r\nX-A: ")
        for client in stuck[12:]:
            client.send(b"PUT /never HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nand")
        with Client(service.port) as client:
            for i in range(20):
                body = content(random.Random(i), 1000)
                put_and_got(client, f"/n{i}", body, put(f"/n{i}", body))


def shed(server):
    """Above a ceiling that moves each question of a pipeline is answered in its place, by what it asked for or a 503."""
    draw = random.Random(5)
    with Service(server, ["total-requests=1", "when-full=busy", "retry-after=2..4"]) as service:
        kept = [content(draw, size) for size in (1, 900, 40000)]
        with Client(service.port) as client:
            for i, body in enumerate(kept):
                put_and_got(client, f"/r{i}", body, put(f"/r{i}", body))
        counted, lock = {200: 0, 503: 0}, threading.Lock()
        failed = []

        def one(seed):
            own = random.Random(seed)
            try:
                for _ in range(30):
                    with Client(service.port) as client:
                        asked = [own.randrange(3) for _ in range(own.choice([1, 2, 8, 30]))]
                        client.send(b"".join(get(f"/r{i}") for i in asked))
                        for i in asked:
                            status, fields, body = client.answer()
                            assert (status == 200 and body == kept[i]) or \
                                (status == 503 and int(fields[b"retry-after"]) in (2, 3, 4)), (status, len(body))
                            with lock:
                                counted[status] += 1
                            if fields.get(b"connection", b"").lower() == b"close":
                                break
            except Exception as error:  # pylint: disable=broad-except
                failed.append(error)

        service.moving()
        threads = [threading.Thread(target=one, args=(seed,)) for seed in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]
        assert counted[200] > 0, counted


def answered_early(server):
    """The rest of a body whose request was answered already, with an error, is no request: nobody answers it."""
    with Service(server, ["total-requests=1", "when-full=busy"]) as service:
        with Client(service.port) as first, Client(service.port) as client:
            put_and_got(first, "/kept", b"kept", put("/kept", b"kept"))
            body = content(random.Random(7), 300000)
            head, _, _ = put("/kept", body).replace(b"PUT", b"POST", 1).partition(b"\r\n\r\n")
            client.send(head + b"\r\n\r\n" + body[:1000])
            assert client.answer()[0] == 405
            wait_until(lambda: service.totals()["requests"]["in_flight"] == 0, "the end of what was answered")
            first.send(put("/more", b"12345678")[:-4])
            wait_until(lambda: service.totals()["requests"]["in_flight"] == 1, "a request that does not end")
            for at in range(1000, len(body), 29900):
                client.send_pieces([body[at:at + 29900]])
            client.send(get("/kept"))
            status, fields, _ = client.answer()
            assert status == 503 and b"connection" not in fields, (status, fields)
            first.send(b"5678" + get("/kept"))
            assert [first.answer()[0], first.answer()[2]] == [201, b"kept"]
            client.send(get("/kept"))
            assert client.answer()[2] == b"kept"


def streams(server):
    """What becomes a stream has no place any more, and its bytes are nobody's requests, whatever they look like."""
    text = get("/slow") + b"\x81\x05hello" + get("/slow")
    with Service(server, ["total-requests=1", "when-full=busy"]) as service, contextlib.ExitStack() as open_clients:
        def come():
            return open_clients.enter_context(Client(service.port))
        for ask, mark in ((get("/chat", "Upgrade: echo", "Connection: Upgrade"), b" 101 "),
                          (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", b" 200 ")) * 2:
            tunnel = come()
            tunnel.send(ask)
            assert mark in tunnel.until(b"\r\n\r\n")
            for _ in range(3):
                tunnel.send_pieces([text[:20], text[20:90], text[90:]])
                assert tunnel.exactly(len(text)) == text
        watchers = [come() for _ in range(3)]
        for watcher in watchers:
            watcher.send(get("/events"))
            assert watcher.until(b"\r\n\r\n").split()[1] == b"200"
            watcher.until(b"data: tick")
        wait_until(lambda: service.totals()["requests"]["in_flight"] == 0, "no request in flight")
        assert service.totals()["requests"]["streams"] == 7, service.totals()["requests"]
        client = come()
        for _ in range(5):
            client.send(get("/slow"))
            assert client.answer()[2] == b"slow"
        for watcher in watchers:
            watcher.until(b"data: tick")
        assert service.totals()["requests"]["shed_busy"] == 0


def gone(server):
    """Clients who give up while they wait leave nothing behind."""
    with Service(server, ["total-requests=1"]) as service, Client(service.port) as first:
        put_and_got(first, "/kept", b"kept", put("/kept", b"kept"))
        first.send(put("/more", b"12345678")[:-4])
        wait_until(lambda: service.totals()["requests"]["in_flight"] == 1, "a request that does not end")
        for i in range(20):
            with Client(service.port) as client:
                client.send(get("/kept") * (1 + i % 3))
                if i % 2:
                    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        waits = Client(service.port)
        waits.send(get("/kept"))
        first.send(b"5678")
        assert first.answer()[0] == 201
        assert waits.answer()[2] == b"kept"
        waits.socket.close()
        wait_until(lambda: service.totals()["requests"]["in_flight"] == 0, "no request in flight")


def curious(server):
    """What servers differ about is refused with its connection; curl goes on on the same one after a refusal."""
    with Service(server, ["total-requests=1", "when-full=busy"]) as service, Client(service.port) as first, \
            Client(service.port) as second:
        put_and_got(first, "/kept", b"kept", put("/kept", b"kept"))
        first.send(put("/more", b"12345678")[:-4])
        wait_until(lambda: service.totals()["requests"]["in_flight"] == 1, "a request that does not end")
        # Who was refused once waits the next time, while fewer do than are served: all others are refused.
        second.send(get("/kept"))
        assert second.answer()[0] == 503
        second.send(get("/kept"))
        wait_until(lambda: service.totals()["requests"]["waiting"] == 1, "a request that waits")
        smuggled = put("/kept", b"0\r\n\r\n" + get("/kept"), None, "Transfer-Encoding: chunked")
        with Client(service.port) as client:
            client.send(smuggled)
            status, fields, _ = client.answer()
            assert status == 503 and fields[b"connection"] == b"close"
            assert not client.more()
        with Client(service.port) as client:
            client.send(b"HEAD /kept HTTP/1.1\r\nHost: a\r\n\r\n")
            head = client.until(b"\r\n\r\n")
            assert head.split()[1] == b"503" and b"connection:" not in head.lower()
            client.send(get("/kept", "Connection: close"))
            status, fields, body = client.answer()
            assert status == 503 and fields[b"connection"] == b"close" and body
            assert not client.more()
        if not shutil.which("curl"):
            raise Skipped("curl is not installed")
        url = f"http://127.0.0.1:{service.port}/kept"
        said = subprocess.run(["curl", "-sv", url, url, "-I", url], capture_output=True, text=True, check=True)
        assert said.stderr.count("HTTP/1.1 503") == 3 and said.stderr.count("Re-using existing connection") == 2, said
        told = subprocess.Popen(["curl", "-s", "--retry", "20", "--retry-max-time", "50", url], stdout=subprocess.PIPE)
        wait_until(lambda: service.totals()["requests"]["shed_busy"] >= 8, "a refusal of its first try")
        first.send(b"5678")
        assert first.answer()[0] == 201
        assert second.answer()[2] == b"kept"
        assert told.communicate()[0].endswith(b"kept")


def by_the_programs_count(server):
    """The program itself never counts more inside than the highest ceiling that was in force."""
    highest = 4
    with Service(server, [f"total-requests={highest}"]) as service:
        def one():
            with Client(service.port) as client:
                for _ in range(25):
                    client.send(get("/slow"))
                    assert client.answer()[2] == b"slow"
        done, still = [], threading.Event()

        def counted():
            one()
            done.append(1)

        threads = [threading.Thread(target=counted) for _ in range(30)]
        for thread in threads:
            thread.start()
        mover = random.Random(3)
        while any(thread.is_alive() for thread in threads) and not still.wait(0.02):
            service.set(f"total-requests={mover.randint(1, highest)}")
        for thread in threads:
            thread.join()
        assert len(done) == len(threads)
        service.set(f"total-requests={highest}")
        with Client(service.port) as client:
            client.send(get("/most"))
            most = int(client.answer()[2])
        assert 1 <= most <= highest, f"{most} inside under a ceiling of {highest}"


def late_in_hand(server):
    """Threads that were already in their reads when others began to wait have read requests before they have places for
    them: those that wait too long are refused all the same, and never let in above the ceiling."""
    with Service(server, ["total-requests=1"]) as service, contextlib.ExitStack() as open_clients:
        all_clients = [open_clients.enter_context(Client(service.port)) for _ in range(52)]
        for client in all_clients:
            client.send(get("/most"))
            client.answer()
        idle = all_clients[12:]
        service.set("queue-delay=5ms")  # now that all are accepted
        enough, said = threading.Event(), set()

        def busy(client):
            while not enough.is_set():
                client.send(get("/slow"))
                client.answer()

        def refused():
            for client in idle:
                client.send(get("/slow"))
            said.update(client.answer()[0] for client in idle)
            return 503 in said

        with contextlib.ExitStack() as busy_clients:
            for client in all_clients[:12]:
                thread = threading.Thread(target=busy, args=(client,))
                thread.start()
                busy_clients.callback(thread.join)
            busy_clients.callback(enough.set)
            wait_until(refused, "a refusal of what was read")
        assert said <= {200, 503}, said
        service.set("queue-delay=off")  # or this one may be late, too
        idle[0].send(get("/most"))
        most = int(idle[0].answer()[2])
        assert most == 1, f"{most} inside under a ceiling of 1"


def tests():
    named = {}
    for server in SERVERS:
        for what, clients in ((bodies, 1), (expect, 3), (pipelines, 4), (pipelined_bodies, 4), (split, 3),
                              (half_closed, 3)):
            named[f"test_{server}_{what.__name__}"] = functools.partial(with_moving_limits, server, what, clients)
        for what in (garbage, endless, shed, gone, curious):
            named[f"test_{server}_{what.__name__}"] = functools.partial(what, server)
    named["test_nginx_answered_early"] = functools.partial(answered_early, "nginx")
    named["test_node_streams"] = functools.partial(streams, "node")
    for server in ("node", "python"):
        named[f"test_{server}_count"] = functools.partial(by_the_programs_count, server)
    named["test_python_late_in_hand"] = functools.partial(late_in_hand, "python")
    return named


if __name__ == "__main__":
    sys.exit(run_tests(tests(), sys.argv[1:]))
