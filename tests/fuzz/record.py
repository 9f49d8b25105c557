#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""record.py PORT FILE COMMAND...    a client's conversation with the server at PORT, for tests and fuzzers

Runs the command with {port} replaced by that of a proxy, and writes the longest conversation of its connections to
FILE, as tests/fuzz/conversation.h describes it.
"""
import select
import socket
import struct
import subprocess
import sys
import threading

LONGEST = 0xffff


def relay(client, port, said):
    """Passes bytes on in both directions until one side closes, and puts down in `said` who said what, in order."""
    server = socket.create_connection(("127.0.0.1", port))
    others = {client: (server, 0), server: (client, 1)}
    while True:
        for one in select.select(list(others), [], [])[0]:
            try:
                data = one.recv(LONGEST)
            except ConnectionResetError:
                data = b""
            other, is_server = others[one]
            if not data:
                other.shutdown(socket.SHUT_WR)
                return
            said.append((is_server, data))
            other.sendall(data)


def main(port, path, command):
    conversations, relays = [], []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = listener.getsockname()[1]

        def serve():
            while True:
                client = listener.accept()[0]
                conversations.append([])
                relays.append(threading.Thread(target=relay, args=(client, port, conversations[-1]), daemon=True))
                relays[-1].start()

        threading.Thread(target=serve, daemon=True).start()
        code = subprocess.call([part.replace("{port}", str(here)) for part in command])
        for one in relays:
            one.join()
        with open(path, "wb") as file:
            for is_server, data in max(conversations, key=lambda said: sum(len(data) for _, data in said)):
                file.write(struct.pack("<BH", is_server, len(data)) + data)
    return code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
