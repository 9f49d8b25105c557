# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""MySQL's protocol, as far as tests need it: what libraries do not do, or hide. Each call returns the packets of the
server that answered, as (number, payload), after MariaDB's documentation of the protocol."""
import socket
import struct

LONG_PASSWORD, CONNECT_WITH_DB, LOCAL_FILES, PROTOCOL_41 = 1, 8, 1 << 7, 1 << 9
TRANSACTIONS, SECURE_CONNECTION, MULTI_STATEMENTS, MULTI_RESULTS = 1 << 13, 1 << 15, 1 << 16, 1 << 17
PLUGIN_AUTH, DEPRECATE_EOF = 1 << 19, 1 << 24
USUAL = (LONG_PASSWORD | PROTOCOL_41 | TRANSACTIONS | SECURE_CONNECTION | MULTI_STATEMENTS | MULTI_RESULTS |
         LOCAL_FILES | PLUGIN_AUTH)
IN_TRANSACTION, MORE_RESULTS, CURSOR_EXISTS = 1, 8, 0x40
LONGEST = 0xffffff
QUERY, PING, PREPARE, EXECUTE, FETCH = 0x03, 0x0e, 0x16, 0x17, 0x1c


def numbered(data, at):
    """The length-encoded number at `at`, and where it ends."""
    first = data[at]
    width = {0xfc: 2, 0xfd: 3, 0xfe: 8}.get(first, 0)
    return (int.from_bytes(data[at + 1:at + 1 + width], "little") if width else first), at + 1 + width


class Refused(Exception):
    """An error of the server: its number, state and text."""

    def __init__(self, payload):
        self.number = int.from_bytes(payload[1:3], "little")
        self.state = payload[4:9].decode() if payload[3:4] == b"#" else ""
        super().__init__(self.number, self.state, payload[9:].decode(errors="replace"))


class Session:
    """A connection, logged in as root without a password."""

    def __init__(self, port, capabilities=USUAL, timeout=60):
        self.capabilities, self.status = capabilities, None
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pending = b""
        number, greeting = self.packet()
        if greeting[0] == 0xff:
            raise Refused(greeting)
        self.send(struct.pack("<IIB23x", capabilities, LONGEST, 33) + b"root\0\0mysql_native_password\0", number + 1)
        number, payload = self.packet()
        while payload[0] == 0xfe:  # another plugin: for an empty password its answer is empty
            self.send(b"", number + 1)
            number, payload = self.packet()
        if payload[0] == 0xff:
            raise Refused(payload)

    def close(self):
        self.socket.close()

    def send(self, payload, number=0):
        """One packet after the other, of at most LONGEST bytes."""
        packets = b""
        while True:
            part, payload = payload[:LONGEST], payload[LONGEST:]
            packets += struct.pack("<I", len(part) | number << 24) + part
            number = number + 1 & 0xff
            if len(part) < LONGEST:
                break
        self.socket.sendall(packets)

    def exactly(self, count):
        while len(self.pending) < count:
            more = self.socket.recv(65536)
            if not more:
                raise ConnectionError("closed")
            self.pending += more
        taken, self.pending = self.pending[:count], self.pending[count:]
        return taken

    def packet(self):
        header = int.from_bytes(self.exactly(4), "little")
        return header >> 24, self.exactly(header & LONGEST)

    def ends(self, payload):
        """Whether rows or definitions end here; takes the status from it."""
        if payload[0] == 0xff:
            raise Refused(payload)
        if payload[0] != 0xfe or len(payload) == LONGEST:
            return False
        self.take_status(payload)
        return True

    def take_status(self, payload):
        at = 3
        if payload[0] == 0 or len(payload) != 5:
            at = numbered(payload, numbered(payload, 1)[1])[1]
        self.status = int.from_bytes(payload[at:at + 2], "little")

    def until_end(self, packets):
        while True:
            packets.append(self.packet())
            if self.ends(packets[-1][1]):
                return

    def definitions(self, count, packets):
        for _ in range(count):
            packets.append(self.packet())
        if count and not self.capabilities & DEPRECATE_EOF:
            self.until_end(packets)

    def results(self):
        """All results of a command; an error is raised."""
        packets = []
        while True:
            packets.append(self.packet())
            payload = packets[-1][1]
            if payload[0] == 0xff:
                raise Refused(payload)
            if payload[0] == 0:
                self.take_status(payload)
            else:
                self.definitions(numbered(payload, 0)[0], packets)
                cursor = not self.capabilities & DEPRECATE_EOF and self.status & CURSOR_EXISTS
                if not cursor:
                    self.until_end(packets)
            if not self.status & MORE_RESULTS:
                return packets

    def command(self, code, payload=b""):
        self.send(bytes((code,)) + payload)

    def query(self, text):
        self.command(QUERY, text.encode())
        return self.results()

    def value(self, text):
        """The first column of the first row."""
        row = [payload for _, payload in self.query(text)][3 if not self.capabilities & DEPRECATE_EOF else 2]
        length, at = numbered(row, 0)
        return row[at:at + length].decode()

    def ping(self):
        self.command(PING)
        return self.results()

    def prepare(self, text):
        """The number of the statement, which takes no parameters or integers."""
        self.command(PREPARE, text.encode())
        packets = [self.packet()]
        payload = packets[0][1]
        if payload[0] == 0xff:
            raise Refused(payload)
        statement, columns, parameters = struct.unpack_from("<xIHH", payload)
        for count in (parameters, columns):
            self.definitions(count, packets)
        return statement

    def execute(self, statement, *values, cursor=False):
        """Binary protocol; the values are integers."""
        body = struct.pack("<IBI", statement, int(cursor), 1)
        if values:
            body += bytes((len(values) + 7) // 8) + b"\1" + b"\x08\0" * len(values)
            body += b"".join(struct.pack("<q", value) for value in values)
        self.command(EXECUTE, body)
        return self.results()

    def fetch(self, statement, rows):
        self.command(FETCH, struct.pack("<II", statement, rows))
        packets = []
        self.until_end(packets)
        return packets
