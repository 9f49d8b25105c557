#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Every include runs down, by the list in floors.txt, and no files use each other in a circle.

test_floors.py [TREE]. A .c file and its header are one room. What a floor may use is what stands before it; but
shim/ and bpf/ use nothing of each other, and nothing uses tests/.
"""
import os
import re
import subprocess
import sys

TREE = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)
# Made by the build, of what bpf/ has.
GENERATED = {"probe.skel.h"}


def floors():
    with open(os.path.join(TREE, "tests/unit/floors.txt")) as lines:
        return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def sources():
    if os.path.isdir(os.path.join(TREE, ".git")):
        listed = subprocess.run(["git", "-C", TREE, "ls-files", "-co", "--exclude-standard"], capture_output=True,
                                text=True, check=True).stdout.split()
    else:
        listed = [os.path.relpath(os.path.join(folder, name), TREE)
                  for top in ("shim", "bpf", "tools", "tests") for folder, _, names in os.walk(os.path.join(TREE, top))
                  for name in names]
    return sorted(name for name in listed if re.search(r"\.(c|h|def)$", name) and os.path.exists(os.path.join(TREE, name)))


def floor_of(name, order):
    for floor in sorted(order, key=len, reverse=True):
        if name.startswith(floor + "/"):
            return floor
    return None


def target_of(name, included):
    for base in (os.path.dirname(name), "shim"):
        path = os.path.normpath(os.path.join(base, included))
        if os.path.exists(os.path.join(TREE, path)):
            return path
    return None


def room_of(name):
    return name if name.endswith(".def") else os.path.splitext(name)[0]


def find_circles(arrows):
    """Rooms that reach each other (Tarjan, 1972), more than one of them."""
    number, low, stack, circles = {}, {}, [], []

    def visit(room):
        number[room] = low[room] = len(number)
        stack.append(room)
        for other in sorted(arrows.get(room, ())):
            if other not in number:
                visit(other)
                low[room] = min(low[room], low[other])
            elif other in stack:
                low[room] = min(low[room], number[other])
        if low[room] == number[room]:
            at = stack.index(room)
            if len(stack) - at > 1:
                circles.append(sorted(stack[at:]))
            del stack[at:]

    for room in sorted(arrows):
        if room not in number:
            visit(room)
    return circles


def main():
    order = floors()
    complaints, arrows, checked = [], {}, 0
    for name in sources():
        floor = floor_of(name, order)
        if not floor:
            complaints.append(f"{name}: in a folder that floors.txt does not list")
            continue
        with open(os.path.join(TREE, name)) as text:
            included = INCLUDE.findall(text.read())
        for other in included:
            if os.path.basename(other) in GENERATED:
                continue
            target = target_of(name, other)
            if not target:
                complaints.append(f"{name}: includes {other}, which is nowhere")
                continue
            checked += 1
            below = floor_of(target, order)
            if not below or order.index(below) > order.index(floor):
                complaints.append(f"{name}: includes {target}, which is on a higher floor")
            elif floor == "bpf" and below != "bpf":
                complaints.append(f"{name}: includes {target}; bpf/ uses nothing of the others")
            if room_of(target) != room_of(name):
                arrows.setdefault(room_of(name), set()).add(room_of(target))
    complaints += ["a circle: " + ", ".join(circle) for circle in find_circles(arrows)]
    for complaint in complaints:
        print(complaint)
    print(f"floors: {checked} includes, {len(complaints)} complaints")
    return 1 if complaints else 0


sys.exit(main())
