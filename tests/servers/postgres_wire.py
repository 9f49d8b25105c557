# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""PostgreSQL's protocol, as far as tests need it: what libraries do not do, or hide. After its documentation's
"Message Formats"."""
import socket
import struct


class Refused(Exception):
    """An ErrorResponse: its SQLSTATE and text."""

    def __init__(self, body):
        fields = {part[:1]: part[1:].decode() for part in body.split(b"\0") if part}
        self.state = fields[b"C"]
        super().__init__(self.state, fields[b"M"])


def message(kind, body=b""):
    return kind + struct.pack(">I", len(body) + 4) + body


def simple(text):
    return message(b"Q", text.encode() + b"\0")


def parse(text, name=b""):
    return message(b"P", name + b"\0" + text.encode() + b"\0\0\0")


BIND = message(b"B", b"\0" * 8)
EXECUTE = message(b"E", b"\0" * 5)
SYNC, FLUSH = message(b"S"), message(b"H")


def series(*texts):
    """The statements in the extended protocol, with one Sync behind them."""
    return b"".join(parse(text) + BIND + EXECUTE for text in texts) + SYNC


class Session:
    """A connection, logged in without a password."""

    def __init__(self, port, user="postgres", timeout=60, **parameters):
        self.status, self.pending = None, b""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        parameters = {"user": user, "database": "postgres", **parameters}
        body = b"".join(f"{name}\0{value}\0".encode() for name, value in parameters.items()) + b"\0"
        self.send(struct.pack(">II", len(body) + 8, 3 << 16) + body)
        self.answer()

    def close(self):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def exactly(self, count):
        while len(self.pending) < count:
            more = self.socket.recv(65536)
            if not more:
                raise ConnectionError("closed")
            self.pending += more
        taken, self.pending = self.pending[:count], self.pending[count:]
        return taken

    def next(self):
        """One message: its type and body."""
        kind, length = struct.unpack(">cI", self.exactly(5))
        return kind, self.exactly(length - 4)

    def answer(self):
        """All up to ReadyForQuery; an error in it is raised then."""
        messages, refused = [], None
        while True:
            kind, body = self.next()
            if kind == b"E":
                refused = refused or Refused(body)
            messages.append((kind, body))
            if kind == b"Z":
                self.status = body.decode()
                break
        if refused:
            raise refused
        return messages

    def ask(self, data):
        self.send(data)
        return self.answer()

    def query(self, text):
        return self.ask(simple(text))

    def value(self, text):
        """The first column of the first row."""
        row = next(body for kind, body in self.query(text) if kind == b"D")
        length, = struct.unpack_from(">i", row, 2)
        return row[6:6 + length].decode()
