#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The segment lies as layout.txt says, for the version that it says: processes of other builds map the same file.

    test_layout.py              compares the library that was built (BUILD) with layout.txt
    test_layout.py --write      writes layout.txt, for a new SEGMENT_VERSION
    test_layout.py --write --unreleased      also for the version that it has, which no release had yet

Each structure is listed with the offset and size of each member, and the numbers of what is counted, told and limited:
one that moved means something else. gdb reads them from the library's debugging symbols.
"""
import difflib
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
TABLE = os.path.join(HERE, "layout.txt")
HEADER = os.path.join(ROOT, "shim", "segment", "layout.h")
LIBRARY = os.path.join(os.environ.get("BUILD", os.path.join(ROOT, "build")), "libbackpressure.so")
LICENCE = "# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause\n"
PURPOSE = "# Written by test_layout.py --write: where the parts of the segment lie (offset, size).\n"

# What gdb runs: every structure that the segment is made of, outermost first.
DESCRIBE = """
def describe(kind, seen):
    kind = kind.strip_typedefs()
    if kind.code == gdb.TYPE_CODE_ARRAY:
        return describe(kind.target(), seen)
    if kind.code != gdb.TYPE_CODE_STRUCT or kind.tag in seen:
        return
    seen.add(kind.tag)
    print("struct", kind.tag, kind.sizeof)
    for member in kind.fields():
        print("   ", member.name, member.bitpos // 8, member.type.sizeof)
    for member in kind.fields():
        describe(member.type, seen)

describe(gdb.lookup_type("struct segment"), set())
for name in "enum counter", "enum event_kind", "enum limit_key":
    print(name)
    for value in gdb.lookup_type(name).fields():
        print("   ", value.name, value.enumval)
"""


def version():
    with open(HEADER, encoding="utf-8") as header:
        return int(re.search(r"^#define SEGMENT_VERSION (\d+)$", header.read(), re.M)[1])


def layout():
    told = subprocess.run(["gdb", "-nx", "-batch", LIBRARY, "-ex", "python exec(" + repr(DESCRIBE) + ")"],
                          capture_output=True, text=True, timeout=120, check=False)
    if not told.stdout.startswith("struct segment "):
        sys.exit(f"layout: gdb says nothing of {LIBRARY}, which needs -g: {told.stderr.strip()}")
    return f"version {version()}\n" + told.stdout


def table():
    if not os.path.exists(TABLE):
        return "version 0\n"
    with open(TABLE, encoding="utf-8") as lines:
        return "".join(line for line in lines if not line.startswith("#"))


def main(options):
    now, before = layout(), table()
    if now == before:
        print(f"layout: {now.count(chr(10))} lines, as in layout.txt")
        return 0
    same_version = now.split("\n")[0] == before.split("\n")[0]
    if "--write" in options and (not same_version or "--unreleased" in options):
        with open(TABLE, "w", encoding="utf-8") as out:
            out.write(LICENCE + PURPOSE + now)
        return 0
    sys.stdout.writelines(difflib.unified_diff(before.splitlines(True), now.splitlines(True), "layout.txt", "the library", n=1))
    print("FAILED: the segment's layout changed" +
          (": raise SEGMENT_VERSION, once between two releases" if same_version else "") +
          "; then " + os.path.relpath(__file__) + " --write" + (" --unreleased" if same_version else ""))
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
