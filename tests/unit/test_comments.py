#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""What a comment names is there: files of this repository, functions, variables and constants, man pages.

A comment that names a file of Linux (fs/eventpoll.c) may name what is in it; other names that are not ours stand in
foreign_names.txt beside this, with where they are from. Also: every member of a structure is used somewhere.
"""
import os
import re
import subprocess
import sys

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
COMMENT = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
FILE_NAME = re.compile(r"(?<![\w/.*%-])((?:[\w.-]+/)*[\w-]+\.(?:c|h|def|py|sh|pml|bpf\.c))\b(?!\()")
IDENTIFIER = re.compile(r"(?<![\w$/.=<-])([A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)+)\b(?![\w*/]|\([1-8]\))|\b([a-z][a-z0-9_]*)\(\)")
LINUX_FILE = re.compile(r"(?<![\w/])(?:fs|net|kernel|lib|mm|include/(?:linux|net|uapi/linux))/[\w/]+\.[ch]\b")
MEMBER = re.compile(r"^\s+(?:_Atomic |const |volatile |struct \w+ |enum \w+ |union \w+ )*\w+[ *]+([^;(){}]*);", re.M)
HEADERS = ["/usr/include", "/usr/lib/gcc"]


def files():
    listed = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=False).stdout.split("\n")
    return [name for name in listed if os.path.isfile(f"{ROOT}/{name}")]


def read(name):
    with open(f"{ROOT}/{name}", encoding="utf-8", errors="replace") as file:
        return file.read()


def split(name, text):
    """Its comments, with the line each begins in, and the rest."""
    comments, code = [], text
    if name.endswith((".c", ".h", ".def")):
        for match in COMMENT.finditer(text):
            if match.group().startswith("/"):
                comments.append((text.count("\n", 0, match.start()) + 1, match.group()))
        code = COMMENT.sub(lambda match: " " if match.group().startswith("/") else match.group(), text)
    elif name.endswith((".py", ".sh")) or name == "Makefile":
        lines = text.split("\n")
        comments = [(i + 1, line) for i, line in enumerate(lines) if line.lstrip().startswith("#")]
        code = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    return comments, code


def known_to_headers(names):
    """Which of these the headers of this machine have."""
    known = set()
    names = sorted(names)
    for start in range(0, len(names), 200):
        pattern = r"\b(" + "|".join(names[start:start + 200]) + r")\b"
        found = subprocess.run(["grep", "-rhoE", pattern, *filter(os.path.isdir, HEADERS)], capture_output=True, text=True,
                               check=False).stdout
        known.update(found.split())
    return known


def foreign():
    lines = read("tests/unit/foreign_names.txt").split("\n")
    return {line.split()[0] for line in lines if line and not line.startswith("#")}


def check_comments(sources, complain):
    every = files()
    paths, bases = set(every), {os.path.basename(name) for name in every}
    words, wanted = set(), {}
    for name, (comments, code) in sources.items():
        words.update(re.findall(r"\w+", code))
        for line, comment in comments:
            if LINUX_FILE.search(comment):
                continue
            for match in FILE_NAME.finditer(comment):
                mentioned = match.group(1)
                places = (os.path.dirname(name), "shim", "")
                there = any(os.path.normpath(os.path.join(place, mentioned)) in paths for place in places)
                if not there and ("/" in mentioned or mentioned not in bases):
                    wanted.setdefault(mentioned, f"{name}:{line}")
            for match in IDENTIFIER.finditer(comment):
                wanted.setdefault(match.group(1) or match.group(2), f"{name}:{line}")
    words.update(os.path.splitext(base)[0] for base in bases)
    unknown = {word for word in wanted if word not in words} - foreign()
    unknown -= known_to_headers({word for word in unknown if re.fullmatch(r"\w+", word)})
    for word in sorted(word for word in unknown if not os.path.exists(f"/usr/include/{word}")):
        complain(f"{wanted[word]}: {word} is nowhere")


def check_members(sources, complain):
    """A member that is named in one place only, where it is declared, is never used."""
    count, declared = {}, {}
    for name, (_, code) in sources.items():
        if not name.endswith((".c", ".h")):
            continue
        for word in re.findall(r"\w+", code):
            count[word] = count.get(word, 0) + 1
        for body in re.finditer(r"\b(?:struct|union)(?: \w+)? \{(.*?)^\s*\}", code, re.S | re.M):
            for match in MEMBER.finditer(body.group(1)):
                for part in match.group(1).split(","):
                    member = re.match(r"[\s*]*(\w+)", part)
                    if member:
                        declared.setdefault(member.group(1), name)
    for member, name in sorted(declared.items()):
        if count.get(member, 0) < 2:
            complain(f"{name}: {member} is a member that nothing uses")


def main():
    sources = {name: split(name, read(name)) for name in files()
               if name.split("/")[0] in ("shim", "tools", "bpf", "tests", "Makefile")
               and (name.endswith((".c", ".h", ".def", ".py", ".sh")) or name == "Makefile")}
    complaints = []
    check_comments(sources, complaints.append)
    check_members(sources, complaints.append)
    for complaint in complaints:
        print(complaint)
    print(f"comments: {len(sources)} files, {len(complaints)} complaints")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
