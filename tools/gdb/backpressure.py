# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""A control segment, as gdb sees it: of a process under the library, of its core, or of the file.

    gdb -p PID -x backpressure.py -ex backpressure-segment -batch
    gdb libbackpressure.so -x backpressure.py -ex 'backpressure-segment /dev/shm/backpressure.0/NAME' -batch

The layout is that of the library's debugging symbols. Nothing is written, and no entry is read that the service
has not used: reading one would bring its memory into being.
"""
import ipaddress
import os
import sys

import gdb

LIBRARY = "libbackpressure.so"
MAGIC = 0x3173736572706B62  # as in shim/segment.h
OFF = 2**64 - 1
AUTO = 2**64 - 2
WORDS = {"when-full": "when_full", "busy": "busy_reply", "jitter": "jitter", "pause-reads": "pause_reads"}


def plain(kind):
    return kind.strip_typedefs()


class Part:
    """A part of the segment: its type, and where it lies. Read when a number of it is asked for."""

    members = {}  # of each structure, by its name: type and offset

    def __init__(self, read, kind, offset=0):
        self.read, self.kind, self.offset = read, plain(kind), offset

    def __getattr__(self, name):
        tag = self.kind.tag
        if tag not in Part.members:
            Part.members[tag] = {field.name: (field.type, field.bitpos // 8) for field in self.kind.fields()}
        if name not in Part.members[tag]:
            raise gdb.GdbError(f"struct {tag} has no {name}: this script is of another version than the library")
        kind, offset = Part.members[tag][name]
        return Part(self.read, kind, self.offset + offset)

    def __getitem__(self, index):
        element = self.kind.target()
        return Part(self.read, element, self.offset + index * element.sizeof)

    def __len__(self):
        low, high = self.kind.range()
        return high - low + 1

    def bytes(self):
        return self.read(self.offset, self.kind.sizeof)

    def __int__(self):
        return int.from_bytes(self.bytes(), sys.byteorder)

    def numbers(self, count=None):
        """All of an array, or so many from its beginning."""
        size = self.kind.target().sizeof
        data = self.read(self.offset, self.kind.sizeof if count is None else count * size)
        return [int.from_bytes(data[i:i + size], sys.byteorder) for i in range(0, len(data), size)]

    def text(self):
        """It may be anything: another user's process may have written it."""
        return self.bytes().split(b"\0")[0].decode("ascii", "replace").encode("unicode_escape").decode()


class Library:
    """The library's debugging symbols."""

    def __init__(self):
        loaded = [file for file in gdb.objfiles() if os.path.basename(file.filename or "") == LIBRARY]
        if not loaded:
            raise gdb.GdbError(f"{LIBRARY} is not loaded: start the program under it, or name it as gdb's program")
        self.file = loaded[0]
        self.service = self.file.lookup_global_symbol("service")
        if self.service is None:
            raise gdb.GdbError(f"{self.file.filename} has no debugging symbols: build it with -g, and do not strip it")
        block = self.service.symtab.static_block()
        self.type = lambda name: gdb.lookup_type(name, block)
        self.segment = plain(dict((f.name, f.type) for f in plain(self.service.type).fields())["segment"]).target()

    def names(self, enum, prefix):
        """The constants of an enum by their numbers, in lower case and without the prefix."""
        return {field.enumval: field.name[len(prefix):].lower() for field in self.type(f"enum {enum}").fields()
                if field.name.startswith(prefix)}

    def kinds(self):
        """How the value of each limit is stored."""
        rows = self.file.lookup_global_symbol("limit_rows").value()
        names = self.names("limit_kind", "KIND_")
        low, high = plain(rows.type).range()
        return [names.get(int(rows[i]["kind"]), "") for i in range(low, high + 1)]


def live(library):
    address = int(library.service.value()["segment"])
    inferior = gdb.selected_inferior()
    return lambda offset, length: bytes(inferior.read_memory(address + offset, length))


def of_file(path):
    try:
        file = open(path, "rb")  # pylint: disable=consider-using-with
    except OSError as why:
        raise gdb.GdbError(f"{path}: {why.strerror}") from why

    def read(offset, length):
        file.seek(offset)
        return file.read(length).ljust(length, b"\0")

    return read


def size(value):
    for unit, name in ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")):
        if value and value % unit == 0:
            return f"{value // unit}{name}"
    return str(value)


def limit(kind, value):
    """A value for people; not always as it was typed."""
    pair = value >> 32, value & 0xFFFFFFFF
    if value == OFF:
        return "off"
    if kind == "ceiling" and value >> 62 == 2:
        return f"auto:{value >> 31 & 0x7FFFFFFF}..{value & 0x7FFFFFFF}"
    if value == AUTO:
        return "auto"
    if kind == "size":
        return size(value)
    if kind == "time":
        return f"{value / 1e6:g}ms"
    if kind == "times":
        return f"{pair[0]}ms..{pair[1]}ms"
    if kind in ("rate", "seconds"):
        return f"{pair[0]}/{pair[1]}" if kind == "rate" else f"{pair[0]}..{pair[1]}"
    return str(value)


class Segment:
    """What is printed of one."""

    def __init__(self, library, read):
        self.library, self.all = library, Part(read, library.segment)
        if int(self.all.magic) != MAGIC:
            raise gdb.GdbError("that is no control segment, or it was overwritten")
        tables = {name: number for number, name in library.names("growing_table", "GROWING_").items()}
        self.ready = {name: int(self.all.ready[number]) for name, number in tables.items() if name != "tables"}
        self.keys = library.names("limit_key", "LIMIT_")
        self.counters = library.names("counter", "COUNTER_")
        self.pids = {}

    def used(self, table, count):
        return range(min(count, self.ready[table], len(getattr(self.all, {"processes": "process", "conns": "conn",
                                                                          "listeners": "listener"}[table]))))

    def header(self):
        switches = self.library.names("admission_switch", "ADMISSION_")
        print(f"segment {self.all.path.text()}, version {int(self.all.version)}: "
              f"{int(self.all.conns.word) & 0xFFFFFFFF} connections, "
              f"admission {switches.get(int(self.all.admission), '?')}")

    def limits(self):
        values, kinds = self.all.limit.numbers(), self.library.kinds()
        print("limits:")
        for number, key in sorted(self.keys.items()):
            if number >= len(kinds):
                continue
            name, value = key.replace("_", "-"), limit(kinds[number], values[number])
            if name in WORDS:
                enum = WORDS[name]
                value = self.library.names(enum, enum.split("_reply")[0].upper() + "_").get(values[number], value)
            print(f"  {name}={value}")

    def processes(self):
        phases = self.library.names("process_phase", "PROCESS_")
        totals = self.all.retired.numbers()
        print("processes:")
        for index in self.used("processes", int(self.all.processes_used)):
            process = self.all.process[index]
            identity = int(process.identity)
            phase, pid = phases.get(identity >> 32 & 0xFF, "?"), identity & 0xFFFFFFFF
            counted = process.counter.numbers()
            totals = [a + b for a, b in zip(totals, counted)]
            if phase == "free" and not any(counted):
                continue
            if phase == "reaping":
                pid = 0  # the word says who reaps
            self.pids[index] = pid
            own = [f"{self.keys[key].replace('_', '-')}" for key in self.keys
                   if int(process.override_mask) >> key & 1]
            print(f"  {index}: pid {pid} {phase} {process.command.text()}: {int(process.conns.word) & 0xFFFFFFFF} conns, "
                  f"{int(process.outbound.word) & 0xFFFFFFFF} outbound, "
                  f"{int(process.credit.word) & 0xFFFFFFFF} KiB granted, pending {int(process.pending)}"
                  + (f", limits of its own: {' '.join(own)}" if own else ""))
        print("counters:")
        for number, name in sorted(self.counters.items()):
            if number < len(totals):
                print(f"  {name} {totals[number]}")

    def connections(self):
        phases = self.library.names("conn_phase", "CONN_")
        print("connections:")
        used = self.used("conns", int(self.all.conns_used))
        for slot, state in enumerate(self.all.conn_state.numbers(len(used))):
            if not state & 3:
                continue
            conn = self.all.conn[slot]
            holders = [int(conn.holders) >> shift & 0xFFFF for shift in (0, 16, 32, 48)]
            held_by = " ".join(str(self.pids.get(holder - 1, f"process {holder - 1}")) for holder in holders if holder)
            print(f"  slot {slot} generation {state >> 2} {phases.get(state & 3)}: held by {held_by or 'nobody'}, "
                  f"inode {int(conn.inode)}, peer {int(conn.peer) - 1 if int(conn.peer) else 'none'}, "
                  f"grant {int(conn.grant)} KiB, flags {int(conn.flags):#x}")

    def listeners(self):
        print("listeners:")
        for index in self.used("listeners", int(self.all.listeners_used)):
            entry = self.all.listener[index]
            held = [64 * i + bit for i, word in enumerate(entry.holders.numbers()) for bit in range(64) if word >> bit & 1]
            if not held:
                continue
            print(f"  {index}: {entry.address.text()}, cookie {int(entry.cookie)}, held by "
                  f"{' '.join(str(self.pids.get(holder, f'process {holder}')) for holder in held)}, "
                  f"gate {'shut' if int(entry.gated) else 'open'}")

    def peers(self):
        print("peers:")
        step = len(self.all.peer) // (len(self.all.peers_ready) * 64)
        for first, there in enumerate(self.all.peers_ready.numbers()):
            for index in (64 * step * first + step * bit + i for bit in range(64) if there >> bit & 1 for i in range(step)):
                peer = self.all.peer[index]
                count = int(peer.conns.word) & 0xFFFFFFFF
                if not count:
                    continue
                address = ipaddress.IPv6Address(b"".join(word.to_bytes(8, "big") for word in peer.key.numbers()))
                print(f"  {index}: {address.ipv4_mapped or address} {count}")

    def show(self):
        self.header()
        self.limits()
        self.processes()
        self.connections()
        self.listeners()
        self.peers()


class ShowSegment(gdb.Command):
    """backpressure-segment [FILE]: what the control segment of this process, or of a file, has in it.

Its limits, counters, processes, connections that are open, listeners, and clients' addresses."""

    def __init__(self):
        super().__init__("backpressure-segment", gdb.COMMAND_DATA, gdb.COMPLETE_FILENAME)

    def invoke(self, argument, from_tty):
        del from_tty
        library = Library()
        arguments = gdb.string_to_argv(argument)
        if len(arguments) > 1:
            raise gdb.GdbError("usage: backpressure-segment [FILE]")
        Segment(library, of_file(arguments[0]) if arguments else live(library)).show()


ShowSegment()
